"""Figures of several models on the same items, each item known by its id. Where the items differ it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unsee.errors import UnseeError
from unsee.evaluation import statistics
from unsee.evaluation.statistics import Difference, Share


def same_items(*answers: Mapping[str, object]) -> list[str]:
    """The ids of the items that all have, in order. A difference in any is refused, and shown."""
    first = answers[0]
    for place, other in enumerate(answers[1:], start=2):
        apart = sorted(first.keys() ^ other.keys())
        if apart:
            raise UnseeError(
                f"not the same items: answers 1 have {len(first)} and answers {place} have {len(other)}; "
                f"{len(apart)} are in one of them only, as {', '.join(apart[:3])}. "
                "Evaluate every model on the same benchmark, split, protocol and seed."
            )
    return sorted(first)


def paired(
    before: Mapping[str, float], after: Mapping[str, float], concepts: Mapping[str, str], seed: int = 0
) -> Difference:
    """after − before, item id → value. ``concepts``: item id → concept. See ``statistics.paired``."""
    ids = same_items(before, after)
    return statistics.paired([before[i] for i in ids], [after[i] for i in ids], _of(ids, concepts), seed)


def over_seeds(runs: Sequence[Mapping[str, float]], concepts: Mapping[str, str], seed: int = 0) -> Share:
    """The mean over runs that differ in their seed only, item id → value. See ``statistics.crossed``."""
    ids = same_items(*runs) if runs else []
    return statistics.crossed([[run[i] for i in ids] for run in runs], _of(ids, concepts), seed)


def _of(ids: Sequence[str], concepts: Mapping[str, str]) -> list[str]:
    missing = [i for i in ids if i not in concepts]
    if missing:
        raise UnseeError(f"{len(missing)} items without a concept, as {missing[0]}: give the concept of each item.")
    return [concepts[i] for i in ids]
