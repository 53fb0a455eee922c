"""Kill ``unsee requests run`` at random moments of a sequence of requests, and start it again until all is done.

    python benchmarks/faults.py --kills 200

Each moment is drawn over the time that an unbroken run takes. After every kill the ledger is audited; at the end the
weights have to be the bytes of the unbroken run, each request forgotten once. Children are forked from one process
that has imported all, and killed by SIGKILL.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from unsee import runs, tiny
from unsee.cli import main as unsee
from unsee.data import people
from unsee.data.study import PeopleStudy
from unsee.files import write_json
from unsee.ledger.book import Ledger

ROOT = Path(__file__).parent.parent
SETTINGS = (  # what a random model shows is not judged
    "--steps 20 --batch 4 --stop 0 --no-bf16 --replay 8 --most-left 9 --most-retained 9 --most-heldout 9 "
    "--most-earlier 9"
)


def prepare(root: Path, requests: int) -> Path:
    """A ledger on a tiny random model, with requests that wait."""
    model, processor = tiny.build("llava", people.vocabulary())
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    study = PeopleStudy()
    asked, kept = study.split("forget_10")
    for name, ids, views in (("keep", [*asked[:requests], *kept[:4]], 2), ("asked", asked[:requests], 4)):
        for concept in study.concepts(ids, views):
            for k, image in enumerate(concept.images):
                place = root / (name if name == "keep" else f"{name}/{concept.id}") / concept.id / f"{k}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                image.load().save(place)
    for k, concept in enumerate(study.neutral()[:12]):
        place = root / "neutral" / f"{k}" / "0.png"
        place.parent.mkdir(parents=True)
        concept.images[0].load().save(place)
    flags = ["--model", f"{root / 'model'}", "--neutral", f"{root / 'neutral'}", "--retain", f"{root / 'keep'}"]
    ledger = root / "waiting"
    assert unsee(["requests", "init", "--ledger", f"{ledger}", *flags, *SETTINGS.split()]) == 0
    for concept in asked[:requests]:
        given = ["--images", f"{root / 'asked' / concept}"]
        assert unsee(["requests", "add", "--ledger", f"{ledger}", *given]) == 0
    return ledger


def run(ledger: Path, after: float | None = None) -> bool:
    """In a child process; whether it ended by itself, and well, before ``after`` seconds."""
    child = os.fork()
    if not child:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os._exit(unsee(["requests", "run", "--ledger", f"{ledger}"]))
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)  # a child that has ended is there until it is waited for
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"it ended with {code}"
    return code == 0


def same(one: Ledger, two: Ledger) -> bool:
    a, b = one.state(), two.state()
    return a.turns == b.turns and all(torch.equal(a.weights[n], t) for n, t in b.weights.items())


def sequence(root: Path, waiting: Path, unbroken: Path, seconds: float, rng: random.Random, most: int) -> int:
    """One ledger, killed until it is done or ``most`` times; how often it was."""
    ledger, kills = Path(shutil.copytree(waiting, root / "killed")), 0
    while kills < most and not run(ledger, rng.uniform(0, seconds)):
        kills += 1
        assert unsee(["requests", "audit", "--ledger", f"{ledger}"]) == 0
    assert run(ledger) and same(Ledger(ledger), Ledger(unbroken))
    events = [line.event for line in Ledger(ledger).store.lines()]
    assert events.count("verified") == len(Ledger(ledger).store.entries())
    shutil.rmtree(ledger)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--requests", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, kills, sequences = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        waiting = prepare(root, args.requests)
        unbroken = Path(shutil.copytree(waiting, root / "unbroken"))
        started = time.perf_counter()
        assert run(unbroken)
        seconds = time.perf_counter() - started
        while kills < args.kills:
            kills += sequence(root, waiting, unbroken, seconds, rng, args.kills - kills)
            sequences += 1
            print(f"{kills} kills in {sequences} sequences", file=sys.stderr, flush=True)
    command = "python benchmarks/faults.py " + " ".join(sys.argv[1:])
    found = {"command": command.strip(), "commit": runs.revision(), "machine": runs.machine(), "kills": kills}
    found |= {"sequences": sequences, "requests": args.requests, "seconds_unbroken": round(seconds, 2)}
    write_json(ROOT / "benchmarks" / "results" / "faults.json", found)
    print(f"{kills} kills in {sequences} sequences: nothing lost, nothing twice, the bytes of the unbroken run")


if __name__ == "__main__":
    main()
