"""Forge a ledger in every way that is known, and see which forgeries an audit finds.

    python benchmarks/forgeries.py --out benchmarks/results/forgeries.json

Each forgery changes a copy of one ledger on a tiny model. The copy is audited as it is, and with the end of the log
that was noted before (``--head``). What neither finds is listed with the reason, as docs/requests.md does.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.forged import FORGERIES, Forgery  # noqa: E402
from tests.small_ledger import furnished  # noqa: E402

from unsee import runs  # noqa: E402
from unsee.errors import UnseeError  # noqa: E402
from unsee.files import write_json  # noqa: E402
from unsee.ledger.audit import audit  # noqa: E402
from unsee.ledger.book import Ledger  # noqa: E402


def audited(ledger: Path, noted: str = "") -> list[str]:
    try:
        return audit(Ledger(ledger, reading=True), noted)[0]
    except UnseeError as error:
        return [str(error)]


def tried(forgery: Forgery, whole: Path, noted: str, copy: Path) -> dict[str, Any]:
    """What the audits of one forged ledger say."""
    shutil.copytree(whole, copy)
    forgery.forge(copy)
    alone = audited(copy)
    found = "audit" if alone else "head" if (held := audited(copy, noted)) else "nothing"
    said = alone or (held if found == "head" else [])
    shutil.rmtree(copy)
    return {
        "forgery": forgery.name, "found_by": found, "expected": forgery.needs or "audit", "reason": forgery.reason,
        "said": [line.replace(str(copy), "LEDGER") for line in said[:2]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        whole = furnished(Path(place))
        found, noted = audit(Ledger(whole, reading=True))
        if found:
            raise SystemExit(f"the honest ledger has findings: {found}")
        rows = [tried(forgery, whole, noted, Path(place) / "forged") for forgery in FORGERIES]
    wrong = [r["forgery"] for r in rows if r["found_by"] != {"later": "nothing"}.get(r["expected"], r["expected"])]
    write_json(out, {
        "command": f"python benchmarks/forgeries.py --out {out}", "commit": runs.revision(), "machine": runs.machine(),
        "seconds": round(time.perf_counter() - started, 1), "forgeries": len(rows),
        "found_by": dict(Counter(r["found_by"] for r in rows)), "not_as_expected": wrong, "rows": rows,
    })  # fmt: skip
    found_by = dict(Counter(r["found_by"] for r in rows))
    print(f"{out}: {len(rows)} forgeries, {found_by}, not as expected: {wrong or 'none'}")


if __name__ == "__main__":
    main()
