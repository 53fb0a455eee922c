"""What a comparison found: each method's trials, its runs on the request that is reported, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unsee.errors import UnseeError
from unsee.evaluation.statistics import Share

VANILLA, GOLD, OURS = (
    "vanilla",
    "gold",
    "unsee",
)  # before forgetting; never taught the forgotten; what others are beside
REFERENCES = (VANILLA, GOLD)


def packed(values: Sequence[float]) -> str:
    """In a file: a sign each where all are 0 or 1, as a run's hundreds of answers are; else numbers, blanks between."""
    if set(values) <= {0, 1}:
        return "".join("1" if value else "0" for value in values)
    return " ".join(map(repr, values))


def unpacked(text: str) -> list[float]:
    return [float(part) for part in (text if set(text) <= {"0", "1"} else text.split())]


@dataclass(frozen=True)
class Trial:
    """One draw of a method's settings, judged on another request than is reported. ``score``: None where it failed."""

    number: int
    settings: dict[str, Any]
    score: float | None
    metrics: dict[str, float]
    seconds: float
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Trial:
        return cls(**given)


@dataclass(frozen=True)
class Run:
    """One seed of a method with the settings chosen for it, on the request that is reported.

    ``values``: figure → one value an item, in the order of ``Comparison.clusters``; ``misnamed`` among them, of
    each picture of the forgotten whether it is given another's name. ``distance``: Kolmogorov-Smirnov, of truth ratios
    to gold's. ``trained``: weights. ``commit``: of the source that ran. ``machine``: processor and precision that ran
    it. A run that failed has its ``error`` and no figures.
    """

    method: str
    seed: int
    settings: dict[str, Any]
    metrics: dict[str, Share]
    values: dict[str, list[float]]
    distance: float | None
    seconds: float
    peak_bytes: int
    trained: int
    error: str = ""
    commit: str = ""
    machine: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"values": {figure: packed(of) for figure, of in self.values.items()}}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Run:
        return cls(**{**given, "values": {figure: unpacked(of) for figure, of in given["values"].items()}})

    @property
    def means(self) -> dict[str, float]:
        return {figure: share["value"] for figure, share in self.metrics.items()}


@dataclass(frozen=True)
class Comparison:
    """``study``: model, data, split, seeds, trials, steps … for the record. ``clusters``: figure → concept an item.

    ``counted``: its tests count swaps; older records drew 50,000, and keep the p that were published with them.
    """

    title: str
    study: dict[str, Any]
    clusters: dict[str, list[str]]
    runs: tuple[Run, ...]
    trials: dict[str, tuple[Trial, ...]]
    machine: dict[str, Any]
    command: str
    commit: str
    counted: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"runs": [run.to_json() for run in self.runs]}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Comparison:
        trials = {name: tuple(map(Trial.from_json, of)) for name, of in given["trials"].items()}
        return replace(cls(**given), runs=tuple(map(Run.from_json, given["runs"])), trials=trials)

    @property
    def methods(self) -> tuple[str, ...]:
        """All with a run or a trial, in the order they came, without the references."""
        return tuple(n for n in dict.fromkeys((*(r.method for r in self.runs), *self.trials)) if n not in REFERENCES)

    def runs_of(self, method: str) -> tuple[Run, ...]:
        """Those that did not fail."""
        return tuple(r for r in self.runs if r.method == method and not r.error)

    @property
    def vanilla(self) -> Run:
        """The model before forgetting, which all shares are of."""
        found = self.runs_of(VANILLA)
        if not found:
            raise UnseeError(f"{self.title}: no run named '{VANILLA}'. Ask the model before it forgets, too.")
        return found[0]

    def errors(self, method: str) -> list[str]:
        return list(dict.fromkeys(r.error for r in self.runs if r.method == method and r.error))
