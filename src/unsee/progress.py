"""What a person sees: progress as a bar on a terminal, elsewhere as a plain line now and then, remarks and results.

Names in it may come from strangers: nothing of them reaches a terminal but as ``untrusted.shown``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from unsee import processes
from unsee.untrusted import shown

LINE_EVERY = 10.0  # seconds between two plain lines
_inside = ContextVar("inside", default=False)  # whether progress of some work is being shown
_silent = ContextVar("silent", default=False)


class Tick(Protocol):
    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int) -> Iterator[Tick]:
    """``tick(done, note)`` tells how far the work is. Work within other work says nothing of its own.

    Of several processes only the first tells.
    """
    if _inside.get() or not processes.first():
        yield lambda done, note="": None
        return
    token = _inside.set(True)
    try:
        with _shown(title, total) as tick:
            yield tick
    finally:
        _inside.reset(token)


@contextmanager
def silence() -> Iterator[None]:
    """Within: work says nothing, because what called it tells how far it is."""
    inside, silent = _inside.set(True), _silent.set(True)
    try:
        yield
    finally:
        _inside.reset(inside)
        _silent.reset(silent)


@contextmanager
def _shown(title: str, total: int) -> Iterator[Tick]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    room = Column(ratio=1, no_wrap=True)  # cut where there is no room
    rest = TextColumn("{task.fields[note]}", markup=False, table_column=room)
    with Progress(*columns, rest, console=console, expand=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=shown(note))


def _plain(title: str, total: int) -> Tick:
    last = time.monotonic()

    def tick(done: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY or done >= total:
            last = now
            print(shown(f"{title}: {done}/{total} {note}".rstrip()), file=sys.stderr, flush=True)

    return tick


def say(text: str) -> None:
    """One line for the person who waits, once whatever the number of processes; standard output is for results."""
    if processes.first() and not _silent.get():
        print(shown(text), file=sys.stderr, flush=True)


def tell(*lines: str) -> None:
    """Results, to standard output."""
    for line in lines:
        print(shown(line))


def alarm(*lines: str, head: str = "error: ", text: str = "") -> None:
    """What must not be overlooked, to standard error: ``head`` in red, and the lines in the style ``text``."""
    told = Text("\n".join(map(shown, lines)), text)
    Console(stderr=True).print(Text(head, "bold red") + told, soft_wrap=True)
