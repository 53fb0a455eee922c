"""A request as a least-squares problem, where the layer that changes is the last one before the features.

Features are then linear in the layer's change D, so what the loop's target, drift and penalty terms ask of it has one
minimum, which sums over images and one solve give (docs/method.md, section 7):

    D (A + S + HOLD (C + C_neutral) / 2) = sum_k g_k B_k + S_B

A [d, d], B_k [out, d]: of the inputs of images to forget, and of what is to be taken off the features of concept k.
C, C_neutral: second moments of what stays. S, S_B: earlier requests (``penalty.Settled``). The edits of UCE (arXiv
2308.14761) and MEMIT (arXiv 2210.07229) have this form. The factors g are ours, and no setting: with them held-back
images of all concepts show equally little. Under one strength for all, most concepts go far beyond for the sake of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unsee.forgetting import contrast
from unsee.forgetting.penalty import Settled
from unsee.forgetting.region import Images, Region

# How much what stays weighs, where its inputs have the energy of what goes. From 10 to 100 nothing changes; at 1 what
# stays moves twice as far, and at 0.01 over twenty times (photographed people).
HOLD = 10.0
RIDGE = 1e-2  # share of the mean energy of what stays that every direction costs, also one in which nothing lies
NEAR = 2e-2  # of the largest feature: as far as products in bfloat16 may lie from those in float32


@dataclass(frozen=True)
class LeastSquares:
    """What a request asks of the layer. ``goes`` [d, d]: A + S. ``earlier`` [out, d]: S_B. ``stays`` [d, d].

    B_k is the product of ``away`` [concepts, places, out] and ``inputs`` [concepts, places, d], which are smaller: what
    is taken off a concept's features, and the sum of its images' inputs over the number of all rows. All float64.
    """

    goes: Tensor
    away: Tensor
    inputs: Tensor
    stays: Tensor
    earlier: Tensor

    @cached_property
    def solved(self) -> tuple[Tensor, Tensor]:
        """``inputs`` and ``earlier`` times the inverse, of which ``change`` is made: it is linear in the factors."""
        unit = self.goes.diagonal().mean() / self.stays.diagonal().mean()
        ridge = RIDGE * self.stays.diagonal().mean() * torch.eye(len(self.stays)).to(self.stays)
        held = self.goes + HOLD * unit * (self.stays + ridge)
        right = torch.cat([self.inputs.flatten(0, 1), self.earlier])
        solved = torch.linalg.solve(held, right, left=False)
        many = len(right) - len(self.earlier)
        return solved[:many].view(self.inputs.shape), solved[many:]

    def change(self, factors: Tensor) -> Tensor:
        """D of these ``factors`` [concepts], ``[out, d]``."""
        inputs, earlier = self.solved
        return earlier - torch.einsum("k,kpo,kpd->od", factors, self.away, inputs)


class Tower(Protocol):
    """Images in, features out."""

    def now(self, batch: Sequence[Any], reduced: Callable[[Tensor], Tensor]) -> list[Tensor]: ...


class LastLayer:
    """A linear layer of ``module``, of whose outputs features are made; ``name`` is what ``Settled`` calls it.

    Rows may be sorted, pooled, and mixed with others (LLaVA-NeXT ends each row of tiles with one of its own).
    ``base``: its weight before earlier requests, from which changes count. ``probe``: an image, which tells whether
    features are linear in the weight (``serves``).
    """

    def __init__(
        self, module: Tower, name: str, layer: nn.Linear, region: Region, base: Tensor, probe: Images
    ) -> None:  # fmt: skip
        self.module, self.name, self.layer, self.region = module, name, layer, region
        self.change = layer.weight.detach() - base.to(layer.weight)
        self.alone = not self._features(probe, self._none).any()  # nothing else is in the features
        self.serves = self._linear(probe)

    def _linear(self, probe: Images) -> bool:
        moved = self._features(probe) - self._features(probe, self._bias)
        if moved.shape[2] != self.layer.out_features:
            return False
        far, most = (self._inputs(probe) @ self.layer.weight.T - moved).abs().max(), moved.abs().max()
        return bool(most > 0 and far <= NEAR * most)

    def solved(
        self, forget: Images, neutral: Images, check: Images, retained: Tensor, settled: Settled, left: float
    ) -> Tensor:  # fmt: skip
        """D, ``[out, d]`` float64: the whole change from the base after which ``check`` show ``left`` of each concept.

        ``retained`` [d, d]: moments of what stays, beside ``neutral``. Each concept of ``settled`` weighs alike.
        """
        problem = self._problem(forget, neutral, retained, settled)
        return problem.change(self._factors(problem, check, left).to(problem.goes))

    def _problem(self, forget: Images, neutral: Images, retained: Tensor, settled: Settled) -> LeastSquares:
        goes, inputs = self._asked(forget)
        stays = retained if not len(neutral) else (retained + self._moments(neutral)) / 2
        earlier = torch.zeros_like(self.layer.weight, dtype=goes.dtype, device=goes.device)
        if settled.n:
            held = settled.layer(self.name, goes)
            goes, earlier = goes + held.A / len(inputs), held.B / len(inputs)
        away = self.region.away.to(goes).view(*inputs.shape[:2], -1)
        return LeastSquares(goes, away, inputs, stays.to(goes), earlier)

    def _factors(self, problem: LeastSquares, check: Images, left: float) -> Tensor:
        """Of each concept, ``[concepts]``: what ``check`` show (``Region.left``) is linear in them."""
        inputs, earlier = (part.to(self.change) for part in problem.solved)
        seen = self._inputs(check)
        begin = self._features(check) + seen @ (earlier - self.change).T
        whose = torch.tensor([self.region.index[c] for c in check.concepts])
        views = nn.functional.one_hot(whose, len(inputs)).double()

        def shown(features: Tensor) -> Tensor:
            """Of each concept, on average."""
            return self.region.left(check, list(features)).cpu().double() @ views / views.sum(0)

        most, parts = shown(begin), zip(inputs, problem.away.to(seen), strict=True)
        less = [most - shown(begin - (seen @ own.T) @ away) for own, away in parts]
        return torch.linalg.pinv(torch.stack(less, 1)) @ (most - left)

    def _inputs(self, images: Images) -> Tensor:
        """What enters the layer, sorted and pooled as features are: ``[images, places, d]`` float32.

        The layer hands on its input in place of its output, so many columns at a time as that has.
        """
        width, many = self.layer.out_features, self.layer.in_features
        still = 0 if self.alone else self._features(images, self._none)  # a pass through the whole upper part
        parts = [self._features(images, partial(_columns, start, width)) - still for start in range(0, many, width)]
        return torch.cat(parts, 2)[..., :many]

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
        """A, and each concept's share in the mean input of all, place by place: ``[concepts, places, d]`` float64."""
        goes, own = self._zeros(self.layer.in_features), self._zeros(len(self.region.index) * self.region.places)
        own = own.view(len(self.region.index), self.region.places, -1)
        for part in _parts(forget):
            x = self._inputs(part).to(goes)
            goes += (rows := x.flatten(0, 1)).T @ rows
            own.index_add_(0, torch.tensor([self.region.index[c] for c in part.concepts], device=x.device), x)
        rows_of_all = len(forget) * self.region.places
        return goes / rows_of_all, own / rows_of_all

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
