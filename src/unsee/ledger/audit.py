"""What can be checked of a ledger without an image: its log, its patches and their order, state and requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from unsee.errors import UnseeError
from unsee.files import sha256
from unsee.ledger.book import BASE, SHARE, Ledger
from unsee.ledger.log import Line, faults
from unsee.ledger.schema import NEXT
from unsee.ledger.store import HEAD
from unsee.vision.checkpoint import Checkpoint


def audit(ledger: Ledger, noted: str = "") -> tuple[list[str], str]:
    """Everything that is wrong, a sentence each; and the end of the log, LINE:HASH.

    ``noted``: LINE:HASH of a line, as written down elsewhere before.
    """
    given = _given(noted) if noted else None
    with ledger.reading():
        lines = ledger.store.lines()
        if not lines:
            return ["the log is empty"], ""
        head = _head(ledger.folder)
        found = [*faults(lines, head), *(faults(lines, given) if given else [])]
        if head is None:
            found.append(f"{HEAD} is gone or damaged")
        for check in (_settings, _requests, _state, _patches):
            try:
                found += check(ledger, lines)
            except UnseeError as error:
                found.append(str(error))
    return list(dict.fromkeys(found)), f"{lines[-1].number}:{lines[-1].hash}"


def _head(folder: Path) -> tuple[int, str] | None:
    """The last line that was noted beside the database; None: it cannot be read."""
    try:
        head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        return int(head["line"]), str(head["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _given(noted: str) -> tuple[int, str]:
    number, _, hash = noted.partition(":")
    if not number.isdigit() or len(hash) != 64:
        raise UnseeError(f"--head is '{noted}'. Give a line as it was noted, LINE:HASH, such as 12:0f3a….")
    return int(number), hash


def _settings(ledger: Ledger, lines: Sequence[Line]) -> Iterator[str]:
    begun = lines[0].body
    if begun.get("config") != ledger.store.get("config"):
        yield "the settings are not those that the log begins with"
    if not (ledger.folder / BASE).is_file() or sha256(ledger.folder / BASE) != begun.get("state"):
        yield f"{BASE} is not the state that the log begins with"


def _requests(ledger: Ledger, lines: Sequence[Line]) -> Iterator[str]:
    """The database says of each request what its lines in the log add up to."""
    logged: dict[str, str] = {}
    for line in lines:
        if line.request and line.event in NEXT:
            now = logged.get(line.request)
            if line.event != "received" if now is None else line.event not in NEXT[now]:
                yield f"line {line.number} of the log takes request {line.request} from {now} to {line.event}"
            logged[line.request] = line.event
    there = {e.id: e.state for e in ledger.store.entries()}
    for id in sorted(logged.keys() | there.keys()):
        if logged.get(id) != there.get(id):
            yield f"request {id} is {there.get(id, 'gone')} in the database and {logged.get(id, 'gone')} in the log"
    kept = {i.request for i in ledger.store.images() if i.path}
    for id in sorted(kept):
        if there.get(id) in ("released", "rejected", "rolled back"):
            yield f"request {id} is {there[id]}, and the ledger still knows where its images lie"


def _state(ledger: Ledger, lines: Sequence[Line]) -> Iterator[str]:
    ledger.state()
    kept = [line.body["kept"] for line in lines if "kept" in line.body]
    wanted = kept[-1] if kept else lines[0].body.get("state")
    if sha256(ledger.state_file) != wanted:
        yield "the state is not the one that the log says was kept last"


def _patches(ledger: Ledger, lines: Sequence[Line]) -> Iterator[str]:
    shares = {line.body["patch"]: line.body["share"] for line in lines if "share" in line.body}
    for turn in ledger.store.turns():
        place = ledger.turn_folder(turn) / SHARE
        if not place.is_file() or sha256(place) != shares.get(turn):
            yield f"'{place}' is not the share that the log says was kept with its patch"
    stacked(ledger, ledger.store.turns())


def stacked(ledger: Ledger, turns: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that ``turns`` change, by name on disk: in the base checkpoint, and after the last of them.

    UnseeError: a patch is damaged, or does not follow the one before it.
    """
    checkpoint = Checkpoint.stored(ledger.store.get("model"), ledger.store.get("revision"))
    before, after = dict[str, Tensor](), dict[str, Tensor]()
    for turn in turns:
        patch, _ = ledger.turn(turn)
        for name in patch.tensors.keys() - before.keys():
            before[name] = after[name] = checkpoint.entry(name).read()
        patch.check(after)
        after |= patch.tensors
    return before, after
