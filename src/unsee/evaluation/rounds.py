"""Many prompts in batches: each prompt asked once, answers kept on disk, work shared out to processes.

An answer hangs, in its last bits, on what else is in its batch. So batches follow from the prompts alone, not from the
number of processes nor from what is in the cache already, and the cache holds whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from unsee import processes
from unsee.evaluation.cache import Cache, key
from unsee.progress import progress

ROUND = 4  # batches of images whose features are in memory together: enough to sort their prompts by length


@dataclass(frozen=True)
class Ask:
    """One prompt as the model reads it. ``picture``: hash of its image's pixels. ``length``: in tokens, all told."""

    text: str
    picture: str = ""
    answers: tuple[str, ...] = ()
    length: int = 0


Work = Callable[[list[Ask]], list[Any]]  # answers to one batch, as values of JSON


def plan(asks: Sequence[Ask], batch: int) -> list[list[list[int]]]:
    """Rounds of batches of indices, the longest first, so that memory that does not suffice fails at once.

    All that is asked about an image is in one round. A batch has images or none.
    """
    rounds: list[list[int]] = []
    for images in (True, False):
        groups: dict[str | int, list[int]] = {}
        for i, ask in enumerate(asks):
            if bool(ask.picture) == images:
                groups.setdefault(ask.picture or i, []).append(i)
        some: list[int] = []
        for group in sorted(groups.values(), key=lambda g: -max(asks[i].length for i in g)):
            if some and len(some) + len(group) > ROUND * batch:
                rounds.append(some)
                some = []
            some = some + group
        rounds += [some] if some else []
    return [_cut(sorted(some, key=lambda i: -asks[i].length), batch) for some in rounds]


def _cut(some: list[int], batch: int) -> list[list[int]]:
    return [some[start : start + batch] for start in range(0, len(some), batch)]


def answered(
    asks: Sequence[Ask], batch: int, work: Work, cache: Cache | None, identity: Callable[[], str], title: str
) -> list[Any]:
    """What ``work`` says to each of ``asks``. ``title``: the settings of the work, which belong to a cached answer.

    Of several processes each does whole rounds, and all have all answers in the end.
    """
    once = list(dict.fromkeys(asks))
    found: dict[int, Any] = {}
    with processes.alike(), progress(title, len(once)) as tick:
        for number, batches in enumerate(plan(once, batch)):
            for part in batches if processes.mine(number) else ():
                said = _kept([once[i] for i in part], work, cache, identity, title)
                found |= zip(part, said, strict=True)
                tick(min(len(found) * processes.count(), len(once)))
    every = {i: said for part in processes.everywhere(found) for i, said in part.items()}
    place = {ask: i for i, ask in enumerate(once)}
    return [every[place[ask]] for ask in asks]


def _kept(part: list[Ask], work: Work, cache: Cache | None, identity: Callable[[], str], title: str) -> list[Any]:
    if cache is None:
        return work(part)
    name = key(identity(), title, [astuple(ask) for ask in part])
    said: list[Any] | None = cache.get(name)
    if said is None:
        said = work(part)
        cache.put(name, said)
    return said
