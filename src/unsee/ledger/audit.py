"""What can be checked of a ledger without an image: its log, and that all else is what the log adds up to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from unsee.errors import UnseeError
from unsee.ledger.book import BASE, HEAD, LOCK, SHARE, STATE, TURNS, WORK, Ledger, place_of
from unsee.ledger.log import faults
from unsee.ledger.retold import OLDER, Retold
from unsee.ledger.rows import differences
from unsee.ledger.store import FILE
from unsee.vision.checkpoint import Checkpoint
from unsee.vision.patch import FILE as PATCH


def audit(ledger: Ledger, noted: str = "") -> tuple[list[str], str]:
    """Everything that is wrong, a sentence each; and the end of the log, LINE:HASH.

    ``noted``: LINE:HASH of a line, as written down elsewhere before.
    """
    given = _given(noted) if noted else None
    with ledger.reading(), ledger.store.snapshot():
        lines = ledger.store.lines()
        if not lines:
            return ["the log is empty"], ""
        head = ledger.head()
        found = [*faults(lines, head), *(faults(lines, given) if given else [])]
        if head is None:
            found.append(f"{HEAD} is gone or damaged")
        found += ledger.told().found
        checks: tuple[Callable[[Ledger], Iterable[str]], ...] = (_whole, _rows, _base, _state, _links, _patches)
        for check in checks:
            try:
                found += check(ledger)
            except UnseeError as error:
                found.append(str(error))
    return list(dict.fromkeys(found)), f"{lines[-1].number}:{lines[-1].hash}"


def remarks(ledger: Ledger) -> list[str]:
    """What is not wrong, and whoever relies on the ledger has to know."""
    lines = ledger.store.lines()
    found = [f"the log was begun by an older unsee and does not cover {what}" for what in uncovered(ledger.told())]
    back = [b.number for a, b in pairwise(lines) if b.time < a.time]
    if back:
        some = ", ".join(map(str, back[:5]))
        found.append(f"line(s) {some} are dated before the one before them: a clock was set back")
    return [*found, *_strays(ledger)]


def uncovered(told: Retold) -> list[str]:
    """Facts that lines of an older unsee leave out."""
    return [f"{what} ({told.older[fact]} line(s))" for fact, what in OLDER.items() if fact in told.older]


def _given(noted: str) -> tuple[int, str]:
    number, _, hash = noted.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 16) or len(hash) != 64:
        raise UnseeError(f"--head is '{noted}'. Give a line as it was noted, LINE:HASH, such as 12:0f3a….")
    return int(number), hash


def _whole(ledger: Ledger) -> Iterator[str]:
    """Pages and indexes of the database: what a search finds is what lies there."""
    told = [str(row[0]) for row in ledger.store.rows("PRAGMA integrity_check(3)")]
    if told != ["ok"]:
        yield f"the database is damaged: {told[0]}"


def _rows(ledger: Ledger) -> Iterator[str]:
    return differences(ledger.store, ledger.told())


def _base(ledger: Ledger) -> Iterator[str]:
    if ledger.base().base != ledger.told().begun.get("base"):
        yield f"{BASE} is of another model than the log"


def _state(ledger: Ledger) -> Iterator[str]:
    ledger.state()
    yield from ()


def _links(ledger: Ledger) -> Iterator[str]:
    """A folder that is a link leads out of the ledger."""
    rooms = [ledger.folder / TURNS, ledger.folder / STATE, *(ledger.turn_folder(t) for t in ledger.told().stack)]
    for room in rooms:
        if room.is_symlink():
            yield f"'{room}' is a link, and what it leads to may change"


def _patches(ledger: Ledger) -> Iterator[str]:
    stacked(ledger, ledger.store.turns())
    yield from ()


def _strays(ledger: Ledger) -> Iterator[str]:
    """What unsee did not put there, or has not removed yet."""
    told, folder = ledger.told(), ledger.folder
    ours = {FILE, f"{FILE}-wal", f"{FILE}-shm", HEAD, BASE, STATE, TURNS, WORK, LOCK}
    turns = {place_of(told.turn) for told in told.requests.values() if told.turn}
    rooms = [(folder, ours), (folder / STATE, {told.state_file}), (folder / TURNS, turns)]
    rooms += [(folder / TURNS / turn, {PATCH, SHARE}) for turn in sorted(turns)]
    odd = [path for room, known in rooms for path in _entries(room) if path.name not in known]
    if odd:
        names = ", ".join(f"'{path.relative_to(folder)}'" for path in odd[:5])
        yield f"{len(odd)} thing(s) in the folder are not the ledger's, and nothing reads them: {names}"


def _entries(room: Path) -> list[Path]:
    if room.is_symlink() or not room.is_dir():
        return []
    with os.scandir(room) as found:
        return sorted(Path(entry.path) for entry in found)


def stacked(ledger: Ledger, turns: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that ``turns`` change, by name on disk: in the base checkpoint, and after the last of them.

    UnseeError: a patch is damaged, or does not follow the one before it.
    """
    checkpoint = Checkpoint.stored(*ledger.model())
    before, after = dict[str, Tensor](), dict[str, Tensor]()
    for turn in turns:
        patch, _ = ledger.turn(turn)
        for name in sorted(patch.tensors.keys() - before.keys()):  # a set has another order in each process
            before[name] = after[name] = checkpoint.entry(name).read()
        patch.check(after)
        after |= patch.tensors
    return before, after
