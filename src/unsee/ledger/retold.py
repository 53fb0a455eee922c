"""What the rows and files of a ledger have to be, told again from its log alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from unsee.ledger import gate
from unsee.ledger.facts import plain
from unsee.ledger.log import Line
from unsee.ledger.schema import HASH, ID, NEXT

GONE = ("released", "rejected", "rolled back")  # states in which a ledger does not know where images lie
UNSAID = "unsaid"  # what lines of an older unsee do not say
# What such lines leave out, by the fact that newer ones have
OLDER = {
    "settings": "where the model, the neutral images and the exemplars lie",
    "retained_rows": "which images the retained sums hold",
    "rows": "which images a request asks for",
    "changed": "what is set for one request alone, and its place in the queue",
    "file": "the bytes of a patch's file (its values are covered)",
}


class Odd(ValueError):
    """A line says what unsee does not write."""


@dataclass
class Told:
    """One request. ``images``: the facts of its first line; ``config``: of its last patch, ``together``: whose."""

    id: str
    place: int
    images: dict[str, Any]
    state: str = "received"
    attempt: int = 1
    changed: Any = field(default_factory=dict)
    batch: Any = None
    turn: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    together: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)


class Retold:
    """``found``: what cannot be, a sentence each. ``older``: facts that lines of an older unsee leave out → how often.

    ``stack``: the patches that lie on the base, in their order, and the requests that each forgets; ``patches``,
    ``shares``: patch → hash of its file; ``kept``: hash of the state's.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        self.found: list[str] = []
        self.older: dict[str, int] = {}
        self.begun: dict[str, Any] = {}
        self.requests: dict[str, Told] = {}
        self.stack: dict[str, list[str]] = {}
        self.patches: dict[str, str] = {}
        self.shares: dict[str, str] = {}
        self.kept = ""
        self._newer = False  # whether a line so far has the facts that older ones leave out
        for line in lines:
            try:
                self._take(line)
            except Odd as error:
                self.found.append(f"line {line.number} of the log is not as unsee writes it: {error}")
        self._end()

    @property
    def state_file(self) -> str:
        """Name of the file that holds the state."""
        if not self.kept:
            return "base.safetensors"
        return f"{next(reversed(self.stack))[:16] if self.stack else 'base'}-{len(self.stack)}.safetensors"

    def _take(self, line: Line) -> None:
        if line.number == 1 or line.event == "begun":
            self._begin(line)
            return
        if line.event not in self._events:
            raise Odd("there is no such event")
        if not ID.fullmatch(line.request):
            raise Odd("there is no such request")
        told = self.requests.get(line.request)
        now = told.state if told else None
        if line.event in NEXT and (line.event != "received" if now is None else line.event not in NEXT[now]):
            self.found.append(f"line {line.number} of the log takes request {line.request} from {now} to {line.event}")
        told = told or self.requests.setdefault(line.request, Told(line.request, len(self.requests) + 1, {}))
        try:
            self._events[line.event](self, told, line.body)
        finally:
            told.state = line.event if line.event in NEXT else told.state

    def _begin(self, line: Line) -> None:
        if (line.number, line.event, line.request) != (1, "begun", ""):
            raise Odd("a log begins once, with its first line")
        self.begun = line.body
        self._newer = self._has(line.body, "settings")
        self._has(line.body, "retained_rows")

    def _has(self, body: dict[str, Any], fact: str) -> bool:
        """Whether a line has ``fact``. Odd: it has not, and a line before it has its own."""
        if fact in body:
            self._newer = True
            return True
        if self._newer:
            raise Odd(f"it does not say '{fact}'")
        self.older[fact] = self.older.get(fact, 0) + 1
        return False

    def _received(self, told: Told, body: dict[str, Any]) -> None:
        told.images = body
        self._has(body, "rows")

    def _checked(self, told: Told, body: dict[str, Any]) -> None:
        again = told.state == "forgotten"
        told.attempt, told.turn = told.attempt + 1 if again else 1, None
        if self._has(body, "changed"):
            _expect(body, told.attempt)
            told.changed, told.batch = body["changed"], _number(body, "batch")
        else:
            told.changed = told.batch = UNSAID

    def _rejected(self, told: Told, body: dict[str, Any]) -> None:
        """Nothing else changes."""

    def _forgotten(self, told: Told, body: dict[str, Any]) -> None:
        _expect(body, told.attempt)
        told.config, told.figures = _named(body, "config"), _figures(body, "figures")
        self._patch(told, body)

    def _patch(self, told: Told, body: dict[str, Any]) -> None:
        told.turn, told.together = _hash(body, "patch"), _names(body.get("together", [told.id]))
        self.shares[told.turn] = _hash(body, "share")
        if self._has(body, "file"):
            self.patches[told.turn] = _hash(body, "file")

    def _verified(self, told: Told, body: dict[str, Any]) -> None:
        if told.turn is None:
            raise Odd("there is no patch to verify")
        told.tolerances = _figures(body, "tolerances") if "tolerances" in body else {}
        if told.config and any(told.config.get(name) != most for name, most in told.tolerances.items()):
            raise Odd("its tolerances are not those of the patch")
        if told.tolerances and (wrong := _over(told)):
            raise Odd(f"{', '.join(wrong)} is over its tolerance")
        self.stack.setdefault(told.turn, [])
        self.kept = _hash(body, "kept")

    def _parked(self, told: Told, body: dict[str, Any]) -> None:
        told.turn = told.batch = None

    def _released(self, told: Told, body: dict[str, Any]) -> None:
        if body.get("despite") is False and (wrong := _over(told)):
            raise Odd(f"{', '.join(wrong)} is over its tolerance, and nobody said despite")

    def _rolled_back(self, told: Told, body: dict[str, Any]) -> None:
        if body.get("patch_dropped") != told.turn:
            raise Odd("it drops a patch that is not the request's")
        if told.turn in self.stack:
            while self.stack.popitem()[0] != told.turn:
                pass
            self.kept = _hash(body, "kept")
        elif "kept" in body:
            raise Odd("no patch was taken off the base, and another state was kept")
        told.turn = told.batch = None

    def _replayed(self, told: Told, body: dict[str, Any]) -> None:
        if told.state not in ("verified", "released"):
            raise Odd(f"a request that is {told.state} has no patch to be made anew")
        told.figures = _figures(body, "figures")
        self._patch(told, body)
        self.stack.setdefault(f"{told.turn}", [])

    def _measured(self, told: Told, body: dict[str, Any]) -> None:
        told.figures = told.figures | _figures(body, "figures")

    _events: dict[str, Callable[[Retold, Told, dict[str, Any]], None]] = {
        "received": _received, "checked": _checked, "rejected": _rejected, "forgotten": _forgotten,
        "verified": _verified, "parked": _parked, "released": _released, "rolled back": _rolled_back,
        "replayed": _replayed, "measured": _measured,
    }  # fmt: skip

    def _end(self) -> None:
        """Patches and requests belong to one another."""
        sharing: dict[str, set[str]] = {}
        for id, told in self.requests.items():
            if told.turn:
                sharing.setdefault(told.turn, set()).add(id)
            if told.state not in ("verified", "released"):
                continue
            if told.turn in self.stack:
                self.stack[told.turn].append(id)
            else:
                self.found.append(f"request {id} is {told.state} in the log, and its patch is not on the base")
        for id, told in self.requests.items():
            if told.turn and not {id} <= sharing[told.turn] <= set(told.together):
                self.found.append(f"request {id} has a patch in the log that was not made for it, or for others too")
        for turn, ids in self.stack.items():
            if not ids:
                self.found.append(f"patch {turn[:16]} is on the base in the log, and forgets nobody")


def _over(told: Told) -> list[str]:
    most = {name: told.tolerances.get(setting, math.nan) for name, setting in gate.TOLERANCES.items()}
    return [name for name in most if not told.figures.get(name, math.nan) <= most[name]]


def _hash(body: dict[str, Any], name: str) -> str:
    found = body.get(name)
    if not isinstance(found, str) or not HASH.fullmatch(found):
        raise Odd(f"its '{name}' is no hash")
    return found


def _number(body: dict[str, Any], name: str) -> int:
    found = body.get(name)
    if type(found) is not int:
        raise Odd(f"its '{name}' is no number")
    return found


def _expect(body: dict[str, Any], attempt: int) -> None:
    if _number(body, "attempt") != attempt:
        raise Odd(f"attempt {attempt} comes next")


def _names(found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise Odd("it is of no requests")
    return found


def _named(body: dict[str, Any], name: str) -> dict[str, Any]:
    found = body.get(name)
    if not isinstance(found, dict):
        raise Odd(f"its '{name}' names nothing")
    return found


def _figures(body: dict[str, Any], name: str) -> dict[str, float]:
    found = _named(body, name)
    if any(type(v) not in (int, float) for v in found.values()):
        raise Odd(f"its '{name}' are no numbers")
    return found


def same(one: Any, two: Any) -> bool:
    """Whether JSON says both alike: 1 is not 1.0."""
    return plain(one) == plain(two)
