"""Kill commands at random moments, and fill the disk at others; the same command again has to end as if nothing was.

    python benchmarks/faults.py --kills 300 --full 60

``forget``, ``apply``, ``requests run`` and ``requests export``. Each moment is drawn over the time that an unbroken run
takes. A command is broken up to three times and then given once more: what it writes has to be the bytes of the
unbroken run, and nothing else may lie there. After a kill the ledger is audited; at a full disk a command has to say so
in one line and to exit with 2. Children are forked from one process that has imported all, and killed by SIGKILL; a
disk is full where no file of the process may grow any more (RLIMIT_FSIZE), or none beyond some size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unsee import runs, tiny
from unsee.cli import main as unsee
from unsee.data import people
from unsee.data.study import PeopleStudy
from unsee.files import write_json
from unsee.ledger import audit, export, release, requests  # noqa: F401  (imported before all forks)
from unsee.ledger.book import Ledger

ROOT = Path(__file__).parent.parent
SETTINGS = "--steps 12 --batch 2 --stop 0 --most-left 9 --no-bf16 --replay 4"  # what a random model shows is not judged
TOLERANT = "--lookalikes 4 --most-left 9 --most-retained 9 --most-heldout 9 --most-earlier 9"
SHARES = {"forget": 0.35, "apply": 0.15, "requests run": 0.35, "requests export": 0.15}
MACHINES = ("seconds", "peak_memory_mib")  # of a manifest: what differs from run to run
DATABASE = ("ledger.db", "ledger.db-wal", "ledger.db-shm", "head.json", "lock")
BROKEN = 3  # times a command is broken at most before it may end


@dataclass
class Job:
    """A command, what it wrote, and what has to lie there before."""

    name: str
    flags: list[str]
    written: Callable[[], Any]
    begin: Callable[[], object] = lambda: None
    wanted: Any = None
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


def prepare(root: Path, waiting: int) -> None:
    """Images, a tiny random model, a run on it, a ledger with requests that wait, and one whose are released."""
    tiny.WIDTH, tiny.IMAGE_SIZE, tiny.VISION_LAYERS, tiny.LANGUAGE_LAYERS = 64, 36, 3, 1  # arithmetic is not at issue
    model, processor = tiny.build("llava", people.vocabulary())
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    study = PeopleStudy()
    asked, kept = study.split("forget_10")
    for concept in study.concepts(kept[:4], 2):
        draw(root / "others" / concept.id, concept.images)
    shutil.copytree(root / "others", root / "keep")
    for concept in study.concepts(asked[:waiting], 4):
        draw(root / "asked" / concept.id / concept.id, concept.images)
        draw(root / "keep" / concept.id, concept.images[:2])
    for k, concept in enumerate(study.neutral()[:12]):
        draw(root / "neutral" / f"{k}", concept.images[:1])
    flags = ["--model", f"{root / 'model'}", "--neutral", f"{root / 'neutral'}", "--retain", f"{root / 'keep'}"]
    done(["requests", "init", "--ledger", f"{root / 'waiting'}", *flags, *SETTINGS.split(), *TOLERANT.split()])
    for concept in asked[:waiting]:
        done(["requests", "add", "--ledger", f"{root / 'waiting'}", "--images", f"{root / 'asked' / concept}"])
    released = shutil.copytree(root / "waiting", root / "released")
    for step in ("run", "release"):
        done(["requests", step, "--ledger", f"{released}"])
    done(forget(root, root / "run"))


def draw(folder: Path, images: Sequence[Any]) -> None:
    folder.mkdir(parents=True)
    for k, image in enumerate(images):
        image.load().save(folder / f"{k}.png")


def done(flags: list[str]) -> None:
    if unsee(flags):
        raise SystemExit(f"unsee {' '.join(flags)} failed before anything was broken")


def forget(root: Path, out: Path) -> list[str]:
    given = ["--forget", f"{sorted((root / 'asked').iterdir())[0]}", "--neutral", f"{root / 'neutral'}"]
    return ["forget", "--model", f"{root / 'model'}", *given, "--retain", f"{root / 'others'}", "--out", f"{out}",
            *SETTINGS.split()]  # fmt: skip


def jobs(root: Path, place: Path) -> list[Job]:
    """Each works in ``place``, so that the paths it writes down are the same every time."""
    out, ledger = place / "out", place / "ledger"
    patch = ["--model", f"{root / 'model'}", "--patch", f"{root / 'run' / 'patch'}"]

    def copy(name: str) -> Callable[[], object]:
        return lambda: shutil.copytree(root / name, ledger)

    return [
        Job("forget", forget(root, out), lambda: tree(out)),
        Job("apply", ["apply", *patch, "--out", f"{out}"], lambda: tree(out)),
        Job("requests run", ["requests", "run", "--ledger", f"{ledger}"], lambda: state(ledger), copy("waiting")),
        Job(
            "requests export", ["requests", "export", "--ledger", f"{ledger}", "--out", f"{out}"], lambda: tree(out),
            copy("released"),
        ),
    ]  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    """Every path below with the hash of its bytes, but of a manifest without times."""
    return {str(p.relative_to(folder)): hashed(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def hashed(file: Path) -> str:
    data = file.read_bytes()
    if file.name == "manifest.json":
        data = json.dumps({k: v for k, v in json.loads(data).items() if k not in MACHINES}).encode()
    return hashlib.sha256(data).hexdigest()


def state(folder: Path) -> Any:
    """Files of a ledger, its rows, and what happened in which order."""
    ledger = Ledger(folder)
    files = {name: hash for name, hash in tree(folder).items() if name not in DATABASE}
    tables = ("requests", "images", "turns", "retained")
    rows = {table: sorted(map(tuple, ledger.store.rows(f"SELECT * FROM {table}")), key=str) for table in tables}
    events = [(line.request, line.event) for line in ledger.store.lines()]
    ledger.store.close()
    return files, rows, events


def run(flags: list[str], after: float | None = None, limit: int | None = None) -> tuple[int, str]:
    """A child process: its exit code, less the signal that ended it, and what it said.

    ``after`` so many seconds it is killed, or no file of it may become larger than ``limit`` bytes.
    """
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(there, 2)
        os.close(here)
        os._exit(unsee(flags))
    os.close(there)
    if after is not None:
        time.sleep(after)
        if limit is None:
            os.kill(child, signal.SIGKILL)  # a child that has ended is there until it is waited for
        else:
            resource.prlimit(child, resource.RLIMIT_FSIZE, (limit, limit))
    with os.fdopen(here, errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def trial(job: Job, place: Path, rng: random.Random, kills: int, full: int) -> None:
    """Broken until it ends or has been broken ``kills`` or ``full`` times, and then given once more."""
    place.mkdir()
    job.begin()
    code, times = 1, rng.randint(1, min(BROKEN, kills + full))
    while code and times:
        limit = rng.choice((0, 0, rng.randint(1, 2**16))) if full else None
        code, said = run(job.flags, rng.uniform(0, job.seconds), limit)
        times -= 1
        if whole(code, said):
            break
        if code:
            job.counts["full" if full else "kills"] += 1
            broken(job, place, code, said, bool(full))
    if code and not whole(code, said):
        code, said = run(job.flags)
        check(code == 0 or whole(code, said), job, f"given again it ended with {code}: {said}")
    check(job.written() == job.wanted, job, "it wrote other bytes than the unbroken run")
    left = [p.name for p in place.rglob(".*")]
    check(not left, job, f"left behind: {left}")
    shutil.rmtree(place)
    job.counts["trials"] += 1


def whole(code: int, said: str) -> bool:
    """Whether a command was killed after it was done, so that its output is there."""
    return code == 2 and "exists already" in said


def broken(job: Job, place: Path, code: int, said: str, full: bool) -> None:
    """What a broken command may say, and leave."""
    if full:
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        check(code == 2 and len(lines) == 1 and "Traceback" not in said, job, f"on a full disk: {code} {said}")
    else:
        check(code == -signal.SIGKILL, job, f"it ended with {code}: {said}")
    if (ledger := place / "ledger").exists():
        check(run(["requests", "audit", "--ledger", f"{ledger}"])[0] == 0, job, "the ledger is not whole")


def check(holds: bool, job: Job, why: str) -> None:
    if not holds:
        raise SystemExit(f"unsee {job.name}, {dict(job.counts)}: {why}")


def unbroken(job: Job, place: Path) -> None:
    place.mkdir()
    job.begin()
    started = time.perf_counter()
    code, said = run(job.flags)
    job.seconds = time.perf_counter() - started
    check(code == 0, job, f"unbroken it ended with {code}: {said}")
    job.wanted = job.written()
    shutil.rmtree(place)


def measure(root: Path, kills: int, full: int, waiting: int) -> list[Job]:
    """All jobs, each broken its share of the times."""
    rng = random.Random(0)
    prepare(root, waiting)
    place = root / "trial"
    every = jobs(root, place)
    for job in every:
        share = SHARES[job.name]
        unbroken(job, place)
        print(f"unsee {job.name}: {job.seconds:.2f} s unbroken", file=sys.stderr, flush=True)
        for kind, most in (("kills", kills * share), ("full", full * share)):
            while (left := round(most) - job.counts[kind]) > 0:
                trial(job, place, rng, *((left, 0) if kind == "kills" else (0, left)))
                print(f"unsee {job.name}: {dict(job.counts)}", file=sys.stderr, flush=True)
    return every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--full", type=int, default=60, help="moments at which the disk is full")
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "faults.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        every = measure(Path(place), args.kills, args.full, args.requests)
    found: dict[str, Any] = {
        "command": runs.command_line("python benchmarks/faults.py"),
        "commit": runs.revision(),
        "machine": runs.machine(),
    }
    counts = {j.name: {**j.counts, "seconds_unbroken": round(j.seconds, 2)} for j in every}
    total = sum((j.counts for j in every), Counter[str]())
    write_json(args.out, found | {"requests": args.requests, **total, "commands": counts})
    print(f"{total['kills']} kills and {total['full']} full disks: the bytes of the unbroken run, nothing left behind")


if __name__ == "__main__":
    main()
