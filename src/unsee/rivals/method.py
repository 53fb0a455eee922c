"""What a method is to the comparison: its settings, paper and needs, and one function that makes a model forget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from unsee.errors import UnseeError, nearest
from unsee.hardware import has_bf16

Need = Literal["forget questions", "retain images", "retain questions", "text", "neutral images", "statistics", "gold"]
Kind = Literal["weights", "edit", "guardrail", "reference"]


@dataclass(frozen=True)
class Real:
    """A number between two, by its logarithm unless said otherwise."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


Space = Mapping[str, Real | Choice]


@dataclass(frozen=True)
class Training:
    """How the shared loop trains a method that descends a gradient. Each method's own settings add to it."""

    lr: float = 2e-5
    """peak learning rate; it falls to zero in a line (MLLMU-Bench, arXiv 2410.22108)"""
    steps: int = 0
    """optimiser steps; 0: one pass over the images to forget"""
    batch: int = 4
    """images of each set a step"""
    accumulate: int = 1
    """parts into which a step's batch is cut, to save memory; the step is the same"""
    weights: Literal["lora", "full"] = "lora"
    """what trains of the part: low-rank adapters on its linear layers (arXiv 2106.09685), or all its weights"""
    rank: int = 16
    """of the adapters"""
    alpha: int = 16
    """of the adapters: their product counts alpha / rank times"""
    clip: float = 1.0
    """largest norm of a step's gradient"""
    bf16: bool = field(default_factory=has_bf16)
    """bfloat16 matrix products (weights stay float32); default: if fast here"""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "batch", "accumulate", "rank", "alpha", "clip"):
            if not getattr(self, name) > 0:
                raise UnseeError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.batch % self.accumulate:
            raise UnseeError(f"a batch of {self.batch} cannot be cut into {self.accumulate} equal parts (accumulate).")
        if self.weights not in ("lora", "full"):
            raise UnseeError(f"weights '{self.weights}'. {nearest(self.weights, ('lora', 'full'))}")


@dataclass(frozen=True)
class Method:
    """One row of the table.

    ``forget(job, config)`` changes ``job.model`` in place, or guards it (``job.guard``). ``config``: a dataclass whose
    defaults are the paper's. ``space``: what is tuned, the same number of trials for every method. ``needs``: beside
    the images to forget. ``note``: how it departs from its paper.
    """

    name: str
    title: str
    paper: str
    kind: Kind
    trains: str
    forget: Callable[[Any, Any], None]
    config: type
    space: Space = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for allowed, given in ((get_args(Kind), (self.kind,)), (get_args(Need), self.needs)):
            for word in given:
                if word not in allowed:
                    raise UnseeError(f"method {self.name}: '{word}'. {nearest(word, allowed)}")
        known = [f.name for f in fields(self.config)]
        for name in self.space:
            if name not in known:
                raise UnseeError(f"method {self.name} tunes '{name}', which is no setting. {nearest(name, known)}")

    def settings(self, **values: Any) -> Any:
        """The config with these values; those that it does not have are left out."""
        known = {f.name for f in fields(self.config)}
        return self.config(**{k: v for k, v in values.items() if k in known})
