"""SalUn: random labels, learned only by the weights that matter most to the answers that are to be forgotten.

Images to forget are taught answers of other concepts while retained images keep theirs; the gradient of every weight
outside the saliency mask is zero, and without weight decay the optimiser leaves such a weight exactly as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from unsee.errors import UnseeError
from unsee.rivals.answers import answers_of, mismatched
from unsee.rivals.job import Job, Part
from unsee.rivals.loop import Gradients, schedule, shown, train, used
from unsee.rivals.method import Method, Real, Training
from unsee.rivals.saliency import saliency, top_share


@dataclass(frozen=True)
class Config(Training):
    weights: Literal["lora", "full"] = "full"
    """all weights: new adapters have no saliency of their own"""
    part: Part = "language"
    """of the model, whose weights train"""
    share: float = 0.5
    """of the part's weights that train"""
    salient: int = 256
    """most images to forget whose gradients make the mask"""
    retain_weight: float = 1.0
    """of the retained answers' loss beside that of the random ones"""


def masked(gradients: Mapping[str, Gradients], mask: list[Tensor]) -> Gradients:
    """The sum of all losses' gradients, weight by weight, zero outside the mask."""
    return [sum(of[1:], of[0]) * m for m, *of in zip(mask, *gradients.values(), strict=True)]


def forget(job: Job, config: Config) -> None:
    if config.weights != "full":
        raise UnseeError("SalUn masks a model's own weights, and adapters are new. Set weights to full.")
    steps, answers = schedule(job.material, config), answers_of([*job.material.retain, *job.material.forget])
    seen = [job.material.forget[i] for i in used(steps, "forget")[: config.salient]]
    with job.training(config, config.part) as parameters:
        chosen = top_share(saliency(job, parameters, seen), config.share)
        mask = [chosen[name] for name in parameters]
        train(
            job,
            config,
            parameters,
            lambda step: {
                "random": job.scores(mismatched(job, step, answers, 1, config.seed)).loss(),
                "retain": config.retain_weight * job.scores(shown(job, step, "retain")).loss(),
            },
            combine=lambda gradients: masked(gradients, mask),
            steps=steps,
        )
    job.trained = sum(int(m.sum()) for m in mask)


METHOD = Method(
    name="salun",
    title="SalUn",
    paper="arXiv 2310.12508",
    kind="weights",
    trains="half of the language model's weights",
    forget=forget,
    config=Config,
    space={"lr": Real(3e-5, 3e-3), "share": Real(0.1, 0.9, log=False), "retain_weight": Real(0.3, 30)},
    needs=("forget questions", "retain questions"),
    note="Adapted from image classifiers: a random label is the answer to the same question about another concept, "
    "drawn anew each time; the optimiser is the shared loop's AdamW, not SGD at 0.013.",
)
