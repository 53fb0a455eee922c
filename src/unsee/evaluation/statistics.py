"""Means with intervals that respect that the questions about one concept stand or fall together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from unsee.errors import UnseeError

Floats = NDArray[np.float64]


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
    sums, counts = _by_concept(values, clusters)
    return _interval(sums, counts, np.random.default_rng(seed), draws)


def paired(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[str], seed: int = 0, draws: int = 2000
) -> Difference:
    """Mean of after − before on the same items, its interval, and p by swapping the two for whole concepts at random.

    Swapping stays honest with few concepts, where a bootstrap p is far too small: two concepts never give p < 0.5.
    """
    if len(before) != len(after):
        raise UnseeError(f"{len(before)} values before and {len(after)} after: give the same items in the same order.")
    sums, counts = _by_concept(np.asarray(after, float) - np.asarray(before, float), clusters)
    rng = np.random.default_rng(seed)
    interval = _interval(sums, counts, rng, draws)
    signs = rng.choice([-1.0, 1.0], size=(draws, len(sums)))
    as_far = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return {**interval, "p": round(float((as_far.sum() + 1) / (draws + 1)), 6)}


def ks(a: Sequence[float], b: Sequence[float]) -> Distance:
    """How far two samples are apart: 0 the same distribution, 1 no overlap."""
    x, y = _numbers(a), _numbers(b)
    test = ks_2samp(x, y)
    return {"distance": round(float(test.statistic), 6), "p": float(f"{test.pvalue:.6g}")}


def _interval(sums: Floats, counts: Floats, rng: np.random.Generator, draws: int) -> Share:
    drawn = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    value, (low, high) = sums.sum() / counts.sum(), np.percentile(means, [2.5, 97.5])
    return {
        "value": round(float(value), 6),
        "low": round(float(min(low, value)), 6),  # few and unequal concepts can put the mean outside its percentiles
        "high": round(float(max(high, value)), 6),
        "n": int(counts.sum()),
    }


def _by_concept(values: Sequence[float] | Floats, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of items of each concept, in the order of the concepts' ids."""
    numbers = _numbers(values)
    if len(numbers) != len(clusters):
        raise UnseeError(f"{len(numbers)} values and {len(clusters)} concept ids: give one id for each value.")
    names, which = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums, counts = np.bincount(which, numbers), np.bincount(which)
    return sums.astype(np.float64), counts.astype(np.float64)


def _numbers(values: Sequence[float] | Floats) -> Floats:
    numbers = np.asarray(values, dtype=float)
    if not numbers.size:
        raise UnseeError("a mean of nothing: there are no values. Was any question asked?")
    if not np.isfinite(numbers).all():
        raise UnseeError(f"{int((~np.isfinite(numbers)).sum())} of {numbers.size} values are NaN or infinite.")
    return numbers
