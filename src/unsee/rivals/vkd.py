"""VKD: visual weights that matter to the forgotten answers climb their loss; retained images keep their features.

The language model is frozen. The teacher is the model before: what its encoder makes of retained images, and what its
language model is given of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.rivals.feedforward import watched
from unsee.rivals.job import Job
from unsee.rivals.loop import Gradients, Step, schedule, shown, train, used
from unsee.rivals.material import Example
from unsee.rivals.method import Method, Real, Training
from unsee.rivals.saliency import saliency, sample, top_share

Views = list[Tensor]  # of one image: features before the projector and after it, ``[tokens, width]``


@dataclass(frozen=True)
class Config(Training):
    lr: float = 1e-5
    weights: Literal["lora", "full"] = "full"
    forget_weight: float = 1.0
    """of the forgotten answers' loss, which is climbed"""
    retain_weight: float = 1.0
    """of the distance between retained images' features and the teacher's"""
    share: float = 0.5
    """of the visual weights that train: those with the largest gradient of the forgotten answers' loss"""
    saliency_examples: int = 128
    """forgotten images whose gradients are summed for that"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights != "full":
            raise UnseeError("VKD masks single weights of the vision encoder and projector: set weights to 'full'.")
        if not 0 < self.share <= 1 or self.saliency_examples < 1:
            raise UnseeError(f"share {self.share}, saliency_examples {self.saliency_examples}: (0, 1] and at least 1.")


def distance(now: Sequence[Views], teacher: Sequence[Views]) -> Tensor:
    """Mean squared error of every view, its mean over views and images."""
    pairs = [pair for n, t in zip(now, teacher, strict=True) for pair in zip(n, t, strict=True)]
    return torch.stack([(a.float() - b).square().mean() for a, b in pairs]).mean()


def masked(found: Mapping[str, Gradients], masks: Sequence[Tensor]) -> Gradients:
    """The sum of the losses' gradients, zero where a weight is not to train."""
    return [sum(each) * mask for *each, mask in zip(*found.values(), masks, strict=True)]


def forget(job: Job, config: Config) -> None:
    steps = schedule(job.material, config)
    retain = job.material.retain
    if not retain:
        raise UnseeError("VKD keeps the features of retained images, and the material has none.")
    asked = sample(job.material.forget, config.saliency_examples, np.random.default_rng([config.seed, 19]))
    projector = dict(list(job.linears("projector").items())[:1])
    with torch.no_grad():
        teacher = {i: views(job, projector, [retain[i]])[0] for i in used(steps, "retain")}
    with job.training(config, "visual") as parameters:
        scores = saliency(job, parameters, asked)
        masks = list(top_share(scores, config.share).values())

        def losses(step: Step) -> dict[str, Tensor]:
            kept = distance(views(job, projector, shown(job, step, "retain")), [teacher[i] for i in step.retain])
            lost = job.scores(shown(job, step, "forget")).loss()
            return {"forget": -config.forget_weight * lost, "retain": config.retain_weight * kept}

        train(job, config, parameters, losses, lambda found: masked(found, masks), steps)


def views(job: Job, projector: Mapping[str, nn.Linear], examples: Sequence[Example]) -> list[Views]:
    """Each image as the projector's first layer gets it, where there is one, and as the language model does."""
    pixels = job.pixels(examples)
    found: dict[int, Views] = {}
    for bucket in job.visual.buckets(pixels):
        seen: list[Tensor] = []

        def see(_: str, x: Tensor, seen: list[Tensor] = seen) -> None:
            seen.append(x.flatten(0, -2))

        with watched(projector, see):
            features = job.visual.run(job.visual.join([pixels[i] for i in bucket]), len(bucket))
        total = sum(map(len, features))
        before = [torch.cat(seen).split([len(f) * len(seen[0]) // total for f in features])] if seen else []
        found |= zip(bucket, map(list, zip(*before, features, strict=True)), strict=True)
    return [found[i] for i in range(len(examples))]


METHOD = Method(
    name="vkd",
    title="VKD",
    paper="arXiv 2512.11325",
    kind="weights",
    trains="vision encoder and projector, the half that matters most",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-5, 1e-3), "retain_weight": Real(0.3, 30), "share": Real(0.1, 1.0)},
    needs=("forget questions", "retain images"),
    note="Reconstructed: the paper's equations are not public. Climbs the cross-entropy of forgotten answers, keeps "
    "retained images' features before and after the projector at those of the model before by mean squared error, and "
    "trains the visual weights with the largest summed gradient of the forgotten answers' loss, all others masked.",
)
