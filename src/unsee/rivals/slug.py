"""SLUG: one step along one gradient in one layer of the vision tower.

The layer lies on the Pareto front of two wishes: a forget gradient that is large beside the weight, and little aligned
with the retain gradient. The step's size is found by binary search on examples of which no gradient was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.rivals.job import Job
from unsee.rivals.material import Example, evenly
from unsee.rivals.method import Choice, Method, Real

BATCH = 16  # examples at a time


@dataclass(frozen=True)
class Config:
    part: str = "tower"
    """where the layer is looked for: tower, or visual: the projector's too"""
    gone: float = 0.05
    """share of the held-out answers about images to forget that may stay right; the paper's is 0"""
    start: float = 0.1
    """first step, as a share of the norm of the layer's weight"""
    searches: int = 10
    """steps tried in a layer"""
    layers: int = 3
    """how many layers of the front are tried, those of the largest gradient first; the paper tries all"""
    examples: int = 128
    """images of each set whose gradient is taken"""
    held: int = 32
    """images of each set on which a step is judged"""

    def __post_init__(self) -> None:
        if self.part not in ("tower", "visual") or min(self.searches, self.layers, self.examples, self.held) < 1:
            raise UnseeError(
                f"part '{self.part}', searches {self.searches}, layers {self.layers}, examples {self.examples}, held "
                f"{self.held}. Allowed: part tower or visual, the others from 1."
            )


def front(importance: Sequence[float], alignment: Sequence[float]) -> list[int]:
    """Those that no other beats in both, more important and less aligned; the most important first."""
    both = list(zip(importance, alignment, strict=True))
    free = [i for i, (x, y) in enumerate(both) if not any(a > x and b < y for a, b in both)]
    return sorted(free, key=lambda i: -importance[i])


def search(judge: Callable[[float], tuple[float, float]], config: Config) -> tuple[float, float]:
    """The best of the steps tried and its score: answers still right about retained images less those about images to
    forget, of which as many as ``gone`` do not count.

    ``judge``: step → both shares of right answers, about images to forget first. Returns the score, the step.
    """
    low, high, step = 0.0, 0.0, config.start
    tried: list[tuple[float, float]] = []
    for _ in range(config.searches):
        forgotten, retained = judge(step)
        tried.append((retained - max(forgotten, config.gone), -step))
        low, high = (step, high) if forgotten > config.gone else (low, step)
        step = (low + high) / 2 if high else 2 * step
    score, negative = max(tried)  # of equal ones the smallest step
    return score, -negative


def forget(job: Job, config: Config) -> None:
    given = job.material
    if len(given.forget) < 2 or len(given.retain) < 2:
        raise UnseeError(
            "SLUG judges a step on images of which it took no gradient: give two or more to forget and retain."
        )
    weights = _layers(job, config)
    sets = [_halves(s, config) for s in (given.forget, given.retain)]
    grads = [_gradient(job, weights, seen) for seen, _ in sets]
    importance = [float(g.norm() / weights[n].norm()) for n, g in grads[0].items()]
    cosines = [nn.functional.cosine_similarity(grads[0][n].flatten(), grads[1][n].flatten(), 0) for n in weights]
    names = [list(weights)[i] for i in front(importance, [float(c.abs()) for c in cosines])][: config.layers]
    found = []
    for name in names:
        weight, old = weights[name], weights[name].detach().clone()
        way = grads[0][name] * (old.norm() / grads[0][name].norm())

        def judge(
            step: float, weight: nn.Parameter = weight, old: Tensor = old, way: Tensor = way
        ) -> tuple[float, float]:
            _put(job, weight, old + step * way)
            return _right(job, sets[0][1]), _right(job, sets[1][1])

        score, step = search(judge, config)
        _put(job, weight, old)
        found.append((score, name, old + step * way))
    _, name, best = max(found, key=lambda f: f[0])
    _put(job, weights[name], best)
    job.trained = best.numel()


def _layers(job: Job, config: Config) -> dict[str, nn.Parameter]:
    """The weights of the linear layers that may be changed, by name."""
    left_out = job.linears("projector") if config.part == "tower" else {}
    found = {n: cast(nn.Parameter, m.weight) for n, m in job.linears("visual").items() if n not in left_out}
    if not found:
        raise UnseeError("no linear layer of the vision tower reaches the features. Set part to visual.")
    return found


def _halves(examples: Sequence[Example], config: Config) -> tuple[list[Example], list[Example]]:
    """Every other image for the gradient, the others to judge by; evenly chosen, as many as asked for."""
    return evenly(examples[::2], config.examples), evenly(examples[1::2], config.held)


def _gradient(job: Job, weights: Mapping[str, nn.Parameter], examples: Sequence[Example]) -> dict[str, Tensor]:
    """Of the examples' mean loss."""
    total = {n: torch.zeros_like(w) for n, w in weights.items()}
    for w in weights.values():
        w.requires_grad_(True)
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        grads = torch.autograd.grad(job.scores(part).loss() * len(part) / len(examples), list(weights.values()))
        for n, g in zip(weights, grads, strict=True):
            total[n] += g
    job.model.requires_grad_(False)
    if not all(float(g.norm()) > 0 for g in total.values()):
        raise UnseeError("SLUG: the loss has no gradient in a layer of the vision tower.")
    return total


def _put(job: Job, weight: nn.Parameter, value: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(value)
    job.refresh()


@torch.no_grad()
def _right(job: Job, examples: Sequence[Example]) -> float:
    """Share of answers of which every token is the likeliest."""
    right = []
    for part in job.parts(examples):
        scored = job.scores(part)
        wrong = (scored.logits.argmax(-1) != scored.labels).long()
        right.append(wrong.new_zeros(len(scored.example)).index_add(0, scored.answer, wrong) == 0)
    return float(torch.cat(right).double().mean())


METHOD = Method(
    name="slug",
    title="SLUG",
    paper="arXiv 2407.11867",
    kind="edit",
    trains="one layer of the tower",
    forget=forget,
    config=Config,
    space={"gone": Real(0.01, 0.5), "part": Choice(("tower", "visual"))},
    needs=("forget questions", "retain questions"),
    note="Adapted: the losses are those of answers, not of image-text pairs; a few layers of the front are tried, and "
    "the one that judges best is kept.",
)
