"""Gradient difference: ascent on what is to be forgotten, descent on what is to stay, in one step."""

from __future__ import annotations

from dataclasses import dataclass

from unsee.rivals.job import Job
from unsee.rivals.loop import shown, train
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    retain_weight: float = 1.0
    """of the retained answers' loss beside that of the forgotten ones"""


def forget(job: Job, config: Config) -> None:
    with job.training(config, "language") as parameters:
        train(
            job,
            config,
            parameters,
            lambda step: {
                "forget": -job.scores(shown(job, step, "forget")).loss(),
                "retain": config.retain_weight * job.scores(shown(job, step, "retain")).loss(),
            },
        )


METHOD = Method(
    name="graddiff",
    title="Gradient difference",
    paper="arXiv 2203.12817",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "retain_weight": Real(0.3, 30)},
    needs=("forget questions", "retain questions"),
)
