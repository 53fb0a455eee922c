"""Give every reader of strangers' files spoilt inputs, guided by the code they reach (atheris).

    pip install -e '.[dev,fuzz]'
    python benchmarks/fuzz.py --inputs 1000000

Each target of tests/fuzz_targets.py runs in a process of its own, over its honest inputs and what libFuzzer makes of
them. One that raises anything but UnseeError, takes more than 10 s or 2 GiB, or hangs, ends the run, and its input is
kept in --findings. Writes benchmarks/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS, MEBIBYTES = 10, 2048  # the most that one input may take
LONGEST = 65536  # bytes of an input
COUNTED = {"inputs": "number_of_executed_units", "peak_mib": "peak_rss_mb", "slowest_s": "slowest_unit_time_sec"}


def child(name: str, options: list[str]) -> None:
    """One target, until libFuzzer has had enough. Nothing else of the package is imported before."""
    import atheris

    with atheris.instrument_imports(include=["unsee"]):
        from tests.fuzz_targets import TARGETS

        from unsee.errors import UnseeError
    import torch

    torch.set_num_threads(1)
    target = next(t for t in TARGETS if t.name == name)
    with tempfile.TemporaryDirectory() as scratch:
        seeds, run = target.make(Path(scratch))
        corpus = Path(os.environ["CORPUS"])
        last = mapped(Path(os.environ["LAST"]))
        for number, seed in enumerate(seeds):
            (corpus / f"{number}").write_bytes(seed)

        def once(data: bytes) -> None:
            last[:8] = len(data).to_bytes(8, "little")
            last[8 : 8 + len(data)] = data
            with suppress(UnseeError):
                run(data)

        atheris.Setup([sys.argv[0], str(corpus), *options], once)
        atheris.Fuzz()


def mapped(file: Path) -> mmap.mmap:
    """The input that is being read, which outlives a process that a signal ends before libFuzzer can save it."""
    file.write_bytes(bytes(8 + LONGEST))
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 0)


def fuzz(name: str, runs: int, seed: int, findings: Path) -> dict[str, Any]:
    """What libFuzzer counted. The process of the target ends this one where it found something."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        options = [
            f"-runs={runs}", f"-seed={seed}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEBIBYTES}", "-len_control=0",
            f"-max_len={LONGEST}", "-print_final_stats=1", f"-artifact_prefix={findings / name}-",
        ]  # fmt: skip
        last = Path(scratch) / "last"
        here = {"CORPUS": f"{corpus}", "LAST": f"{last}", "TMPDIR": scratch, "HF_HOME": f"{scratch}/hub"}
        here |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONWARNINGS": "ignore"}
        here |= {"OMP_NUM_THREADS": "1"}
        started = time.perf_counter()
        asked = [sys.executable, __file__, "--child", name, *options]
        done = subprocess.run(asked, cwd=ROOT, env=os.environ | here, capture_output=True, text=True, errors="replace")
        told = done.stdout + done.stderr
        if done.returncode:
            held = last.read_bytes()
            (findings / f"{name}-last").write_bytes(held[8 : 8 + int.from_bytes(held[:8], "little")])
            raise SystemExit(f"{told[-6000:]}\n{name}: exit {done.returncode}, see {findings}")
        found = {k: int(match[1]) for k, stat in COUNTED.items() if (match := re.search(rf"{stat}:\s+(\d+)", told))}
        return found | {"seconds": round(time.perf_counter() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--target", action="append", help="only this one; again for more")
    args = parser.parse_args()
    from tests.fuzz_targets import TARGETS

    from unsee import runs
    from unsee.files import write_json

    args.findings.mkdir(parents=True, exist_ok=True)
    chosen = [t for t in TARGETS if not args.target or t.name in args.target]
    whole = sum(t.cost**-0.5 for t in chosen)  # dear ones get fewer, not in proportion: cheap ones saturate
    shares = {t.name: round(args.inputs * t.cost**-0.5 / whole) + 1 for t in sorted(chosen, key=lambda t: -t.cost)}

    def one(name: str) -> dict[str, Any]:
        counted = fuzz(name, shares[name], args.seed, args.findings)
        print(name, counted, flush=True)
        return counted

    with ThreadPoolExecutor(args.jobs) as pool:
        found = dict(zip(shares, pool.map(one, shares), strict=True))
    if args.target:
        return
    shutil.rmtree(args.findings)
    command = f"python benchmarks/fuzz.py --inputs {args.inputs} --seed {args.seed}"
    result = {"command": command, "commit": runs.revision(), "machine": runs.machine()}
    result |= {"inputs": sum(f["inputs"] for f in found.values()), "limits": {"seconds": SECONDS, "mib": MEBIBYTES}}
    write_json(ROOT / "benchmarks" / "results" / "fuzz.json", result | {"targets": found})


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    else:
        main()
