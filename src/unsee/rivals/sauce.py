"""SAUCE: a sparse autoencoder of visual activations, whose features of a concept are clamped at inference.

No weight changes: the model runs with a hook on the last block of its vision tower that is used, and whoever runs it
without has everything. Only what clamping changes is added to the activations, so the autoencoder's error is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.progress import progress
from unsee.rivals.job import CHUNK, Job
from unsee.rivals.material import Example, evenly
from unsee.rivals.method import Choice, Method, Real
from unsee.vision.blocks import tower
from unsee.vision.trace import trace


@dataclass(frozen=True)
class Config:
    features: int = 4
    """clamped features, for each concept to forget"""
    factor: float = 1.0
    """a clamped feature counts minus so many times; 0: not at all"""
    width: int = 8
    """of the autoencoder, in widths of the activations"""
    sparsity: float = 0.03
    """weight of the features' absolute sum"""
    steps: int = 400
    """optimiser steps of the autoencoder"""
    batch: int = 512
    """tokens a step"""
    lr: float = 1e-3
    """peak learning rate of the autoencoder; it falls to zero in a line"""
    images: int = 400
    """most images of each set"""
    seed: int = 0

    def __post_init__(self) -> None:
        least = ("features", "width", "steps", "batch", "images")
        if min(getattr(self, name) for name in least) < 1 or self.factor < 0 or self.sparsity < 0 or self.lr <= 0:
            raise UnseeError(f"{self}. Allowed: {', '.join(least)} from 1, factor and sparsity from 0, lr above 0.")


class Autoencoder(nn.Module):
    """z = relu(E (x - b) + c), x̂ = D z + b, of activations whose mean square is brought to 1 (``scale``)."""

    def __init__(self, activations: Tensor, width: int) -> None:
        super().__init__()
        d = activations.shape[1]
        mean = activations.mean(0)
        self.scale = float((activations - mean).square().mean().sqrt()) or 1.0
        self.decoder = nn.Parameter(nn.functional.normalize(torch.randn(d, width * d), dim=0))
        self.encoder = nn.Parameter(self.decoder.detach().T.contiguous())
        self.bias, self.threshold = nn.Parameter(mean / self.scale), nn.Parameter(torch.zeros(width * d))

    def encode(self, x: Tensor) -> Tensor:
        """Features [..., width] of activations [..., d]."""
        return ((x / self.scale - self.bias) @ self.encoder.T + self.threshold).relu()

    def decode(self, z: Tensor) -> Tensor:
        """What features add to the mean, in the activations' own scale."""
        return z @ self.decoder.T * self.scale

    def clamped(self, x: Tensor, chosen: Tensor, factor: float) -> Tensor:
        """Activations in which each of the ``chosen`` features counts -``factor`` times."""
        z = self.encode(x.float()) * chosen
        return x + self.decode(-(1 + factor) * z).to(x.dtype)


def loss(model: Autoencoder, x: Tensor, sparsity: float) -> Tensor:
    """|x - x̂|² + λ |z|₁, mean over tokens, of scaled activations and per width of them."""
    z = model.encode(x)
    error = x / model.scale - model.bias - z @ model.decoder.T
    return (error.square().sum(-1) + sparsity * z.sum(-1)).mean() / x.shape[-1]


def fit(activations: Tensor, config: Config) -> Autoencoder:
    """An autoencoder of ``activations`` [tokens, d]. The decoder's columns keep length 1, or λ would only shrink z."""
    torch.manual_seed(config.seed)
    model = Autoencoder(activations, config.width)
    rng = np.random.default_rng(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    with progress("autoencoder", config.steps) as tick, torch.enable_grad():
        for step in range(config.steps):
            optimizer.param_groups[0]["lr"] = config.lr * (1 - step / config.steps)
            part = activations[rng.integers(len(activations), size=config.batch)]
            optimizer.zero_grad()
            value = loss(model, part, config.sparsity)
            value.backward()
            optimizer.step()
            with torch.no_grad():
                model.decoder.copy_(nn.functional.normalize(model.decoder, dim=0))
            tick(step + 1, f"loss {value.item():.3f}")
    return model.requires_grad_(False)


def telling(concepts: Tensor, others: Tensor, n: int) -> Tensor:
    """Which features to clamp, [width]: of each concept the ``n`` that tell it best from others.

    By (a - b)² / (a + b) of mean activations a on the concept [concepts, width] and b on others [width], a > b: the
    difference alone would choose features that are large on every image.
    """
    score = (concepts - others).clamp(min=0).square() / (concepts + others).clamp(min=1e-12)
    best = score.topk(min(n, score.shape[1]), dim=1)
    chosen = torch.zeros_like(others)
    chosen[best.indices[best.values > 0]] = 1
    return chosen


def forget(job: Job, config: Config) -> None:
    given = job.material
    blocks = tower(trace(job.visual, job.pixels(given.forget[:1])[0]).linears)
    if not blocks or not (given.retain or given.neutral):
        raise UnseeError(
            "SAUCE needs a vision tower of blocks, and images of what is to stay. "
            + ("Give retained or neutral images." if blocks else f"{type(job.model).__name__} has no such tower.")
        )
    block = job.visual.model.get_submodule(blocks[-1])
    known, other = (evenly(s, config.images) for s in (given.forget, [*given.retain, *given.neutral]))
    seen, unseen = (_activations(job, block, examples) for examples in (known, other))
    model = fit(torch.cat([*seen, *unseen]), config)
    groups: dict[str, list[Tensor]] = {}
    for example, x in zip(known, seen, strict=True):
        groups.setdefault(example.concept, []).append(model.encode(x).mean(0))
    means = torch.stack([torch.stack(views).mean(0) for views in groups.values()])
    chosen = telling(means, torch.stack([model.encode(x).mean(0) for x in unseen]).mean(0), config.features)
    model, chosen = model.to(job.model.device), chosen.to(job.model.device)
    job.hook(block, lambda x: model.clamped(x, chosen, config.factor))


@torch.no_grad()
def _activations(job: Job, block: nn.Module, examples: Sequence[Example]) -> list[Tensor]:
    """What ``block`` gives of each image, ``[tokens, width]``, on the CPU."""
    seen: list[Tensor] = []
    hook = block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    found: list[Tensor] = []
    try:
        for _, alike in groupby(job.pixels(examples), lambda p: p["pixel_values"].shape):
            images = list(alike)
            for start in range(0, len(images), CHUNK):
                part = images[start : start + CHUNK]
                job.visual.features(part)
                given = seen.pop()
                found += given.reshape(len(part), -1, given.shape[-1]).float().cpu()
    finally:
        hook.remove()
    return found


METHOD = Method(
    name="sauce",
    title="SAUCE",
    paper="arXiv 2503.14530",
    kind="guardrail",
    trains="nothing; an autoencoder beside the model",
    forget=forget,
    config=Config,
    space={"features": Choice((1, 2, 4, 8)), "factor": Real(0.1, 10), "sparsity": Real(0.003, 0.3)},
    needs=("retain images", "neutral images"),
    note="Reconstructed from its abstract and notes on it, since the paper was withdrawn and has no code: width, "
    "sparsity and how many features are clamped are ours.",
)
