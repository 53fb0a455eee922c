"""A request as a least-squares problem, where the layer that changes is the last one before the features.

Features are then linear in the layer's change D, so what the loop's target, drift and penalty terms ask of it has one
minimum, which two sums over images and one solve give (docs/method.md, section 7):

    D (A + S + hold (C + C_neutral) / 2) = B + S_B

A [d, d], B [out, d]: of the inputs of images to forget, and of what is to be taken off their features. C, C_neutral:
second moments of what stays. S, S_B: earlier requests (``penalty.Settled``). The edits of UCE (arXiv 2308.14761) and
MEMIT (arXiv 2210.07229) have this form. ``hold`` is not set: it is the largest at which held-back images forget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unsee.forgetting import contrast
from unsee.forgetting.penalty import Settled
from unsee.forgetting.region import Images, Region

SOLVES = 16  # tries of ``hold``, each half as far from the last as the one before, on a logarithmic scale
LOOSEST, STRICTEST = 1e-6, 1e6  # ``hold``, where what stays and what goes have inputs of the same energy
RIDGE = 1e-2  # share of the mean energy of what stays that every direction costs, also one in which nothing lies
NEAR = 2e-2  # of the largest feature: as far as products in bfloat16 may lie from those in float32


@dataclass(frozen=True)
class LeastSquares:
    """``goes`` [d, d] and ``wanted`` [out, d]: A + S and B + S_B. ``stays`` [d, d]: what ``hold`` multiplies."""

    goes: Tensor
    wanted: Tensor
    stays: Tensor

    def change(self, hold: float) -> Tensor:
        """D at a ``hold``, ``[out, d]`` float64."""
        unit = self.goes.diagonal().mean() / self.stays.diagonal().mean()
        ridge = RIDGE * self.stays.diagonal().mean() * torch.eye(len(self.stays)).to(self.stays)
        held = self.goes + hold * unit * (self.stays + ridge)
        return torch.linalg.solve(held, self.wanted, left=False)

    def strictest(self, enough: Callable[[Tensor], bool]) -> Tensor | None:
        """D at the largest ``hold`` at which it is ``enough``; None: it is not even at the smallest."""
        low, high = math.log(LOOSEST), math.log(STRICTEST)
        found = self.change(LOOSEST)
        if not enough(found):
            return None
        for _ in range(SOLVES):
            middle = (low + high) / 2
            if enough(tried := self.change(math.exp(middle))):
                found, low = tried, middle
            else:
                high = middle
        return found


class Tower(Protocol):
    """Images in, features out."""

    def now(self, batch: Sequence[Any], reduced: Callable[[Tensor], Tensor]) -> list[Tensor]: ...


class LastLayer:
    """The linear layer ``name`` of ``module``, of whose outputs features are made: ``serves`` tells whether linearly.

    Rows may be sorted, pooled, and mixed with others (LLaVA-NeXT ends each row of tiles with one of its own).
    ``base``: its weight before earlier requests, from which changes count.
    """

    def __init__(self, module: Tower, name: str, layer: nn.Linear, region: Region, base: Tensor) -> None:
        self.module, self.name, self.layer, self.region = module, name, layer, region
        self.change = layer.weight.detach() - base.to(layer.weight)

    def serves(self, images: Images) -> bool:
        """Whether features of ``images`` are linear in this layer's weight."""
        still = self._features(images, self._bias)
        moved = self._features(images) - still
        if moved.shape[2] != self.layer.out_features:
            return False
        far = self._inputs(images) @ self.layer.weight.T - moved
        return bool(far.abs().max() <= NEAR * moved.abs().max())

    def problem(self, forget: Images, neutral: Images, retained: Tensor, settled: Settled) -> LeastSquares:
        """What a request asks of this layer. ``retained`` [d, d]: moments; ``settled``: each concept weighs alike."""
        goes, wanted = self._asked(forget)
        stays = retained if not len(neutral) else (retained + self._moments(neutral)) / 2
        if settled.n:
            earlier, concepts = settled.layer(self.name, goes), len(set(forget.concepts))
            goes, wanted = goes + earlier.A / concepts, wanted + earlier.B / concepts
        return LeastSquares(goes, wanted, stays)

    def left(self, check: Images) -> Callable[[Tensor], Tensor]:
        """Of a whole change from the base: what ``check`` then show of their identity (``Region.left``)."""
        now, inputs = self._features(check), self._inputs(check)

        def shown(change: Tensor) -> Tensor:
            return self.region.left(check, list(now + inputs @ (change.to(inputs) - self.change).T))

        return shown

    def _inputs(self, images: Images) -> Tensor:
        """What enters the layer, sorted and pooled as features are: ``[images, places, d]`` float32.

        The layer hands on its input in place of its output, so many columns at a time as that has.
        """
        width, still = self.layer.out_features, self._features(images, self._none)
        parts = []
        for start in range(0, self.layer.in_features, width):
            parts.append(self._features(images, partial(_columns, start, width)) - still)
        return torch.cat(parts, 2)[..., : self.layer.in_features]

    def _bias(self, input: Tensor) -> Tensor:
        return self._none(input) + (0 if self.layer.bias is None else self.layer.bias)

    def _none(self, input: Tensor) -> Tensor:
        return input.new_zeros(*input.shape[:-1], self.layer.out_features)

    def _features(self, images: Images, forward: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``[images, places, out]``, as if the layer computed ``forward``."""
        if forward:
            self.layer.forward = forward  # type: ignore[method-assign, assignment]
        try:
            rows = self.module.now(images.pixels, contrast.pooled)
        finally:
            self.layer.__dict__.pop("forward", None)
        return self.region.flat(rows).unflatten(1, (self.region.places, -1))

    def _moments(self, images: Images) -> Tensor:
        """Mean of x xᵀ, ``[d, d]`` float64."""
        total, rows = self._zeros(self.layer.in_features), 0
        for part in _parts(images):
            x = self._inputs(part).flatten(0, 1).to(total)
            total, rows = total + x.T @ x, rows + len(x)
        return total / rows

    def _asked(self, forget: Images) -> tuple[Tensor, Tensor]:
        """A and B: means of x xᵀ and of y xᵀ, y being what the whole change is to do to the features of x."""
        goes, wanted, rows = self._zeros(self.layer.in_features), self._zeros(self.layer.out_features), 0
        for start, part in zip(range(0, len(forget), contrast.AT_ONCE), _parts(forget), strict=True):
            x = self._inputs(part).flatten(0, 1)
            far = self.region.aim(range(start, start + len(part))).view(len(x), -1) - self._features(part).flatten(0, 1)
            y, x = (far + x @ self.change.T).to(wanted), x.to(goes)
            goes, wanted, rows = goes + x.T @ x, wanted + y.T @ x, rows + len(x)
        return goes / rows, wanted / rows

    def _zeros(self, height: int) -> Tensor:
        device = self.layer.weight.device
        home = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        return torch.zeros(height, self.layer.in_features, dtype=torch.float64, device=home)


def _columns(start: int, width: int, input: Tensor) -> Tensor:
    """So many columns of ``input``, or what there are and zeros."""
    some = input[..., start : start + width]
    return nn.functional.pad(some, (0, width - some.shape[-1]))


def _parts(images: Images) -> Iterator[Images]:
    return (images[start : start + contrast.AT_ONCE] for start in range(0, len(images), contrast.AT_ONCE))
