"""What leaves a ledger: the checkpoint to serve, a certificate for each released request, and the log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unsee import __version__
from unsee.errors import UnseeError
from unsee.files import new_folder, write_json
from unsee.ledger import gate
from unsee.ledger.audit import stacked, uncovered
from unsee.ledger.book import Ledger
from unsee.ledger.facts import hash_of_images
from unsee.ledger.requests import figures_of
from unsee.ledger.store import Entry
from unsee.report.certificate import write_certificate
from unsee.vision import patch as patches
from unsee.vision.patch import Trust, apply_patch, fingerprint


def export(ledger: Ledger, out: Path) -> list[str]:
    """Write the new folder ``out``; ids of the requests that are served as forgotten.

    model/ (the base with all released patches in it), patch/ (the same as one patch), certificates/ID.json and .html,
    log.jsonl. UnseeError: nothing is released, or something in the ledger is damaged.
    """
    with ledger.reading():
        ledger.refuse_forged()
        entries = ledger.store.entries("released")
        released = {e.turn for e in entries}
        turns = [t for t in ledger.store.turns() if t in released]
        if not turns:
            raise UnseeError("no request is released, so there is nothing to serve: unsee requests release.")
        before, after = stacked(ledger, turns)
        info: dict[str, Any] = {"method": "ledger", "turns": turns, "forgotten": [e.id for e in entries]}
        model, revision = ledger.model()
        if revision:
            info |= {"model": model, "revision": revision}
        patch, _ = patches.make(before, after, info)
        with new_folder(out) as folder:
            patch.save(folder / "patch")
            apply_patch(model, folder / "patch", folder / "model", Trust(code=ledger.trust))
            served = {"turns": turns, "changed": fingerprint(patch.tensors)}
            (folder / "certificates").mkdir()
            for entry in entries:
                found = certificate(ledger, entry, served)
                write_json(folder / "certificates" / f"{entry.id}.json", found)
                write_certificate(folder / "certificates" / f"{entry.id}.html", found, gate.MEANING)
            with (folder / "log.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in ledger.store.lines())
    return [e.id for e in entries]


def certificate(ledger: Ledger, entry: Entry, served: dict[str, Any]) -> dict[str, Any]:
    """What was done about one request, when, and what it showed. Names nobody."""
    lines, images = ledger.store.lines(entry.id), ledger.store.images(entry.id)
    forgotten = [line.body for line in lines if "patch" in line.body][-1]
    last = ledger.store.last()
    return {
        "request": entry.id,
        "state": entry.state,
        "concepts": len({i.concept for i in images}),
        "images": {"count": len(images), "sha256": hash_of_images(i.sha256 for i in images)},
        "steps": [{"event": line.event, "time": line.time, "line": line.number, "hash": line.hash} for line in lines],
        "base": ledger.told().begun.get("base"),
        "patch": entry.turn,
        "together": forgotten.get("together", [entry.id]),
        "served": served,
        "figures": figures_of(ledger, entry.id),
        "tolerances": {f: getattr(ledger.config_of(entry), most) for f, most in gate.TOLERANCES.items()},
        "versions": forgotten.get("versions", {}),
        "not_in_log": uncovered(ledger.told()),
        "log": {"line": last.number, "hash": last.hash} if last else {},
        "written_by": __version__,
    }
