"""Closed-form edits of the visual module: one linear solve for each layer input, no gradient steps.

AlphaEdit (arXiv 2410.02355) adds D = R K1ᵀ P (K1 K1ᵀ P + L2 I)⁻¹ to a layer: K1 are its inputs on what is edited, R is
what its outputs lack there, P projects onto the null space of its inputs on what is to stay. Here K1 are the inputs on
images to forget, and the wanted outputs are nobody's: at each place of the image the mean over a concept's views goes
to the mean over neutral images, and a view keeps what tells it from its concept's mean. As a layer is linear, the
outputs lack R = -W A, where A are the differences of the mean inputs; all layers that share an input share one solve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.forgetting import nullspace
from unsee.forgetting.recorder import MomentRecorder
from unsee.progress import progress
from unsee.rivals.job import CHUNK, Job
from unsee.rivals.material import Example, evenly
from unsee.rivals.method import Choice, Method, Real
from unsee.vision.blocks import Seen, Upper, upper_layers
from unsee.vision.trace import trace


@dataclass(frozen=True)
class Config:
    depth: float = 0.2
    """share of the tower's blocks that are edited, the last ones, and the projector; 0: the projector alone"""
    rule: Literal["absolute", "ratio", "tail", "cumulative", "soft"] = "tail"
    """which directions of the retained inputs are null (unsee.forgetting.nullspace); the paper's is absolute, 0.02"""
    value: float = 0.03
    """the rule's threshold"""
    ridge: float = 0.1
    """L2, in mean eigenvalues of the second moment of the inputs on images to forget; the paper's is 10, of sums"""
    strength: float = 1.0
    """of the edit: 1 goes to the neutral mean, as far as the null space and L2 let it"""
    images: int = 500
    """most images of each set"""

    def __post_init__(self) -> None:
        nullspace.fit(torch.eye(1), self.rule, self.value)  # refuses a rule or value that is none
        if self.depth < 0 or self.ridge <= 0 or self.images < 1:
            raise UnseeError(
                f"depth {self.depth}, ridge {self.ridge}, images {self.images}. Allowed: depth from 0, ridge above 0, "
                f"images from 1."
            )


@dataclass
class Inputs:
    """What a layer is given: ``second``, the mean of x xᵀ over rows [width, width]; by concept and place of the image
    the sum of x [concepts, places, width], and of how many rows [concepts, places]."""

    second: Tensor
    sums: Tensor
    counts: Tensor

    @property
    def means(self) -> Tensor:
        return self.sums / self.counts.clamp(min=1)[..., None]


def lacking(forget: Inputs, neutral: Inputs) -> Tensor:
    """A K1ᵀ as a mean over rows, [width, width].

    A row's difference is its concept's, so the sum over the rows x of a concept and place is all that is needed.
    """
    away = forget.means - neutral.means
    return torch.einsum("cpi,cpj->ij", away, forget.sums) / forget.counts.sum()


def solve(second: Tensor, away: Tensor, projector: Tensor, ridge: float) -> Tensor:
    """M = A K1ᵀ P (K1 K1ᵀ P + L2 I)⁻¹, [width, width]; the edit of a layer's weight is -W M.

    ``second``: K1 K1ᵀ, ``away``: A K1ᵀ, both as means over rows. ``projector``: P. ``ridge``: L2, relative.
    """
    damping = ridge * second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype)
    return torch.linalg.solve(projector @ second + damping, projector @ away.T).T


@dataclass
class Shown:
    """Images that have entered the upper blocks, and which concept each shows, from 0."""

    images: list[Seen]
    concepts: list[int]


def forget(job: Job, config: Config) -> None:
    given = job.material
    if not given.retain or not given.neutral:
        raise UnseeError(
            "AlphaEdit's null space is that of retained and neutral images, and some are missing: give both."
        )
    probe = job.pixels(given.forget[:2])
    linears = trace(job.visual, probe[0]).linears
    projector = {} if config.depth else job.projector()
    names = upper_layers(linears, config.depth) if config.depth else [n for n in linears if n in projector]
    upper = Upper(job.visual, linears, names, probe, bf16=False)
    known = _shown(job, upper, given.forget, config.images)
    nobody = _shown(job, upper, given.neutral, config.images, apart=False)
    stay = _shown(job, upper, given.retain, config.images, apart=False)
    stay = Shown(stay.images + nobody.images, stay.concepts + nobody.concepts)
    one = len(_by_size(known.images + nobody.images)) > 1  # images of several sizes have no places in common
    groups: dict[str, list[str]] = {}
    for name in names:  # in the order in which they run
        groups.setdefault(linears[name].shares, []).append(name)
    layers = {n: m for n, m in job.model.named_modules() if isinstance(m, nn.Linear)}
    with progress("solving", len(groups)) as tick, torch.no_grad():
        for done, sharing in enumerate(groups.values(), start=1):
            before, others, kept = (_inputs(upper, layers[sharing[0]], s, one) for s in (known, nobody, stay))
            null = nullspace.fit(kept.second, config.rule, config.value).dense()
            edit = config.strength * solve(before.second, lacking(before, others), null, config.ridge)
            for name in sharing:
                weight = layers[name].weight
                weight -= (weight.double() @ edit.to(weight.device)).to(weight.dtype)
                job.trained += weight.numel()
            tick(done)
    job.refresh()


def _shown(job: Job, upper: Upper, examples: Sequence[Example], most: int, apart: bool = True) -> Shown:
    """At most so many of the examples' images, evenly chosen. ``apart``: concept by concept, or as one."""
    chosen = evenly(examples, most)
    index = {c: i if apart else 0 for i, c in enumerate(dict.fromkeys(e.concept for e in chosen))}
    images: list[Seen] = [dict(p) for p in job.pixels(chosen)]
    upper.look(images, lambda features: features[:0])
    return Shown(images, [index[e.concept] for e in chosen])


def _inputs(upper: Upper, layer: nn.Linear, shown: Shown, one: bool) -> Inputs:
    """The inputs of a layer on images, in the model as it is now. ``one``: all places of an image count as one."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    n, sums, counts = max(shown.concepts) + 1, torch.zeros(()), torch.zeros(())
    try:
        with MomentRecorder({"layer": layer}) as recorder:
            recorder.mask = upper.visual.real_rows
            for alike in _by_size(shown.images).values():
                for part in (alike[i : i + CHUNK] for i in range(0, len(alike), CHUNK)):
                    upper.features([shown.images[i] for i in part])
                    total, count = _by_place(upper, seen.pop(), len(part), one)
                    whose = torch.tensor([shown.concepts[i] for i in part])
                    sums = sums + total.new_zeros(n, *total.shape[1:]).index_add_(0, whose, total)
                    counts = counts + count.new_zeros(n, count.shape[1]).index_add_(0, whose, count)
    finally:
        hook.remove()
    return Inputs(recorder.moments().mean("layer"), sums, counts)


def _by_size(images: Sequence[Seen]) -> dict[torch.Size, list[int]]:
    found: dict[torch.Size, list[int]] = {}
    for i, image in enumerate(images):
        found.setdefault(image["pixel_values"].shape, []).append(i)
    return found


def _by_place(upper: Upper, x: Tensor, images: int, one: bool) -> tuple[Tensor, Tensor]:
    """Of one pass: the inputs [images, places, width] and how many rows each sums, on the CPU, without padding."""
    real = upper.visual.real_rows(tuple(x.shape))
    rows = torch.ones(x.shape[:-1]) if real is None else real.expand(x.shape[:-1]).cpu()
    counts = rows.double().reshape(images, -1)
    total = x.cpu().double().reshape(images, -1, x.shape[-1]) * counts[..., None]
    return (total.sum(1, keepdim=True), counts.sum(1, keepdim=True)) if one else (total, counts)


METHOD = Method(
    name="alphaedit",
    title="AlphaEdit, visual",
    paper="arXiv 2410.02355",
    kind="edit",
    trains="last fifth of the tower, projector, in closed form",
    forget=forget,
    config=Config,
    space={"value": Real(3e-3, 0.3), "ridge": Real(0.01, 1), "strength": Real(0.7, 2.5), "depth": Choice((0.0, 0.2))},
    needs=("retain images", "neutral images"),
    note="Adapted: the paper edits facts in a language model's feed-forward layers, with outputs found by gradient; "
    "here linear layers of the visual module, with the neutral mean for outputs. Null space and L2 are relative to the "
    "inputs, whose scale differs between models.",
)
