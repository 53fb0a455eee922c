"""Means with intervals that respect that the questions about one concept stand or fall together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from unsee.errors import UnseeError
from unsee.evaluation.swaps import swap_p

Floats = NDArray[np.float64]
MOST = 200_000  # swaps of one figure: of two hundred figures at once the least p is still 0.001


class Share(TypedDict):
    """A mean over ``n`` items and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class Difference(Share):
    """After minus before, and the two-sided p that nothing changed."""

    p: float


class Distance(TypedDict):
    """Kolmogorov-Smirnov: the largest gap between two distributions, and its p."""

    distance: float
    p: float


def share(values: Sequence[float], clusters: Sequence[str], seed: int = 0, draws: int = 2000) -> Share:
    """The mean and its percentile bootstrap, whole concepts (``clusters``: one id per value) drawn with replacement.

    Where every concept scores the same the interval has no width: that says that nothing varied, not that it is sure.
    """
    sums, counts = by_concept(values, clusters)
    return _interval(sums, counts, np.random.default_rng(seed), draws)


def paired(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[str], seed: int = 0, draws: int = 2000
) -> Difference:
    """Mean of after − before on the same items, its interval, and p by swapping the two for whole concepts at random.

    Swapping stays honest with few concepts, where a bootstrap p is far too small: two concepts never give p < 0.5.
    ``draws``: of the interval; where swaps are not all counted so many are drawn, and up to MOST where p is small.
    """
    if len(before) != len(after):
        raise UnseeError(f"{len(before)} values before and {len(after)} after: give the same items in the same order.")
    sums, counts = by_concept(np.asarray(after, float) - np.asarray(before, float), clusters)
    rng = np.random.default_rng(seed)
    interval = _interval(sums, counts, rng, draws)
    return {**interval, "p": digits(swap_p(sums, rng, draws, max(draws, MOST)))}


def ks(a: Sequence[float], b: Sequence[float]) -> Distance:
    """How far two samples are apart: 0 the same distribution, 1 no overlap."""
    x, y = numbers(a), numbers(b)
    test = ks_2samp(x, y)
    return {"distance": round(float(test.statistic), 6), "p": digits(float(test.pvalue))}


def js(a: Sequence[float], b: Sequence[float]) -> float:
    """Jensen-Shannon distance of two samples' histograms, to base 2: 0 the same, 1 no bin in common.

    Equal bins from the least value to the largest, as many as the root of the smaller sample. Small samples of one
    distribution are some way apart too, so compare it with that of two seeds of gold, and give it bounded values.
    """
    x, y = numbers(a), numbers(b)
    bins = math.ceil(math.sqrt(min(len(x), len(y))))
    edges = np.linspace(min(x.min(), y.min()), max(x.max(), y.max()), bins + 1)
    p, q = (np.bincount(np.searchsorted(edges[1:-1], of, side="right"), minlength=bins) for of in (x, y))
    return round(float(jensenshannon(p, q, base=2)), 6)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p, made larger for having looked at them all: below 0.05 where it still holds (Holm 1979)."""
    order = np.argsort(numbers(ps), kind="stable")
    larger = np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(larger), 1)
    return [digits(p) for p in adjusted.tolist()]


def digits(p: float) -> float:
    """Six of them, however small: p is above 0, and stays it."""
    return float(f"{p:.6g}")


def crossed(rows: Sequence[Sequence[float]], clusters: Sequence[str], seed: int = 0, draws: int = 2000) -> Share:
    """The mean over seeds (one row each, the same items in every row), whole seeds and whole concepts drawn at once.

    Both are drawn with replacement, apart from each other, since every seed answers every item (the pigeonhole
    bootstrap, doi 10.1214/07-AOAS122). Few seeds understate how much seeds matter: three by a fifth. ``n``: items.
    """
    parts = [by_concept(row, clusters) for row in rows]
    if not parts:
        raise UnseeError("a mean over no seeds: give at least one run.")
    sums, counts = np.stack([s for s, _ in parts]), parts[0][1]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(sums.shape[1], size=(draws, sums.shape[1]))
    of_seeds = rng.multinomial(len(sums), [1 / len(sums)] * len(sums), size=draws) / len(sums)
    means = np.take_along_axis(of_seeds @ sums, drawn, axis=1).sum(axis=1) / counts[drawn].sum(axis=1)
    return around(float(sums.mean(axis=0).sum() / counts.sum()), means, int(counts.sum()))


def _interval(sums: Floats, counts: Floats, rng: np.random.Generator, draws: int) -> Share:
    drawn = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return around(float(sums.sum() / counts.sum()), means, int(counts.sum()))


def around(value: float, means: Floats, n: int) -> Share:
    """``value`` of ``n`` items, and the 95 % interval of its bootstrap ``means``."""
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "value": round(value, 6),
        "low": round(min(float(low), value), 6),  # few and unequal concepts can put the mean outside its percentiles
        "high": round(max(float(high), value), 6),
        "n": n,
    }


def by_concept(values: Sequence[float] | Floats, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of items of each concept, in the order of the concepts' ids."""
    found = numbers(values)
    if len(found) != len(clusters):
        raise UnseeError(f"{len(found)} values and {len(clusters)} concept ids: give one id for each value.")
    names, which = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums, counts = np.bincount(which, found), np.bincount(which)
    return sums.astype(np.float64), counts.astype(np.float64)


def numbers(values: Sequence[float] | Floats) -> Floats:
    """The values as an array; none at all, NaN and infinity are refused."""
    found = np.asarray(values, dtype=float)
    if not found.size:
        raise UnseeError("a mean of nothing: there are no values. Was any question asked?")
    if not np.isfinite(found).all():
        raise UnseeError(f"{int((~np.isfinite(found)).sum())} of {found.size} values are NaN or infinite.")
    return found
