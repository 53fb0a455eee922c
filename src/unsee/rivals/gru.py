"""Gradient rectified unlearning: what a forgetting step would undo of the retained answers is taken out of it.

Where the gradient of the base method points against the retained one, averaged over steps, it is projected on the plane
at right angles to that. Vectors are of all parameters together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unsee.errors import UnseeError, nearest
from unsee.rivals import npo
from unsee.rivals.job import Job
from unsee.rivals.loop import Gradients, Step, schedule, shown, train
from unsee.rivals.method import Choice, Method, Real, Training

BASES = ("ga", "npo")


@dataclass(frozen=True)
class Config(Training):
    """The paper's: lr 1e-5; of the average, the newest gradient weighs 0.8 (as in the published code)."""

    lr: float = 1e-5
    base: Literal["ga", "npo"] = "npo"
    """whose gradient is rectified: gradient ascent, or NPO's on what is to be forgotten"""
    beta: float = 0.1
    """of NPO"""
    smoothing: float = 0.8
    """weight of the newest retained gradient in the running average; 1: no average"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base not in BASES:
            raise UnseeError(f"base '{self.base}'. {nearest(self.base, BASES)}")


def product(a: Gradients, b: Gradients) -> float:
    """Of two vectors that lie in pieces."""
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def rectified(forget: Gradients, retain: Gradients) -> Gradients:
    """``forget`` without its part against ``retain``; unchanged where the two do not conflict."""
    conflict = product(forget, retain)
    if conflict >= 0:
        return forget
    share = conflict / product(retain, retain)
    return [f - share * r for f, r in zip(forget, retain, strict=True)]


def forget(job: Job, config: Config) -> None:
    steps = schedule(job.material, config)
    reference = npo.log_probs_before(job, config, steps) if config.base == "npo" else {}

    def losses(step: Step) -> dict[str, Tensor]:
        return {"forget": base(job, config, step, reference), "retain": job.scores(shown(job, step, "retain")).loss()}

    with job.training(config, "language") as parameters:
        average = {f"average.{n}": torch.zeros_like(p) for n, p in parameters.items()}

        def combine(gradients: Mapping[str, Gradients]) -> Gradients:
            for mean, newest in zip(average.values(), gradients["retain"], strict=True):
                mean.lerp_(newest, config.smoothing)
            return rectified(gradients["forget"], list(average.values()))

        train(job, config, parameters, losses, combine, steps, state=average)


def base(job: Job, config: Config, step: Step, reference: Mapping[int, Tensor]) -> Tensor:
    """The loss of the base method on what is to be forgotten."""
    if config.base == "npo":
        return npo.forgotten(job, step, reference, config.beta)
    return -job.scores(shown(job, step, "forget")).loss()


METHOD = Method(
    name="gru",
    title="GRU",
    paper="arXiv 2503.09117",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "base": Choice(BASES), "smoothing": Real(0.5, 1, log=False)},
    needs=("forget questions", "retain questions"),
    note="Reconstructed from the paper and what its code does. Adapters; the paper trains all weights.",
)
