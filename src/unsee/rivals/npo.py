"""Negative preference optimisation: an ascent that slows down as an answer grows less likely than it was.

The loss of an answer is ``-(2 / beta) log sigmoid(-beta (log p - log p before))``, of the log-probability summed over
its tokens. Its gradient is that of ``log p`` times ``2 sigmoid(beta (log p - log p before))``: ascent as beta → 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from unsee.rivals.answers import at, before, over_examples
from unsee.rivals.job import Job, Scored
from unsee.rivals.loop import Step, schedule, shown, train, used
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    """The paper's: lr 1e-5, beta 0.1, the retained answers' loss added once."""

    lr: float = 1e-5
    beta: float = 0.1
    """how fast the ascent stops: larger is sooner"""
    retain_weight: float = 1.0
    """of the retained answers' loss; 0: the loss on what is to be forgotten alone"""


def negative(log_probs: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Loss of each answer, of its summed log-probability now and before: ``[answers]``."""
    return -(2 / beta) * logsigmoid(-beta * (log_probs - reference))


def log_probs_before(job: Job, config: Training, steps: Sequence[Step]) -> dict[int, Tensor]:
    """Of the answers to forget that the steps will see: ``[answers]`` of each example."""
    return before(job, config, used(steps, "forget"), job.material.forget, Scored.log_probs)


def forgotten(job: Job, step: Step, reference: Mapping[int, Tensor], beta: float) -> Tensor:
    now = job.scores(shown(job, step, "forget"))
    return over_examples(negative(now.log_probs(), at(reference, step.forget), beta), now.example)


def forget(job: Job, config: Config) -> None:
    steps = schedule(job.material, config)
    reference = log_probs_before(job, config, steps)

    def losses(step: Step) -> dict[str, Tensor]:
        terms = {"forget": forgotten(job, step, reference, config.beta)}
        if config.retain_weight:
            terms["retain"] = config.retain_weight * job.scores(shown(job, step, "retain")).loss()
        return terms

    with job.training(config, "language") as parameters:
        train(job, config, parameters, losses, steps=steps)


METHOD = Method(
    name="npo",
    title="NPO",
    paper="arXiv 2404.05868",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "beta": Real(0.03, 3), "retain_weight": Real(0.3, 30)},
    needs=("forget questions", "retain questions"),
    note="Log-probabilities before are computed once: no second model. Adapters; the paper trains all weights.",
)
