"""SKU: learn more of what is to be forgotten, then subtract all that was learned (selective knowledge negation).

First stage, three losses: *guided distortion* learns the answers to be forgotten, *random disassociation* learns other
forgotten answers to the same questions, *preservation divergence* drives the predictions of retained answers away from
what they were, so that the change that is subtracted holds nothing of them. Second stage: ``W - negation * (W' - W)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unsee.rivals import kl
from unsee.rivals.answers import answers_of, mismatched, retained_logits
from unsee.rivals.job import Job
from unsee.rivals.loop import Step, schedule, shown, train
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    """Those of the published code's README: lr 2e-4, weights 2.5, 2.5 and 1, five random answers to a question."""

    lr: float = 2e-4
    distortion_weight: float = 2.5
    """of the loss on the answers to be forgotten"""
    disassociation_weight: float = 2.5
    """of the loss on other forgotten answers"""
    divergence_weight: float = 1.0
    """of the divergence on retained answers, which is climbed"""
    answers: int = 5
    """other forgotten ones, to each question"""
    negation: float = 1.0
    """how often the learned change is subtracted"""


def forget(job: Job, config: Config) -> None:
    learn(job, config)
    negate(job, config.negation)


def learn(job: Job, config: Config) -> None:
    """The first stage."""
    steps = schedule(job.material, config)
    reference = retained_logits(job, config, steps)
    answers = answers_of(job.material.forget)

    def losses(step: Step) -> dict[str, Tensor]:
        other = mismatched(job, step, answers, config.answers, config.seed)
        return {
            "distortion": config.distortion_weight * job.scores(shown(job, step, "forget")).loss(),
            "disassociation": config.disassociation_weight * job.scores(other).loss(),
            "divergence": -config.divergence_weight * kl.retained(job, step, reference),
        }

    with job.training(config, "language") as parameters:
        train(job, config, parameters, losses, steps=steps, name="learning")


@torch.no_grad()
def negate(job: Job, times: float) -> None:
    """Every weight that changed, as far on the other side of what it was."""
    now = job.model.state_dict()
    for name, learned in job.changed().items():
        now[name].copy_(job.vanilla[name] - times * learned)


METHOD = Method(
    name="sku",
    title="SKU",
    paper="arXiv 2402.10058",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "negation": Real(0.3, 10), "divergence_weight": Real(0.01, 1)},
    needs=("forget questions", "retain questions"),
    note="Reconstructed from the abstract and what the published code does; its random answers are of the question's "
    "topic here, and only answers count in its divergence.",
)
