"""Wall time and peak memory of the commands on checkpoints of true size, each in a process of its own.

    python benchmarks/realsize.py --shapes llava-1.5-7b,llava-1.5-7b-72b --folder ROOT --out FILE -- --steps 4 --batch 8

What follows ``--`` goes to ``unsee forget``. ROOT holds the checkpoints (benchmarks/shapes.py makes those that are not
there); without it they are made and removed. Eight images are forgotten and 32 retained (``--concepts``, four of each),
all drawn, ``--side`` pixels wide. FILE is written anew after each shape.

Of a process: ``peak_mib`` is its resident memory at most, files it maps included; ``anonymous_mib`` and ``file_mib``
are the most of either kind, looked at fifty times a second. ``ratio``: the peak over what no such run can do without
(visual weights in float32, Adam's two moments of what trains, second moments of its inputs). An interpreter that only
imports torch and transformers stands beside as ``baseline``; it is not taken off.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import shapes
import torch
import transformers
from safetensors import safe_open

from unsee.errors import NOT_TO_RELEASE
from unsee.files import write_json
from unsee.progress import say
from unsee.runs import command_line, revision
from unsee.vision.checkpoint import Checkpoint

SCALED = {"llava-1.5-7b-72b": ("llava-1.5-7b", 11.1)}  # the same visual module before 72.1 billion language weights
KINDS = ("forget", "retain")
VIEWS, SIDE = 4, 384  # images of a concept, and how many pixels wide they are
EVERY = 0.02  # seconds between two looks at a process
MIB = 2**20
STATUS = {"VmHWM": "peak_mib", "RssAnon": "anonymous_mib", "RssFile": "file_mib"}
BASELINE = [sys.executable, "-c", "import torch, transformers"]
UNSEE = [sys.executable, "-m", "unsee"]


def draw(concept: int, view: int, side: int = SIDE) -> PIL.Image.Image:
    """Soft coloured shapes that the concept decides, shifted, grown and lit as the view decides."""
    fixed, loose = np.random.default_rng(concept), np.random.default_rng([concept, view])
    shift, growth, light = loose.normal(0, 0.04, 2), loose.uniform(0.85, 1.15), loose.uniform(0.75, 1.1)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    canvas = np.ones((side, side, 1)) * fixed.uniform(0, 1, 3)
    for _ in range(6):
        centre, radii, colour = (
            fixed.uniform(0.15, 0.85, 2) + shift,
            fixed.uniform(0.08, 0.3, 2),
            fixed.uniform(0, 1, 3),
        )
        far = ((x - centre[0]) / radii[0] / growth) ** 2 + ((y - centre[1]) / radii[1] / growth) ** 2
        cover = np.exp(-(far**2))[:, :, None]
        canvas = canvas * (1 - cover) + colour * cover
    return PIL.Image.fromarray((np.clip(canvas * light, 0, 1) * 255).astype("uint8"))


def draw_folders(root: Path, counts: list[int], side: int) -> None:
    names = [kind for kind, count in zip(KINDS, counts, strict=True) for _ in range(count)]
    for concept, kind in enumerate(names):
        folder = root / kind / f"concept-{concept}"
        folder.mkdir(parents=True)
        for view in range(VIEWS):
            draw(concept, view, side).save(folder / f"{view}.jpg", quality=92)


def measure(command: list[str], limit: float = math.inf) -> dict[str, Any]:
    """Run ``command`` and watch its memory. A process that holds more than ``limit`` MiB is killed."""
    say(" ".join(command[1:]))
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        peaks, highest = watch(child, limit)
        row: dict[str, Any] = {"seconds": round(time.perf_counter() - started, 1), **peaks, "exit": child.returncode}
        row["peak_mib"] = max(row["peak_mib"], highest)
        said.seek(0)
        if child.returncode:
            row["error"] = said.read().strip().splitlines()[-5:]
    say(f"{row}")
    return row


def watch(child: subprocess.Popen[bytes], limit: float) -> tuple[dict[str, int], int]:
    """The most that ``child`` was seen to hold until its end, in MiB, and what the system says of the whole of it."""
    own, peaks = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, dict.fromkeys(STATUS.values(), 0)
    try:
        while child.returncode is None:
            peaks = {k: max(v, held) for (k, v), held in zip(peaks.items(), memory(child.pid), strict=True)}
            if peaks["peak_mib"] > limit:
                child.kill()
            time.sleep(EVERY)
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            child.returncode = os.waitstatus_to_exitcode(status) if done else None
    finally:
        if child.returncode is None:
            child.kill()
            child.wait()
    # Linux starts a process's own highest mark at what its parent held: below that it tells nothing.
    return peaks, usage.ru_maxrss // 1024 if usage.ru_maxrss > own else 0


def memory(pid: int) -> list[int]:
    """What a process holds now, in MiB, in the order of STATUS; zeros when it has just ended."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found = {key: value for key, _, value in lines}
    return [int(found.get(key, "0 kB").split()[0]) // 1024 for key in STATUS]


def checkpoint(root: Path, name: str) -> Path:
    folder = root / name
    if not (folder / "config.json").is_file():
        say(f"making {folder}")
        shape, scale = SCALED.get(name, (name, 1.0))
        shapes.make(shape, folder, scale)
    return folder


def row_of(name: str, folder: Path, scratch: Path, flags: list[str], limit: float) -> dict[str, Any]:
    """One checkpoint: both commands, and what forgetting cannot do without."""
    look, disk = shapes.weight_files(folder)
    row: dict[str, Any] = {"shape": name, "weights_bytes": look, "disk_bytes": disk, "flags": flags}
    checkpoint = Checkpoint.open(folder)
    row["visual_bytes"] = sum(e.end - e.start for e in map(checkpoint.entry, checkpoint.visual))
    row["inspect"] = measure([*UNSEE, "inspect", "--model", f"{folder}"], limit)
    run = scratch / f"run-{name}"
    given = [part for kind in KINDS for part in (f"--{kind}", f"{scratch / kind}")]
    asked = ["--model", f"{folder}", *given, "--out", f"{run}", "--region", "mean", *flags]
    row["forget"] = measure([*UNSEE, "forget", *asked], limit)
    if row["forget"]["exit"] in (0, NOT_TO_RELEASE):
        row["denominator"] = needed(folder, run)
        row["ratio"] = row["forget"]["peak_mib"] / row["denominator"]["mib"]
        row["ratio_anonymous"] = row["forget"]["anonymous_mib"] / row["denominator"]["mib"]
        row["run_seconds"] = json.loads((run / "manifest.json").read_text()).get("seconds")
    return row


def needed(folder: Path, run: Path) -> dict[str, Any]:
    """Visual weights in float32, Adam's state of the trained layers, and a second moment of each of their inputs."""
    visual = shapes.visual_parameters(shapes.skeleton(folder))
    trained = {n: visual[f"{n}.weight"] for n in json.loads((run / "metrics.json").read_text())["certificates"]}
    with safe_open(run / "statistics.safetensors", "pt") as file:
        keys = json.loads(file.metadata()["unsee"])["layers"]
    widths = {keys[n]: weight.shape[1] for n, weight in trained.items()}
    sizes = {
        "visual_weights": 4 * sum(p.numel() for p in visual.values()),
        "adam": 8 * sum(p.numel() for p in trained.values()),
        "moments": 8 * sum(d**2 for d in widths.values()),
    }
    parts = {f"{kind}_mib": size / MIB for kind, size in sizes.items()}
    return {"mib": sum(parts.values()), **parts, "trained_layers": len(trained), "inputs": len(widths)}


def machine() -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = {"cpu": platform.machine(), "cpus": os.cpu_count(), "memory_gib": round(pages / 2**30, 1)}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**found, "threads": torch.get_num_threads(), **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="llava-1.5-7b", help="with commas between; or the names of folders in ROOT")
    parser.add_argument("--folder", default="", help="ROOT")
    parser.add_argument("--concepts", type=int, nargs=2, default=[2, 8], help="to forget and to retain")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--limit", type=float, default=math.inf, help="GiB that a process may hold before it is killed")
    parser.add_argument("--out", required=True)
    parser.add_argument("flags", nargs="*")
    args, at = parser.parse_args(), revision()
    with tempfile.TemporaryDirectory() as place:
        scratch, limit = Path(place), 1024 * args.limit
        draw_folders(scratch, args.concepts, args.side)
        root = Path(args.folder or scratch / "models")
        root.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {"runs": [], "baseline": measure(BASELINE)}
        found["command"] = command_line("python benchmarks/realsize.py")
        images = {kind: VIEWS * count for kind, count in zip(KINDS, args.concepts, strict=True)}
        found |= {"commit": at, "images": images, "side": args.side, "machine": machine()}
        for name in args.shapes.split(","):
            found["runs"].append(row_of(name, checkpoint(root, name), scratch, args.flags, limit))
            write_json(args.out, found)


if __name__ == "__main__":
    main()
