"""Replay from statistics: what enters the first trained block, drawn anew when the retained images are gone.

Ours, no paper's: second moments bound what each layer does to retained inputs one by one; drawn inputs, with what the
module made of them before the request, hold what all layers do together (docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unsee.errors import UnseeError
from unsee.forgetting.stored import LARGEST, counted

NEAR = (0.5, 0.75)  # of the way from the mean to a concept: where its lookalikes begin and end
LEAST_VIEWS = 4  # that are drawn of a concept
RANK = 256  # directions that are kept of each covariance; up to twice as many are exact
FLOATS = 2**25  # that they may take; of inputs so large that RANK would take more, fewer are kept


def directions(width: int) -> int:
    """How many are kept of inputs that are ``width`` floats."""
    return max(1, min(RANK, FLOATS // width))


@dataclass(frozen=True)
class Replay:
    """Concepts vary around ``mean`` [D], images around their concept; D = all tokens of an image, side by side.

    ``between``, ``within`` [r, D], r ≤ 2 RANK: factors F, with FᵀF the scatter of the concepts' means and of images
    around them. ``concepts``, ``images``: how many were seen. ``shape``: of what enters block ``block`` for one image.
    ``means`` [k, D]: those of concepts themselves, of all or of as many as there is room for; older files have none.
    Two add with ``+``, exactly as long as no more than 2 RANK directions are needed; ``-`` takes concepts out again,
    and keeps RANK at most.
    """

    mean: Tensor
    between: Tensor
    within: Tensor
    concepts: int
    images: int
    shape: tuple[int, ...]
    block: str
    means: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    @classmethod
    def fit(cls, concepts: Iterable[Tensor], block: str) -> Replay:
        """``concepts``: the inputs of each concept's images, [images, *shape]; a few hundred images are held."""
        total: Replay | None = None
        for some in _chunks(concepts):
            shape = tuple(some[0].shape[1:])
            rows = [x.detach().to("cpu", torch.float32).flatten(1) for x in some]
            means = torch.stack([r.mean(0) for r in rows])
            around = torch.cat([r - m for r, m in zip(rows, means, strict=True) if len(r) > 1] or [means[:0]])
            middle, images = means.mean(0), sum(map(len, rows))
            between, within = (_factor([part], [1]) for part in (means - middle, around))
            one = cls(middle, between, within, len(rows), images, shape, block, _spread(means))
            total = one if total is None else total + one
        if total is None:
            raise UnseeError("nothing to replay: give the inputs of at least one concept.")
        return total

    def __add__(self, other: Replay) -> Replay:
        """Both sets of concepts. UnseeError: of another block or shape."""
        return self._combine(other, 1)

    def __sub__(self, other: Replay) -> Replay:
        """Without ``other``'s concepts, which must be among these, and not all of them."""
        return self._combine(other, -1)

    def _combine(self, other: Replay, sign: int) -> Replay:
        if (self.block, self.shape) != (other.block, other.shape):
            raise UnseeError(f"inputs of {self.block} {self.shape} and of {other.block} {other.shape} do not add.")
        a, b = self.concepts, other.concepts
        n = a + sign * b
        if n < 1:
            raise UnseeError(f"cannot take {b} concept(s) out of {a}: at least one must be left.")
        mean = (a * self.mean + sign * b * other.mean) / n
        # Chan's update of a scatter: of two sets, and of what is left of one
        apart = (self.mean - other.mean) * (a * b / n) ** 0.5 if sign > 0 else (mean - other.mean) * (n * b / a) ** 0.5
        between = _factor([self.between, other.between, apart[None]], [1, sign, sign])
        within = _factor([self.within, other.within], [1, sign])
        means = _without(self.means, other.means) if sign < 0 else _joined(self.means, other.means)
        return Replay(mean, between, within, n, self.images + sign * other.images, self.shape, self.block, means)

    def views(self, images: int, seed: int = 0) -> tuple[Tensor, list[int]]:
        """Some ``images`` around ``means``, as many of each, and of which each is: [n, *shape] float32, its number.

        There must be means. Groceries end with 0 % of forgotten names left and none misnamed; with concepts drawn too
        they end with 16 and 43 % (one run each, benchmarks/LOG.md).
        """
        rng = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.means), generator=rng)[: max(1, images // LEAST_VIEWS)]
        each = -(-images // max(1, len(chosen)))
        how = torch.randn(len(chosen), each, len(self.within), generator=rng) @ self.within
        drawn = self.means[chosen][:, None] + how / max(1, self.images - self.concepts) ** 0.5
        return drawn.reshape(-1, *self.shape), [c for c in chosen.tolist() for _ in range(each)]

    def draw(self, concepts: int, views: int, seed: int = 0, near: Tensor | None = None) -> Tensor:
        """Inputs of ``concepts`` that never were, ``views`` of each: [concepts * views, *shape] float32.

        ``near`` [k, *shape]: each looks like one of these, ``NEAR`` of the way there from the mean; the rest is chance.
        """
        rng = torch.Generator().manual_seed(seed)
        who = torch.randn(concepts, len(self.between), generator=rng) @ self.between
        how = torch.randn(concepts, views, len(self.within), generator=rng) @ self.within
        who = who / max(1, self.concepts - 1) ** 0.5
        if near is not None:
            like = torch.empty(concepts, 1).uniform_(*NEAR, generator=rng)
            whom = near.flatten(1)[torch.randint(len(near), (concepts,), generator=rng)]
            who = like * (whom - self.mean) + (1 - like.square()).sqrt() * who
        centre = self.mean + who
        drawn = centre[:, None] + how / max(1, self.images - self.concepts) ** 0.5
        return drawn.reshape(-1, *self.shape)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON to save."""
        tensors = {"mean": self.mean, "between": self.between, "within": self.within}
        tensors |= {"means": self.means} if len(self.means) else {}
        return tensors, {"concepts": self.concepts, "images": self.images, "shape": self.shape, "block": self.block}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Replay:
        """From ``state``. KeyError, TypeError or ValueError where parts are missing or do not fit."""
        shape, block = tuple(counted(n) for n in info["shape"]), info["block"]
        mean, between, within = tensors["mean"], tensors["between"], tensors["within"]
        width, most = math.prod(shape), 2 * directions(max(1, math.prod(shape)))
        means = tensors.get("means", torch.empty(0, width))
        fit = [p.shape[-1:] == (width,) and len(p) <= most and p.dim() == 2 for p in (between, within, means)]
        known = tensors.keys() - {"means"} == {"mean", "between", "within"}
        if not known or mean.shape != (width,) or not all(fit) or not width:
            raise ValueError("replay: its shapes do not fit")
        if not all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in tensors.values()):
            raise ValueError("replay: it holds NaN or Inf, or other than float32")
        if any(float(p.abs().max()) > LARGEST for p in tensors.values() if p.numel()):
            raise ValueError("replay: its numbers are larger than any model's")
        concepts, images = counted(info["concepts"]), counted(info["images"])
        if not len(means) <= concepts <= images or not concepts or not isinstance(block, str):
            raise ValueError("replay: its counts cannot be")
        return cls(mean, between, within, concepts, images, shape, block, means)


def _spread(means: Tensor) -> Tensor:
    """All, or evenly spaced ones where there is no room for all."""
    most = 2 * directions(means.shape[1])
    return means if len(means) <= most else means[torch.linspace(0, len(means) - 1, most).round().long()]


def _joined(one: Tensor, two: Tensor) -> Tensor:
    """None where one of the two, of an older file, has none: those of the other would stand for all."""
    return _spread(torch.cat([one, two])) if len(one) and len(two) else one[:0]


def _without(these: Tensor, others: Tensor) -> Tensor:
    """Less the nearest to each of ``others``: it is the same concept's, of the same or of more of its images."""
    for other in others:
        if len(these):
            nearest = int((these - other).square().sum(1).argmin())
            these = torch.cat([these[:nearest], these[nearest + 1 :]])
    return these


def _chunks(concepts: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Concepts by the few hundred images: one decomposition for many is cheaper than one for each."""
    some: list[Tensor] = []
    for x in concepts:
        some.append(x)
        if sum(map(len, some)) > 2 * directions(x[0].numel()):
            yield some
            some = []
    if some:
        yield some


def _factor(parts: list[Tensor], signs: list[int]) -> Tensor:
    """F [r, D] with FᵀF = sum of sign · PᵀP over the parts; the RANK largest directions, or all up to 2 RANK.

    All of them only where nothing is taken out. RANK or, of large inputs, fewer (``directions``).
    """
    rows = torch.cat(parts)
    most = directions(rows.shape[1])
    if not rows.any():
        return rows[:0]
    if min(signs) > 0 and len(rows) <= 2 * most:
        return rows
    sign = torch.cat([torch.full((len(p),), float(s), dtype=torch.float64) for p, s in zip(parts, signs, strict=True)])
    wide = rows.double()
    size, turn = torch.linalg.eigh(wide @ wide.T)  # the rows' own span, where everything happens
    real = size > size[-1] * 1e-12
    if min(signs) > 0:
        return (turn[:, real][:, -most:].T @ wide).float()
    root, turn = size[real].sqrt(), turn[:, real]
    span = (turn / root).T @ wide  # orthonormal rows
    scatter = root[:, None] * (turn.T @ (sign[:, None] * turn)) * root
    share, mix = torch.linalg.eigh(scatter)
    kept = (share > max(float(share[-1]), 0.0) * 1e-9).nonzero()[:, 0][-most:]
    return ((share[kept].sqrt()[:, None] * mix[:, kept].T) @ span).float()
