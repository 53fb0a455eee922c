"""MANU: cut the feed-forward neurons that tell images from text more on what is to be forgotten than on what stays.

No training. A neuron's importance on a set of examples compares how it fires on images with questions and on the same
kind of questions by name alone; those with the largest ratio, forgotten to retained, are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unsee.errors import UnseeError
from unsee.rivals.feedforward import feed_forward, watched
from unsee.rivals.job import Job, Part
from unsee.rivals.material import Example
from unsee.rivals.method import Choice, Method, Real
from unsee.rivals.saliency import sample, top_share

EPSILON = 1e-6
Activity = dict[str, Tensor]  # of each block's neurons: [examples, neurons]


@dataclass(frozen=True)
class Config:
    share: float = 0.03
    """of the neurons of the vision encoder, and of the language model, that are cut (the paper: 1 to 5 %, best 3 %)"""
    layers: int = 0
    """only the last so many layers of each; 0: all"""
    threshold: float = 0.1
    """activity above which a neuron counts as firing"""
    examples: int = 64
    """of each set, from which importance is measured"""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UnseeError(f"share is {self.share}; it must be between 0 and 1.")
        if self.layers < 0 or self.examples < 1:
            raise UnseeError(f"layers is {self.layers}, examples {self.examples}; at least 0 and 1.")


def importance(multi: Tensor, text: Tensor, threshold: float) -> Tensor:
    """The sum of four measures: absolute, frequency, variance, root mean square.

    ``multi``, ``text``: how strongly each neuron fires on each example, ``[examples, neurons]``, never negative.
    """
    mean_m, mean_t = multi.mean(0), text.mean(0)
    often_m, often_t = ((x > threshold).to(x).sum(0) for x in (multi, text))
    energy_m, energy_t = multi.square().sum(0), text.square().sum(0)
    variance = (multi - mean_m).square().mean(0) + (text - mean_t).square().mean(0)
    return contrast(mean_m, mean_t) + contrast(often_m, often_t) + variance.sqrt() + contrast(energy_m, energy_t).sqrt()


def contrast(a: Tensor, b: Tensor) -> Tensor:
    """|a − b| / (a + b)"""
    return (a - b).abs() / (a + b + EPSILON)


def score(forget: Tensor, retain: Tensor) -> Tensor:
    """Importance for what is to be forgotten over importance for what stays."""
    return forget / (retain + EPSILON)


def forget(job: Job, config: Config) -> None:
    given = job.material
    if not (given.retain and given.text and given.forget_text):
        raise UnseeError("MANU compares images with text, so it needs retained images and questions by name alone.")
    rng = np.random.default_rng([config.seed, 11])
    sets = [sample(s, config.examples, rng) for s in (given.forget, given.forget_text, given.retain, given.text)]
    for part in ("visual", "language"):
        last = _last_layers(job, part, config.layers)
        multi_f, text_f, multi_r, text_r = (activity(job, part, last, s) for s in sets)
        scores = {
            n: score(
                importance(multi_f[n], text_f[n], config.threshold), importance(multi_r[n], text_r[n], config.threshold)
            )
            for n in last
        }
        for name, cut in top_share(scores, config.share).items():
            prune(job, name, cut)


def activity(job: Job, part: Part, names: Sequence[str], examples: Sequence[Example]) -> Activity:
    """How strongly the neurons before each of these layers fire: their mean absolute value over an example's tokens.

    Text alone does not run the vision encoder, whose neurons then do not fire.
    """
    found: dict[str, list[Tensor]] = {n: [] for n in names}
    modules = {n: job.model.get_submodule(n) for n in names}
    if part == "visual" and not examples[0].image:
        return {n: torch.zeros(len(examples), m.in_features) for n, m in modules.items()}
    for example in examples:
        pixels = job.pixels([example])
        with torch.no_grad(), watched(modules, lambda n, x: found[n].append(x.abs().flatten(0, -2).mean(0).cpu())):
            job.visual.features(pixels) if part == "visual" else job.scores([example])
    return {n: torch.stack(rows).float() for n, rows in found.items()}


@torch.no_grad()
def prune(job: Job, name: str, cut: Tensor) -> None:
    """Nothing goes out of these neurons any more: their columns of the layer after them are zero."""
    weight = job.model.get_submodule(name).weight
    weight[:, cut.to(weight.device)] = 0
    job.trained += int(cut.sum()) * len(weight)


def _last_layers(job: Job, part: Part, layers: int) -> list[str]:
    """The layer that closes each block of a part, whose inputs are the block's neurons."""
    found = [list(block)[-1] for block in feed_forward(job, part).values()]
    return found[-layers:] if layers else found


METHOD = Method(
    name="manu",
    title="MANU",
    paper="arXiv 2502.15910",
    kind="edit",
    trains="nothing: neurons of vision encoder and language model are cut",
    forget=forget,
    config=Config,
    space={"share": Real(0.002, 0.3), "layers": Choice((0, 3))},
    needs=("forget questions", "retain questions", "text"),
    note="Reconstructed where the paper is silent: a neuron's activity on an example is its mean absolute value over "
    "the example's tokens; vision encoder and language model are ranked apart, since text never runs the encoder and "
    "three of its four measures are then constant; a neuron is cut by its outgoing weights.",
)
