"""KL minimisation: ascent on what is to be forgotten, while predictions of what is to stay are held where they were.

The loss is ``-CE(forget) + weight * KL(before || now)``, the second per token of the retained answers and of no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from unsee.rivals.answers import at, retained_logits
from unsee.rivals.job import Job
from unsee.rivals.loop import Step, schedule, shown, train
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    retain_weight: float = 1.0
    """of the divergence on retained answers"""


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(reference || now) of each token: ``[tokens, vocabulary]`` twice → ``[tokens]``."""
    was, now = reference.log_softmax(-1), logits.log_softmax(-1)
    return (was.exp() * (was - now)).sum(-1)


def retained(job: Job, step: Step, reference: Mapping[int, Tensor]) -> Tensor:
    """Mean divergence on the retained examples of a step from what was predicted of them before."""
    now = job.scores(shown(job, step, "retain"))
    return now.mean(divergence(at(reference, step.retain), now.logits))


def forget(job: Job, config: Config) -> None:
    steps = schedule(job.material, config)
    reference = retained_logits(job, config, steps)
    with job.training(config, "language") as parameters:
        train(
            job,
            config,
            parameters,
            lambda step: {
                "forget": -job.scores(shown(job, step, "forget")).loss(),
                "retain": config.retain_weight * retained(job, step, reference),
            },
            steps=steps,
        )


METHOD = Method(
    name="kl",
    title="KL minimisation",
    paper="arXiv 2401.06121",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "retain_weight": Real(0.3, 30)},
    needs=("forget questions", "retain questions"),
    note="Predictions before are computed once, of the answers' tokens; learning rate of MLLMU-Bench.",
)
