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


@dataclass(frozen=True)
class Ask:
    """One prompt as the model reads it. ``pictures``: hashes of its images' pixels. ``length``: in tokens, all told.

    ``end``: text that is scored behind each of ``answers``. ``early``: see ``Prompt``.
    """

    text: str
    pictures: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    length: int = 0
    end: str = ""
    early: bool = False

    @property
    def scored(self) -> list[str]:
        """The answers with what ends them."""
        return [answer + self.end for answer in self.answers]


Work = Callable[[list[Ask]], list[Any]]  # answers to one batch, as values of JSON


def plan(asks: Sequence[Ask], batch: int) -> list[list[int]]:
    """Batches of indices, the longest first, so that memory that does not suffice fails at once.

    What is asked about an image stays together, for it is read once; a batch has images or none.
    """
    batches: list[list[int]] = []
    for images in (True, False):
        groups: dict[tuple[str | int, ...], list[int]] = {}
        for i, ask in sorted(enumerate(asks), key=lambda pair: -pair[1].length):
            if bool(ask.pictures) == images:
                groups.setdefault(ask.pictures or (i,), []).append(i)
        full = batch
        for piece in (g[at : at + batch] for g in groups.values() for at in range(0, len(g), batch)):
            if full + len(piece) > batch:
                batches.append([])
                full = 0
            batches[-1] += piece
            full += len(piece)
    return batches


def answered(
    asks: Sequence[Ask], batch: int, work: Work, cache: Cache | None, identity: Callable[[], str], title: str
) -> list[Any]:
    """What ``work`` says to each of ``asks``. ``title``: the settings of the work, which belong to a cached answer.

    Of several processes each does whole batches, and all have all answers in the end.
    """
    once = list(dict.fromkeys(asks))
    found: dict[int, Any] = {}
    with processes.alike(), progress(title, len(once)) as tick:
        for number, part in enumerate(plan(once, batch)):
            if processes.mine(number):
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
