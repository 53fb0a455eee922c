"""Which differences from ours are more than chance: the same items, whole concepts swapped, corrected for all tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unsee.comparison.figures import MEASURES, Measure
from unsee.comparison.outcome import OURS, Comparison, Run
from unsee.comparison.score import FORGETTING, shares
from unsee.evaluation.statistics import Floats, by_concept, holm, numbers
from unsee.evaluation.swaps import swap_p

SWAPS = 50_000, 500_000  # drawn for a test, and at most, where they are not all counted
CHUNK = 5_000
LEVEL = 0.05
EQUAL = 0.01  # share of what was known: forgetting by so much less still counts as equal


@dataclass(frozen=True)
class Tested:
    """``difference``: a method's figure less ours. ``p``: corrected for all tests of the comparison."""

    difference: float
    p: float

    @property
    def holds(self) -> bool:
        return self.p < LEVEL


def tests(comparison: Comparison) -> dict[tuple[str, str], Tested]:
    """(method, measure) → the method beside ours; empty where ours is not among the methods."""
    ours = comparison.runs_of(OURS)
    methods = [m for m in comparison.methods if m != OURS and comparison.runs_of(m)]
    if not ours or not methods:
        return {}
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for measure in (m for m in MEASURES if m.asked(comparison.clusters)):
        before, clusters = _items(measure, ours, comparison)
        differences = [_items(measure, comparison.runs_of(m), comparison)[0] - before for m in methods]
        ps = (swapped if comparison.counted else recorded)(differences, clusters)
        found |= {(m, measure.key): (float(d.mean()), p) for m, d, p in zip(methods, differences, ps, strict=True)}
    corrected = [p if comparison.counted else round(p, 6) for p in holm([p for _, p in found.values()])]
    return {key: Tested(d, p) for (key, (d, _)), p in zip(found.items(), corrected, strict=True)}


def swapped(differences: Sequence[Floats], clusters: Sequence[str], seed: int = 0) -> list[float]:
    """Two-sided p of each of many differences of the same items, as ``statistics.paired`` has it of one.

    The same swaps for all: a method's p hangs on no other method.
    """
    sums = [by_concept(d, clusters)[0] for d in differences]
    return [swap_p(of, np.random.default_rng(seed), *SWAPS) for of in sums]


def recorded(differences: Sequence[Floats], clusters: Sequence[str]) -> list[float]:
    """As ``swapped``, of records from before swaps were counted: the same 50,000 for all, so that their p stay."""
    sums = np.stack([by_concept(d, clusters)[0] for d in differences], axis=1)
    far, rng = np.zeros(sums.shape[1]), np.random.default_rng(0)
    for _ in range(SWAPS[0] // CHUNK):
        signs = rng.integers(0, 2, size=(CHUNK, len(sums)), dtype=np.int8) * 2.0 - 1
        far += (np.abs(signs @ sums) >= np.abs(sums.sum(axis=0)) - 1e-9).sum(axis=0)
    return [float(p) for p in (far + 1) / (SWAPS[0] + 1)]


def behind(comparison: Comparison) -> list[str]:
    """Where a rival forgets at least as well as ours, and keeps significantly more. A sentence each."""
    if not comparison.runs_of(OURS):
        return []
    tested, before = tests(comparison), _forgetting(comparison, OURS)
    sentences = []
    for method in comparison.methods:
        if method.startswith(OURS) or not comparison.runs_of(method):
            continue
        if (forgets := _forgetting(comparison, method)) < before - EQUAL:
            continue
        for measure in MEASURES:
            test = tested.get((method, measure.key))
            if measure.kept and test and test.holds and test.difference > 0:
                sentences.append(
                    f"{method} keeps {test.difference:.3f} more of {measure.title} than {OURS} (p {test.p:.2g}), "
                    f"and forgets {forgets:.3f} of what was known where {OURS} forgets {before:.3f}."
                )
    return sentences


def unmarkable(comparison: Comparison, count: int) -> list[str]:
    """Measures of so few concepts that of ``count`` tests alone no difference, however large, could be marked."""
    few = []
    for measure in MEASURES:
        concepts = {c for f in measure.asked(comparison.clusters) for c in comparison.clusters[f]}
        if concepts and 2.0 ** (1 - len(concepts)) * count >= LEVEL:
            few.append(f"{measure.title} ({len(concepts)})")
    return few


def _items(measure: Measure, runs: Sequence[Run], comparison: Comparison) -> tuple[Floats, list[str]]:
    """One value an item, averaged over the runs, and its concept. Weighted so that every figure counts the same."""
    figures = measure.asked(comparison.clusters)
    sizes = [len(comparison.clusters[f]) for f in figures]
    values = [
        np.mean([numbers(run.values[f]) for run in runs], axis=0) * sum(sizes) / (len(sizes) * size)
        for f, size in zip(figures, sizes, strict=True)
    ]
    return np.concatenate(values), [c for f in figures for c in comparison.clusters[f]]


def _forgetting(comparison: Comparison, method: str) -> float:
    runs = comparison.runs_of(method)
    return float(np.mean([shares(run.means, comparison.vanilla.means)[FORGETTING] for run in runs]))
