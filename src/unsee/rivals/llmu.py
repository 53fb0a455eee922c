"""Random mismatch (LLMU): ascent on the true answers, descent on those of others, and a hold on what is to stay.

Every image to forget is also shown with answers that belong to retained concepts, of the same topic and drawn anew each
step: names with names, jobs with jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unsee.rivals import kl
from unsee.rivals.answers import answers_of, mismatched, retained_logits
from unsee.rivals.job import Job
from unsee.rivals.loop import Step, schedule, shown, train
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    """Those of the published code: lr 2e-6, weights 0.5, 1 and 1, five random answers to a question."""

    lr: float = 2e-6
    forget_weight: float = 0.5
    """of the ascent"""
    mismatch_weight: float = 1.0
    """of the loss on answers of others"""
    retain_weight: float = 1.0
    """of the divergence on retained answers"""
    answers: int = 5
    """of others, to each question"""


def forget(job: Job, config: Config) -> None:
    steps = schedule(job.material, config)
    reference = retained_logits(job, config, steps)
    answers = answers_of(job.material.retain)

    def losses(step: Step) -> dict[str, Tensor]:
        wrong = mismatched(job, step, answers, config.answers, config.seed)
        return {
            "forget": -config.forget_weight * job.scores(shown(job, step, "forget")).loss(),
            "mismatch": config.mismatch_weight * job.scores(wrong).loss(),
            "retain": config.retain_weight * kl.retained(job, step, reference),
        }

    with job.training(config, "language") as parameters:
        train(job, config, parameters, losses, steps=steps)


METHOD = Method(
    name="llmu",
    title="LLMU (random mismatch)",
    paper="arXiv 2310.10683",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "mismatch_weight": Real(0.3, 30), "retain_weight": Real(0.3, 30)},
    needs=("forget questions", "retain questions"),
    note="Wrong answers are of the question's topic, where the paper takes any text. No stop at a given loss.",
)
