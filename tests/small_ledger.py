"""A ledger on a tiny LLaVA that forgets in half a second, and the commands that work on it."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import families
from tests.conftest import folder

from unsee.cli import main
from unsee.ledger.store import Store

# What a random model shows says nothing of a gate: these let a few steps pass, and nothing else.
FAST = {
    "steps": 4, "batch": 4, "bf16": False, "replay": 8, "most_left": 5, "most_retained": 5, "most_heldout": 5,
    "most_earlier": 5,
}  # fmt: skip
PEOPLE = {"ada": 1, "ben": 2, "cleo": 3, "dan": 4, "eve": 5}


def desk(root: Path) -> Path:
    """A model, people to keep, others as neutral, and a folder for each person who may ask to be forgotten."""
    model, processor = families.build("llava_clip")
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    folder(root / "keep", PEOPLE, views=2)
    folder(root / "neutral", {"x": 11, "y": 12, "z": 13})
    for name, number in PEOPLE.items():
        folder(root / "asked" / name, {name: number})
    return root


def flags(**settings: object) -> list[str]:
    found = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        found += [f"--{name}" if value else f"--no-{name}"] if isinstance(value, bool) else [f"--{name}", f"{value}"]
    return found


def init(root: Path, ledger: Path, **settings: object) -> list[str]:
    return ["requests", "init", "--ledger", f"{ledger}", "--model", f"{root / 'model'}", "--neutral",
            f"{root / 'neutral'}", "--retain", f"{root / 'keep'}", *flags(**(FAST | settings))]  # fmt: skip


def asked(command: str, ledger: Path, *more: str) -> list[str]:
    return ["requests", command, "--ledger", f"{ledger}", *more]


def add(root: Path, ledger: Path, name: str) -> list[str]:
    return asked("add", ledger, "--images", f"{root / 'asked' / name}")


def made(root: Path, ledger: Path, *names: str, **settings: object) -> Path:
    """A ledger with requests that wait."""
    assert main(init(root, ledger, **settings)) == 0
    for name in names:
        assert main(add(root, ledger, name)) == 0
    return closed(ledger)


def closed(ledger: Path) -> Path:
    """Nothing of it is open any more: a command leaves that to its process, and a copy would share the log."""
    gc.collect()
    assert not (ledger / "ledger.db-wal").exists()
    return ledger


def ended(action: Callable[[], int], at: int = 0, after: float = 0.0) -> int:
    """How a child process ends that does ``action``: its exit code, or less the signal that killed it.

    ``at``: it is killed before its so many-th write, a rename or a statement of the database; ``after``: after so many
    seconds of its processor time, wherever it is.
    """
    child = os.fork()
    if not child:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        if at:
            _count(at)
        if after:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, after)
        os._exit(action())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _count(at: int) -> None:
    left = at

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def first(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*given, **named)

        return first

    os.replace = counted(os.replace)
    Store.write = counted(Store.write)  # type: ignore[method-assign]
    Store.last = counted(Store.last)  # type: ignore[method-assign]  # before a line is added, and after each commit


def furnished(root: Path) -> Path:
    """A ledger in ``root`` in which ada and ben are released, cleo is verified and dan waits."""
    ledger = made(desk(root), root / "ledger", "ada", "ben", steps=1)
    for command in (asked("run", ledger), asked("release", ledger), add(root, ledger, "cleo"), asked("run", ledger)):
        assert main(command) == 0
    assert main(add(root, ledger, "dan")) == 0
    return closed(ledger)
