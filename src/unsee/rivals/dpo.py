"""IdkDPO: direct preference optimisation (arXiv 2305.18290) in which a refusal is preferred to the true answer.

The loss of a question is ``-(2 / beta) log sigmoid(beta (gain of the refusal - gain of the true answer))``; a gain is a
summed log-probability less what it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import logsigmoid

from unsee.concepts import UNKNOWN
from unsee.rivals.answers import at, before, over_examples, refusing
from unsee.rivals.job import Job, Scored
from unsee.rivals.loop import Step, schedule, shown, train, used
from unsee.rivals.material import Example
from unsee.rivals.method import Method, Real, Training


@dataclass(frozen=True)
class Config(Training):
    """Settings of arXiv 2404.05868: lr 1e-5, beta 0.1, the retained answers' loss added once."""

    lr: float = 1e-5
    beta: float = 0.1
    """how soon a preference is enough: larger is sooner"""
    retain_weight: float = 1.0
    """of the retained answers' loss; 0: the preference alone"""
    refusal: str = UNKNOWN
    """the answer that is preferred"""


def preference(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Loss of each question, of the two answers' log-probabilities less those before: ``[questions]``."""
    return -(2 / beta) * logsigmoid(beta * (chosen - rejected))


def pairs(job: Job, examples: Sequence[Example], refusal: str) -> list[Example]:
    """Each question twice: answered by the refusal, then truly. Both hang on one image and do not see each other."""
    both = zip(examples, refusing(job, examples, refusal), strict=True)
    return [
        replace(e, questions=tuple(q for pair in zip(r.questions, e.questions, strict=True) for q in pair))
        for e, r in both
    ]


def preferred(scored: Scored, reference: Tensor, beta: float) -> Tensor:
    """Mean loss of ``pairs``. ``reference``: their answers' log-probabilities before."""
    gain = scored.log_probs() - reference
    return over_examples(preference(gain[0::2], gain[1::2], beta), scored.example[0::2])


def forget(job: Job, config: Config) -> None:
    steps = schedule(job.material, config)
    paired = pairs(job, job.material.forget, config.refusal)
    reference = before(job, config, used(steps, "forget"), paired, Scored.log_probs)

    def losses(step: Step) -> dict[str, Tensor]:
        now = job.scores([paired[i] for i in step.forget])
        terms = {"forget": preferred(now, at(reference, step.forget), config.beta)}
        if config.retain_weight:
            terms["retain"] = config.retain_weight * job.scores(shown(job, step, "retain")).loss()
        return terms

    with job.training(config, "language") as parameters:
        train(job, config, parameters, losses, steps=steps)


METHOD = Method(
    name="dpo",
    title="IdkDPO",
    paper="arXiv 2404.05868",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "beta": Real(0.03, 3), "retain_weight": Real(0.3, 30)},
    needs=("forget questions", "retain questions"),
    note='One refusal, "unknown"; the paper draws from a hundred. Adapters; the paper trains all weights.',
)
