"""The log: lines that are only ever added, each with the SHA-256 of the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FIRST = "0" * 64  # what the first line has for the hash of the one before


@dataclass(frozen=True)
class Line:
    """One event. ``request``: an id, or empty where it concerns the ledger; ``body``: figures, hashes, versions."""

    number: int
    time: str
    request: str
    event: str
    body: dict[str, Any]
    before: str
    hash: str

    @classmethod
    def after(cls, last: Line | None, time: str, request: str, event: str, body: dict[str, Any]) -> Line:
        number, before = (last.number + 1, last.hash) if last else (1, FIRST)
        return cls(number, time, request, event, body, before, digest(number, time, request, event, body, before))


def digest(number: int, time: str, request: str, event: str, body: dict[str, Any], before: str) -> str:
    """What an auditor computes too: SHA-256 of the JSON list of the six, without blanks, keys sorted, in UTF-8."""
    text = json.dumps(
        [number, time, request, event, body, before], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()  # strangers' lines hold what UTF-8 lacks


def faults(lines: Iterable[Line], noted: tuple[int, str] | None = None) -> list[str]:
    """What is wrong with a log: edited, missing and reordered lines.

    ``noted``: number and hash of a line, written down elsewhere; without it, lines gone from the end are not seen.
    """
    found, number, before, seen = [], 0, FIRST, dict[int, str]()
    for line in lines:
        if line.number != number + 1:
            found.append(f"line {number + 1} of the log is missing: line {line.number} follows line {number}")
        elif line.before != before:
            found.append(f"line {line.number} of the log does not follow the one before it")
        if line.hash != digest(line.number, line.time, line.request, line.event, line.body, line.before):
            found.append(f"line {line.number} of the log was edited")
        number, before, seen[line.number] = line.number, line.hash, line.hash
    if noted and noted[0] not in seen:
        found.append(f"the log ends at line {number}, and line {noted[0]} was noted: its end is missing")
    elif noted and seen[noted[0]] != noted[1]:
        found.append(f"line {noted[0]} of the log is not the one that was noted")
    return found
