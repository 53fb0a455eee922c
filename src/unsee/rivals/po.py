"""Preference optimisation, Idk: the answers about images to forget are taught anew, as a refusal.

Labels of the forgotten images are those of the refusal, never the true answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from unsee.concepts import UNKNOWN
from unsee.rivals.answers import refusing
from unsee.rivals.job import Job
from unsee.rivals.loop import shown, train
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    """Settings of UMU-Bench: lr 1e-5; both losses count once (arXiv 2401.06121)."""

    lr: float = 1e-5
    retain_weight: float = 1.0
    """of the retained answers' loss beside that of the refusals"""
    refusal: str = UNKNOWN
    """the answer that is taught"""


def forget(job: Job, config: Config) -> None:
    refused = refusing(job, job.material.forget, config.refusal)
    with job.training(config, "language") as parameters:
        train(
            job,
            config,
            parameters,
            lambda step: {
                "forget": job.scores([refused[i] for i in step.forget]).loss(),
                "retain": config.retain_weight * job.scores(shown(job, step, "retain")).loss(),
            },
        )


METHOD = Method(
    name="po",
    title="PO (Idk)",
    paper="arXiv 2401.06121",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "retain_weight": Real(0.3, 30)},
    needs=("forget questions", "retain questions"),
    note='One refusal, "unknown"; the paper draws from a hundred.',
)
