"""A run is a folder: what was asked, what it was made from, what came out."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

import unsee
from unsee import hardware, processes
from unsee.api import Result
from unsee.concepts import Concept, Request
from unsee.data.images import FileImage
from unsee.files import new_folder, sha256, text_bytes, write_json
from unsee.memory import peak_memory


def write_run(
    out: Path, asked: Mapping[str, Any], request: Request, result: Result, statistics: Path | None, started: float
) -> None:
    """Write the new folder ``out``: config.yaml, manifest.json, metrics.json, patch/, undo/ and the statistics.

    All of it private, since most of it names or shows who is to be forgotten.
    """
    with new_folder(out, private=True) as folder:
        text = yaml.safe_dump(dict(asked), sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_bytes(text_bytes(text))
        write_json(folder / "metrics.json", figures(result))
        result.patch.save(folder / "patch")
        result.undo.save(folder / "undo")
        if statistics is None:
            result.moments.save(folder / "statistics.safetensors")
        write_json(folder / "manifest.json", manifest(asked, request, result, statistics, started))


def figures(result: Result) -> dict[str, Any]:
    """What was measured: the same for the same request, whatever the machine's load."""
    return {
        "forgotten": result.forgotten,
        "kept": result.kept,
        "left": {"mean": result.share, "worst": max(result.left.values())},
        "stopped": result.stopped,
        "certificates": result.certificates,
        "rank": result.rank,
        "history": result.history,
    }


def manifest(
    asked: Mapping[str, Any], request: Request, result: Result, statistics: Path | None, started: float
) -> dict[str, Any]:
    """What the run was made from and what it cost."""
    seconds = {"whole": time.perf_counter() - started, **result.cost}
    return {
        "unsee": unsee.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "inputs": {
            "visual_module": result.moments.meta["model"],
            **{kind: _images(getattr(request, kind)) for kind in ("forget", "retain", "neutral")},
            "statistics": sha256(statistics) if statistics else None,
        },
        "forgotten": dict(zip(result.patch.info["forgotten"], [c.id for c in request.forget], strict=True)),
        "seed": asked["seed"],
        "machine": machine(),
        "seconds": {k.removesuffix("_seconds"): round(v, 2) for k, v in seconds.items()},
        "peak_memory_mib": round(peak_memory() / 2**20),
    }


def machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "processor": hardware.processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
    }


def revision() -> str:
    """The commit of the source tree that runs; of an installed package its version."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        found = ""
    return found or unsee.__version__


def command_line(program: str) -> str:
    """The command line that runs ``program`` now, as a shell reads it."""
    return shlex.join([*shlex.split(program), *sys.argv[1:]])


def resolved(config: Any, **flags: Any) -> dict[str, Any]:
    """All flags of a command by name, ready for YAML; paths whole, what was not given left out."""
    plain = {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in flags.items()}
    return {k: v for k, v in plain.items() if v not in (None, "")} | asdict(config)


def _images(concepts: Sequence[Concept]) -> dict[str, Any]:
    """What was read of a folder, and how many files of each suffix were not."""
    unread: Counter[str] = Counter()
    for concept in concepts:
        unread.update(dict(concept.unread))
    return fingerprint_images(concepts) | {"unread": dict(sorted(unread.items()))}


def fingerprint_images(concepts: Sequence[Concept]) -> dict[str, Any]:
    """How many images, and one hash of their names and bytes."""
    images = [i for c in concepts for i in c.images]
    lines = [f"{i.id} {sha256(i.path)}" for i in images if isinstance(i, FileImage)]
    digest = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape"))
    return {"concepts": len(concepts), "images": len(images), "sha256": digest.hexdigest()}
