"""Gradient ascent on the answers about images to forget: the loss that taught them, turned round."""

from __future__ import annotations

from dataclasses import dataclass

from unsee.rivals.job import Job
from unsee.rivals.loop import shown, train
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    """MLLMU-Bench's settings (arXiv 2410.22108): LoRA on the language model, lr 2e-5, batch 4, one epoch."""


def forget(job: Job, config: Config) -> None:
    with job.training(config, "language") as parameters:
        train(job, config, parameters, lambda step: {"forget": -job.scores(shown(job, step, "forget")).loss()})


METHOD = Method(
    name="ga",
    title="Gradient ascent",
    paper="arXiv 2210.01504",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2)},
    needs=("forget questions",),
)
