"""One request: second moments, null space, contrastive forgetting, certificate. Tensors and modules in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from unsee import resume
from unsee.config import ForgetConfig
from unsee.errors import UnseeError
from unsee.forgetting import nullspace, penalty
from unsee.forgetting.moments import MomentRecorder, Moments
from unsee.forgetting.optimizer import ProjectedAdam
from unsee.forgetting.region import Images, Region
from unsee.progress import progress

BATCH = 64  # images at a time where no gradient is needed
CHECK = 20  # steps between two looks at the held-back views, and two calls of ``watch``
PACE = 0.25  # of the way since the last look: what each further one is expected to bring


@dataclass
class Forgotten:
    """What a request did: ``delta`` (layer → W − W_before, float32), per-layer certificates, the loop's history."""

    delta: dict[str, Tensor]
    certificates: dict[str, float]
    history: list[dict[str, float]]
    stopped: str
    rank: dict[str, float]


Features = Callable[[Sequence[Any]], list[Tensor]]


def record(features: Features, layers: dict[str, nn.Linear], images: Images, meta: dict[str, str]) -> Moments:
    """The moments of the layers' inputs over ``images``, and the images' features on the way: one pass."""
    with MomentRecorder(layers) as recorder, torch.no_grad(), progress("statistics", len(images)) as tick:
        for part in _parts(images.pixels):
            images.before += features(part)
            recorder.images += len(part)
            tick(recorder.images)
    return recorder.moments(meta)


@torch.no_grad()
def look(features: Features, pixels: Sequence[Any]) -> list[Tensor]:
    """The features of each image."""
    return [f for part in _parts(pixels) for f in features(part)]


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


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
        reference: Sequence[Tensor] = (),
    ) -> None:
        self.features, self.layers, self.config = features, layers, config
        self.forget, self.check, self.neutral, self.retain = forget, check, neutral, retain
        self.moments = moments
        self.start = {n: m.weight.detach().clone() for n, m in layers.items()}
        self.base = base or self.start
        self.settled = settled or penalty.Settled.empty()
        self.reference = reference
        self.region = Region(config.region, forget, neutral, retain, reference)
        self._prepare_constraint()

    def _prepare_constraint(self) -> None:
        config = self.config
        self.second = {n: self.moments.mean(n).to(m.weight.device) for n, m in self.layers.items()}
        projectors: dict[str, nullspace.Projector] = {}
        if config.constraint in ("hard", "soft"):
            soft = config.constraint == "soft"
            rule, value = ("soft", config.soft_ratio) if soft else (config.hard_rule, config.hard_value)
            shared = self.moments.layers  # layers with the same input have the same null space: fit it once
            fitted = {k: nullspace.fit(self.moments.mean(k), rule, value) for k in {shared[n] for n in self.layers}}
            projectors = {n: fitted[shared[n]].to(m.weight.device, m.weight.dtype) for n, m in self.layers.items()}
        self.rank = {n: p.rank for n, p in projectors.items()}
        self.energy = {n: _energy(self.base[n], self.second[n]) for n in self.layers}
        self.fast = {n: c.to(torch.bfloat16 if config.bf16 else torch.float32) for n, c in self.second.items()}
        trained = [(cast(nn.Parameter, m.weight), projectors.get(n)) for n, m in self.layers.items()]
        self.optimizer = ProjectedAdam(trained, lr=config.lr)

    def variant(self, config: ForgetConfig, retain: Images | None = None) -> Forgetting:
        """The same request with other settings, from the features already computed, before this one has run.

        ``config.layers`` chooses among the layers of this one. ``retain``: in place of the retained images.
        """
        layers = {n: m for n, m in self.layers.items() if config.names(n)}
        images = (self.forget, self.check, self.neutral, self.retain if retain is None else retain)
        return Forgetting(self.features, layers, *images, self.moments, config, self.base, self.settled, self.reference)

    def losses(self, step: int) -> dict[str, Tensor]:
        """The terms of the loss on the step's batch."""
        config, rng = self.config, np.random.default_rng([self.config.seed, step])
        f, n, r = (_some(rng, len(s), config.batch) for s in (self.forget, self.neutral, self.retain))
        chosen = ((self.forget, f), (self.neutral, n), (self.retain, r))
        new = self.features([s.pixels[i] for s, index in chosen for i in index])
        forgotten, stay = new[: len(f)], new[len(f) :]
        old = [s.before[i] for s, index in chosen[1:] for i in index]
        terms = self.region.losses(forgotten, f, stay, old, config)
        if config.constraint == "cumulative":
            terms["penalty"] = self.penalty()
        if self.settled.n:
            terms["settled"] = self.settled_penalty()
        return terms

    def penalty(self) -> Tensor:
        """The cumulative penalty of the whole change, without its weight."""
        layers = self.layers.items()
        return torch.stack(
            [penalty.penalty(m.weight - self.base[n], self.fast[n], self.energy[n]) for n, m in layers]
        ).sum()

    def settled_penalty(self) -> Tensor:
        """What keeps earlier requests forgotten, without its weight."""
        changed = {n: m.weight - self.base[n] for n, m in self.layers.items()}
        terms = [penalty.settled_penalty(d, self.settled.layer(n, d), self.energy[n]) for n, d in changed.items()]
        return torch.stack(terms).sum()

    def left(self) -> float:
        """Mean share of their identity that held-back views still show."""
        return float(self.region.left(self.check, look(self.features, self.check.pixels)).mean())

    def run(self, checkpoint: Path | None = None, watch: Callable[[int], dict[str, float]] | None = None) -> Forgotten:
        config = self.config
        weights = {k: getattr(config, k) for k in ("anchor", "keep", "penalty", "settled")} | {"forget": 1.0}
        origin, trained = self._origin() if checkpoint else "", {n: m.weight for n, m in self.layers.items()}
        first, history = resume.restore(checkpoint, trained, self.optimizer, origin) if checkpoint else (0, [])
        with progress("forgetting", config.steps) as tick:
            for step in range(first, config.steps):
                gone = forgotten_at(history, config)
                if gone and step >= _end(gone, config):
                    break
                for group in self.optimizer.param_groups:
                    group["lr"] = config.lr * _rate(step, gone, config)
                terms = self.losses(step)
                weights["penalty"] = config.penalty * eased(history, config)
                total = torch.stack([weights[k] * v for k, v in terms.items()]).sum()
                if not torch.isfinite(total):
                    raise UnseeError(
                        f"the loss is not finite at step {step} "
                        f"({', '.join(f'{k} {v.item():.3g}' for k, v in terms.items())}). Lower --lr, now {config.lr}."
                    )
                grads = torch.autograd.grad(total, [m.weight for m in self.layers.values()])
                for m, g in zip(self.layers.values(), grads, strict=True):
                    m.weight.grad = g
                self.optimizer.step()
                line = {"step": step + 1, **{k: v.item() for k, v in terms.items()}}
                if (step + 1) % CHECK == 0:
                    line["left"] = self.left()
                if watch and (step + 1) % CHECK == 0:
                    line |= watch(step + 1)
                history.append(line)
                if checkpoint and (step + 1) % resume.EVERY == 0:
                    resume.save(checkpoint, trained, self.optimizer, origin, step + 1, history)
                tick(step + 1, " ".join(f"{k} {v:.4f}" for k, v in line.items() if k != "step"))
        for m in self.layers.values():
            m.weight.grad = None
        delta = {n: m.weight.detach() - self.start[n] for n, m in self.layers.items()}
        certificates = {n: nullspace.certificate(delta[n], self.start[n], self.second[n]) for n in self.layers}
        return Forgotten(delta, certificates, history, self._verdict(history), self.rank)

    def _verdict(self, history: list[dict[str, float]]) -> str:
        left = f"held-back views show {100 * self.left():.0f} % of their identity after {len(history)} steps"
        asked = f"--stop is {100 * self.config.stop:.0f} %, more --steps come closer"
        return left if forgotten_at(history, self.config) or self.config.stop <= 0 else f"{left}; {asked}"

    def _origin(self) -> str:
        """Hash of all that the run's result depends on. Features before forgetting stand for the images."""
        images = (self.forget, self.check, self.neutral, self.retain)
        tensors = [*self.start.values(), *self.base.values(), *(f for s in images for f in s.before)]
        sums = (self.moments.matrices, self.settled.A, self.settled.B, self.settled.c)
        tensors += [*self.reference, *(m for part in sums for m in part.values())]
        return resume.origin(asdict(self.config), tensors, [*self.layers, *(c for s in images for c in s.concepts)])


def _energy(weight: Tensor, second: Tensor) -> float:
    """E|W x|² = tr(W C Wᵀ)."""
    wide = weight.double()
    return float(((wide @ second) * wide).sum())


def forgotten_at(history: Sequence[dict[str, float]], config: ForgetConfig) -> int:
    """The step at which held-back views first showed less than ``config.stop`` of their identity; 0: not yet."""
    if config.stop <= 0:
        return 0
    return next((int(h["step"]) for h in history if h.get("left", 1.0) < config.stop), 0)


def eased(history: Sequence[dict[str, float]], config: ForgetConfig) -> float:
    """Share of the penalty that still holds: halved at each look from which the target would not leave in time.

    How strict a penalty can be differs between models and requests by more than ten times. It starts strict.
    """
    if config.stop <= 0:
        return 1.0
    left = [1.0, *(h["left"] for h in history if "left" in h)]
    share, looks = 1.0, math.ceil(config.steps / 1.5) // CHECK
    for n, (before, now) in enumerate(pairwise(left), start=1):
        if now >= config.stop and now - PACE * (before - now) * (looks - n) > config.stop:
            share /= 2
    return share


def _end(gone: int, config: ForgetConfig) -> int:
    """Forgetting ends half as many steps again after the target has left: what stays settles while the rate falls."""
    return min(config.steps, math.ceil(1.5 * gone))


def _rate(step: int, gone: int, config: ForgetConfig) -> float:
    """Rises over 5 steps, holds until the target has left (or two thirds of the steps), and falls along a cosine."""
    start = gone or math.ceil(config.steps / 1.5)
    end = _end(gone, config) if gone else config.steps
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (step - start) / max(1, end - start)))))
    return min(1.0, (step + 1) / 5) * (0.05 + 0.95 * fall)


def _some(rng: np.random.Generator, n: int, k: int) -> list[int]:
    return rng.choice(n, size=min(n, k), replace=False).tolist() if n else []
