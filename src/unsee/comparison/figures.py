"""The table's figures, each of one or more of the figures that were asked for: means over seeds, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unsee.comparison.outcome import GOLD, Comparison, Run
from unsee.comparison.score import PARTS, scores
from unsee.evaluation.statistics import Floats, Share, around, by_concept, numbers
from unsee.evaluation.table import Better

RATIOS = "forget_truth_ratio"
DRAWS = 2000
DRAWS_OF_DISTANCE = 400  # each is a distance of two whole distributions


@dataclass(frozen=True)
class Measure:
    """A column that is a mean of figures, every figure counting the same. ``kept``: forgetting should not lower it."""

    key: str
    title: str
    better: Better
    of: tuple[str, ...]
    note: str
    kept: bool = False

    def asked(self, clusters: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Its figures that this study has."""
        return tuple(figure for figure in self.of if figure in clusters)


MEASURES = (
    Measure("forget_names", "forgotten names", "lower", ("forget_names",), "still right on pictures of the forgotten"),
    Measure("forget_facts", "forgotten facts", "lower", ("forget_facts",), "still right, asked with their pictures"),
    Measure(
        "retained", "retained", "higher", ("retain_names", "retain_facts"),
        "mean of names and facts, with pictures of those who are to stay", True,
    ),
    Measure(
        "heldout", "held-out", "higher", ("heldout_names", "heldout_facts"),
        "the same of those who are in no statistic and in no loss of any method", True,
    ),
    Measure(
        "attributes", "attributes", "higher", ("forget_attributes",),
        "what anybody can see on pictures of the forgotten", True,
    ),
    Measure(
        "text", "text", "higher", ("forget_text", "retain_text", "heldout_text"),
        "facts asked by name without a picture: mean of forgotten, retained and held-out", True,
    ),
    Measure("forget_text", "text of forgotten", "higher", ("forget_text",), "of it, facts about the forgotten", True),
    Measure("misnamed", "misnamed", "lower", ("misnamed",), "the forgotten's pictures given somebody else's name"),
)  # fmt: skip
MISNAMED = "misnamed"


class Draws:
    """Concepts drawn with replacement: one draw for all runs, and for all figures that are of the same concepts."""

    def __init__(self, clusters: Mapping[str, Sequence[str]], draws: int = DRAWS, seed: int = 0) -> None:
        self.clusters, self.draws, self.seed = clusters, draws, seed
        self._times: dict[tuple[str, ...], Floats] = {}

    def times(self, figure: str) -> Floats:
        """How often each concept of ``figure`` is drawn: ``[draws, concepts]``, in the order of their ids."""
        concepts = tuple(sorted(set(self.clusters[figure])))
        if concepts not in self._times:
            n, rng = len(concepts), np.random.default_rng([self.seed, len(self._times)])
            self._times[concepts] = rng.multinomial(n, [1 / n] * n, size=self.draws).astype(float)
        return self._times[concepts]

    def means(self, run: Run, figures: Sequence[str]) -> dict[str, Floats]:
        """Figure → its mean in every draw, ``[draws]``."""
        found = {}
        for figure in figures:
            sums, counts = by_concept(run.values[figure], self.clusters[figure])
            times = self.times(figure)
            found[figure] = (times @ sums) / (times @ counts)
        return found

    def over_seeds(self, values: Sequence[float], drawn: Sequence[Floats], n: int) -> Share:
        """Mean of one value a seed, and its interval: seeds are drawn, too (see ``statistics.crossed``)."""
        k = len(values)
        of_seeds = np.random.default_rng(self.seed).multinomial(k, [1 / k] * k, size=self.draws) / k
        return around(float(np.mean(values)), (of_seeds * np.stack(drawn, axis=1)).sum(axis=1), n)


def measured(measure: Measure, runs: Sequence[Run], draws: Draws) -> Share:
    """The mean of the measure's figures over the runs of a method."""
    figures = measure.asked(draws.clusters)
    values = [float(np.mean([np.mean(numbers(run.values[f])) for f in figures])) for run in runs]
    drawn = [np.mean(list(draws.means(run, figures).values()), axis=0) for run in runs]
    return draws.over_seeds(values, drawn, sum(len(draws.clusters[f]) for f in figures))


def scored(comparison: Comparison, runs: Sequence[Run], draws: Draws, score: Callable[[Run], float]) -> Share:
    """The declared score, seed by seed: of the run's and vanilla's answers in the same draws of concepts."""
    figures = [f for of in PARTS.values() for f in of if f in draws.clusters]
    before = draws.means(comparison.vanilla, figures)
    drawn = [scores(draws.means(run, figures), before) for run in runs]
    return draws.over_seeds([score(run) for run in runs], drawn, sum(len(draws.clusters[f]) for f in figures))


def distance(comparison: Comparison, runs: Sequence[Run]) -> Share | None:
    """Between the truth ratios of a method and of gold; None where there is no gold, or no truth ratios."""
    known = [(run, run.distance) for run in runs if run.distance is not None]
    gold = comparison.runs_of(GOLD)
    if not known or not gold or RATIOS not in comparison.clusters:
        return None
    draws = Draws(comparison.clusters, DRAWS_OF_DISTANCE)
    drawn = [_distances(run.values[RATIOS], gold[0].values[RATIOS], draws) for run, _ in known]
    return draws.over_seeds([value for _, value in known], drawn, len(comparison.clusters[RATIOS]))


def _distances(a: Sequence[float], b: Sequence[float], draws: Draws) -> Floats:
    """Kolmogorov-Smirnov distances of the two in every draw of concepts, the same concepts for both: ``[draws]``."""
    _, concept = np.unique(np.asarray(draws.clusters[RATIOS], dtype=str), return_inverse=True)
    points = np.unique([*a, *b])
    times = draws.times(RATIOS)
    below = [_counts_below(numbers(values), concept, points) for values in (a, b)]
    shares = [(times @ counts) / (times @ counts[:, -1:]) for counts in below]
    return np.abs(shares[0] - shares[1]).max(axis=1)


def _counts_below(values: Floats, concept: np.ndarray, points: Floats) -> Floats:
    """Of each concept, how many values are at most each point: ``[concepts, points]``."""
    counts = np.zeros((concept.max() + 1, len(points)))
    np.add.at(counts, (concept, np.searchsorted(points, values)), 1)
    return counts.cumsum(axis=1)
