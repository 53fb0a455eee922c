"""One request: second moments, null space, contrastive forgetting, certificate. Tensors and modules in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from unsee import resume
from unsee.errors import UnseeError, nearest
from unsee.forgetting import contrast, nullspace, penalty
from unsee.forgetting.moments import MomentRecorder, Moments
from unsee.forgetting.optimizer import ProjectedAdam
from unsee.progress import progress

Constraint = Literal["none", "hard", "soft", "cumulative"]
Region = Literal["neutral", "reference", "mean"]


@dataclass(frozen=True)
class ForgetConfig:
    """How a request is forgotten. The defaults were chosen on the people world and checked on flags, unchanged."""

    constraint: Constraint = "cumulative"
    """what holds retained knowledge: a penalty on the whole change, a soft or hard null space for each step, or none"""
    region: Region = "neutral"
    """where forgotten images go: neutral images, a reference model's features of the same image, the mean of the rest"""
    steps: int = 120
    """most optimiser steps; the stop rule ends earlier"""
    batch: int = 32
    """forget images a step, and as many neutral and retained ones"""
    lr: float = 5e-4
    """peak learning rate"""
    temperature: float = 0.1
    """of the contrast"""
    floor: float = 0.02
    """contrastive loss under which an image counts as forgotten and pushes no further"""
    anchor: float = 1.0
    """weight that holds what else is visible in the forget images"""
    keep: float = 10.0
    """weight of the drift of neutral and retained images' features"""
    penalty: float = 30.0
    """weight of the cumulative penalty"""
    settled: float = 100.0
    """weight that holds what earlier requests forgot, where there were any"""
    soft_ratio: float = 0.03
    """soft null space: damping as a share of the mean eigenvalue"""
    hard_rule: str = "tail"
    """hard null space: absolute, ratio, tail or cumulative"""
    hard_value: float = 0.01
    """the rule's threshold"""
    layers: str = ""
    """train only layers whose name contains this; empty: all that reach the features"""
    bf16: bool = True
    """bfloat16 matrix products in the loop (weights, moments and reference features stay float32 or better)"""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("constraint", get_args(Constraint)), ("region", get_args(Region))):
            if getattr(self, name) not in allowed:
                raise UnseeError(f"{name} '{getattr(self, name)}'. {nearest(getattr(self, name), allowed)}")
        for name in ("steps", "batch", "lr", "temperature"):
            if not getattr(self, name) > 0:
                raise UnseeError(f"{name} is {getattr(self, name)}; it must be above 0.")


@dataclass
class Images:
    """Images as a model's processor gave them, with the concept each shows and, once computed, its first features."""

    pixels: list[Any]
    concepts: list[str]
    before: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pixels)

    def means(self) -> tuple[list[str], Tensor]:
        """Each concept's mean pooled feature: ids and ``[concepts, width]``."""
        ids = list(dict.fromkeys(self.concepts))
        pooled = contrast.pool(self.before)
        rows = [pooled[[i for i, c in enumerate(self.concepts) if c == g]].mean(0) for g in ids]
        return ids, torch.stack(rows)


@dataclass
class Forgotten:
    """What a request did: ``delta`` (layer → W − W_before, float32), per-layer certificates, the loop's history."""

    delta: dict[str, Tensor]
    certificates: dict[str, float]
    history: list[dict[str, float]]
    stopped: str
    rank: dict[str, float]


Features = Callable[[Sequence[Any]], list[Tensor]]


def record(features: Features, layers: dict[str, nn.Linear], images: Images, batch: int, meta: dict[str, str]) -> Moments:
    """The moments of the layers' inputs over ``images``, and the images' features on the way: one pass."""
    with MomentRecorder(layers) as recorder, torch.no_grad(), progress("statistics", len(images)) as tick:
        for part in _parts(images.pixels, batch):
            images.before += features(part)
            recorder.images += len(part)
            tick(recorder.images)
    return recorder.moments(meta)


def look(features: Features, images: Images, batch: int) -> None:
    """Fill in ``images.before``."""
    with torch.no_grad():
        for part in _parts(images.pixels, batch):
            images.before += features(part)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


class Forgetting:
    """The loop. ``forget`` is trained on; ``check`` (held-back and augmented views) only tells when to stop."""

    def __init__(
        self,
        features: Features,
        layers: dict[str, nn.Linear],
        forget: Images,
        check: Images,
        neutral: Images,
        retain: Images,
        moments: Moments,
        config: ForgetConfig,
        base: dict[str, Tensor] | None = None,
        settled: penalty.Settled | None = None,
    ) -> None:
        self.features, self.layers, self.config = features, layers, config
        self.forget, self.check, self.neutral, self.retain = forget, check, neutral, retain
        self.moments = moments
        self.start = {n: m.weight.detach().clone() for n, m in layers.items()}
        self.base = base or self.start
        self.settled = settled or penalty.Settled.empty()
        self._prepare_region()
        self._prepare_constraint()

    def _prepare_region(self) -> None:
        everything = [self.forget, self.neutral, self.retain]
        pooled = contrast.pool([f for s in everything for f in s.before])
        concepts = [c for s in everything for c in s.concepts]
        stay = [f for s in (self.neutral, self.retain) for f in s.before] or self.forget.before
        self.space = contrast.fit_space(pooled, concepts, contrast.pool(stay).mean(0))
        flat = torch.stack([f.flatten().float() for f in stay]) if _same_shape(stay) else contrast.pool(stay)
        self.scale = flat.var(0).mean()
        ids, means = self.forget.means()
        self.centroids = self.space.unit(means)
        self.index = {c: i for i, c in enumerate(ids)}
        places = (self.neutral if self.config.region == "neutral" else self.retain).means()[1]
        self.targets = [places[i] for i in contrast.nearest_neutral(self.space, means, places).tolist()]
        self.positives = self.space.unit(contrast.pool(self.neutral.before))
        self.shift = {c: self.targets[i] - means[i] for c, i in self.index.items()}

    def _prepare_constraint(self) -> None:
        config = self.config
        self.second = {n: self.moments.mean(n).to(m.weight.device) for n, m in self.layers.items()}
        projectors: dict[str, nullspace.Projector] = {}
        if config.constraint in ("hard", "soft"):
            rule, value = ("soft", config.soft_ratio) if config.constraint == "soft" else (config.hard_rule, config.hard_value)
            fitted = {k: nullspace.fit(self.moments.mean(n), rule, value) for n, k in self.moments.layers.items() if n in self.layers}
            projectors = {n: fitted[self.moments.layers[n]].to(m.weight.device, torch.float32) for n, m in self.layers.items()}
        self.rank = {n: p.rank for n, p in projectors.items()}
        self.energy = {n: float(torch.einsum("oi,ij,oj->", *_wcw(self.base[n], self.second[n]))) for n in self.layers}
        self.fast = {n: c.float() for n, c in self.second.items()}
        self.optimizer = ProjectedAdam([(m.weight, projectors.get(n)) for n, m in self.layers.items()], lr=config.lr)

    def losses(self, step: int) -> dict[str, Tensor]:
        """The terms of the loss on the step's batch."""
        config, rng = self.config, np.random.default_rng([self.config.seed, step])
        f, n, r = (_some(rng, len(s), config.batch) for s in (self.forget, self.neutral, self.retain))
        batch = [self.forget.pixels[i] for i in f] + [self.neutral.pixels[i] for i in n] + [self.retain.pixels[i] for i in r]
        autocast = torch.autocast(self.start[next(iter(self.start))].device.type, torch.bfloat16) if config.bf16 else nullcontext()
        with autocast:
            new = self.features(batch)
        old = [s.before[i] for s, index in ((self.neutral, n), (self.retain, r)) for i in index]
        terms = {"forget": self.contrast(new[: len(f)], f)}
        if config.anchor:
            aim = [self.forget.before[i] + self.shift[self.forget.concepts[i]] for i in f]
            terms["anchor"] = contrast.drift(new[: len(f)], aim, self.scale)
        if old:
            terms["keep"] = contrast.drift(new[len(f) :], old, self.scale)
        if config.constraint == "cumulative":
            terms["penalty"] = self.penalty()
        if self.settled.n:
            terms["settled"] = torch.stack([
                penalty.settled_penalty(m.weight - self.base[n], self.settled.layer(n, m.weight), self.energy[n])
                for n, m in self.layers.items()
            ]).sum()
        return terms

    def contrast(self, new: list[Tensor], index: Sequence[int]) -> Tensor:
        own = contrast.pool([self.forget.before[i] for i in index])
        shifts = torch.stack([self.shift[self.forget.concepts[i]] for i in index])
        positives = torch.cat([self.space.unit(own + shifts)[:, None], self.positives.expand(len(index), -1, -1)], 1)
        u = self.space.unit(contrast.pool(new))
        each = contrast.loss(u, positives, self.space.unit(own), self.centroids, self.config.temperature)
        return (each - self.config.floor).clamp(min=0).mean()

    def penalty(self) -> Tensor:
        return torch.stack([
            penalty.penalty(m.weight - self.base[n], self.fast[n], self.energy[n]) for n, m in self.layers.items()
        ]).sum()

    def likeness(self) -> float:
        """How much held-back views still look like themselves: 1 as before, 0 like any neutral image."""
        with torch.no_grad():
            now = [f for part in _parts(self.check.pixels, 64) for f in self.features(part)]
        own = self.centroids[[self.index[c] for c in self.check.concepts]]
        after = (self.space.unit(contrast.pool(now)) * own).sum(-1).mean()
        before = (self.space.unit(contrast.pool(self.check.before)) * own).sum(-1).mean()
        stranger = (self.positives @ self.centroids.T).mean()
        return float((after - stranger) / (before - stranger))

    def run(self, checkpoint: Path | None = None, watch: Callable[[int], dict[str, float]] | None = None) -> Forgotten:
        config = self.config
        weights = {"forget": 1.0, "anchor": config.anchor, "keep": config.keep, "penalty": config.penalty, "settled": config.settled}
        origin, trained = self._origin() if checkpoint else "", {n: m.weight for n, m in self.layers.items()}
        first, history = resume.restore(checkpoint, trained, self.optimizer, origin) if checkpoint else (0, [])
        stopped = f"all {config.steps} steps"
        with progress("forgetting", config.steps) as tick:
            for step in range(first, config.steps):
                for group in self.optimizer.param_groups:
                    group["lr"] = config.lr * _rate(step, config.steps)
                terms = self.losses(step)
                total = torch.stack([weights[k] * v for k, v in terms.items()]).sum()
                if not torch.isfinite(total):
                    raise UnseeError(f"the loss is not finite at step {step}: {({k: v.item() for k, v in terms.items()})}.")
                grads = torch.autograd.grad(total, [m.weight for m in self.layers.values()])
                for m, g in zip(self.layers.values(), grads, strict=True):
                    m.weight.grad = g
                self.optimizer.step()
                line = {"step": step + 1, **{k: v.item() for k, v in terms.items()}}
                if watch and (step + 1) % 10 == 0:
                    line |= watch(step + 1)
                history.append(line)
                if checkpoint and (step + 1) % resume.EVERY == 0:
                    resume.save(checkpoint, trained, self.optimizer, origin, step + 1, history)
                tick(step + 1, " ".join(f"{k} {v:.4f}" for k, v in line.items() if k != "step"))
        for m in self.layers.values():
            m.weight.grad = None
        delta = {n: m.weight.detach() - self.start[n] for n, m in self.layers.items()}
        certificates = {n: nullspace.certificate(delta[n], self.start[n], self.second[n]) for n in self.layers}
        return Forgotten(delta, certificates, history, stopped, self.rank)

    def _origin(self) -> str:
        """Hash of all that the run's result depends on. Features before forgetting stand for the images."""
        images = (self.forget, self.check, self.neutral, self.retain)
        tensors = [*self.start.values(), *self.base.values(), *(f for s in images for f in s.before)]
        sums = (self.moments.matrices, self.settled.A, self.settled.B, self.settled.c)
        tensors += [m for part in sums for m in part.values()]
        return resume.origin(asdict(self.config), tensors, [*self.layers, *(c for s in images for c in s.concepts)])


def _wcw(weight: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wide = weight.double()
    return wide, second, wide


def _rate(step: int, steps: int) -> float:
    """Rises over 5 steps, holds, and falls to a tenth along a cosine in the last half."""
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * step / steps - 1)))
    return min(1.0, (step + 1) / 5) * (0.1 + 0.9 * fall)


def _same_shape(features: Sequence[Tensor]) -> bool:
    return len({f.shape for f in features}) == 1


def _some(rng: np.random.Generator, n: int, k: int) -> list[int]:
    return rng.choice(n, size=min(n, k), replace=False).tolist() if n else []
