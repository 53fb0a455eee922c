"""Contrastive visual forgetting (CVF): where a forgotten image's feature is to go, and what it must not take along.

A reconstruction of arXiv 2605.05909 from its words. Our choices, which the paper does not state: features are compared
by what they tell of the concept, whatever the view (``Space``); and each forget image has a target of its own, the same
picture of nobody in particular (``Region.aim``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unsee.errors import UnseeError

SHRINK = 0.1  # share of the mean variance added to every direction before whitening
SAMPLE = 1000  # images, spread over all, from which the directions are found
PLACES, FLOATS = 36, 2**16  # most stretches of tokens that are told apart, and most floats an image takes with them
AT_ONCE = 64  # images
DIRECTIONS = 384  # most that are looked at; each costs a float of ``places * width`` to project on


def flat(features: Sequence[Tensor], places: int) -> Tensor:
    """Each image's features, averaged over ``places`` stretches of tokens, side by side: ``[images, places * width]``.

    The mean over all tokens alone is not enough: a language model reads every token, and a model made to forget in the
    mean still named 86 % of the forgotten faces.
    """
    if all(len(f) == places for f in features):
        return torch.stack(list(features)).float().flatten(1)
    return torch.stack([_stretches(pooled(f), places).flatten() for f in features])


class Rows(Protocol):
    """Flat features of images: a tensor ``[images, width]``, or what gives parts of one when it is asked (``Flat``)."""

    def __len__(self) -> int: ...

    def __getitem__(self, some: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class Flat:
    """``flat`` of some images at a time: of all at once it is as large as their features, which are there already."""

    features: Sequence[Tensor]
    places: int

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, some: slice) -> Tensor:
        return flat(self.features[some], self.places)


def parts(rows: Rows) -> Iterator[Tensor]:
    """All rows, some at a time."""
    return (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))


def mean(rows: Rows) -> Tensor:
    """``[width]``."""
    return torch.stack([part.sum(0) for part in parts(rows)]).sum(0) / len(rows)


def variance(rows: Rows) -> Tensor:
    """Of each number around its mean over the rows, averaged over all numbers: ``[]``."""
    middle = mean(rows)
    far = torch.stack([(part - middle).square().sum() for part in parts(rows)])
    return far.sum() / ((len(rows) - 1) * len(middle))


def pooled(feature: Tensor) -> Tensor:
    """``[tokens, width]`` averaged over as many stretches of tokens as are told apart at most, in float32."""
    most = max(4, min(PLACES, FLOATS // feature.shape[1]))
    return _stretches(feature.float(), most) if len(feature) > most else feature.float()


def _stretches(feature: Tensor, places: int) -> Tensor:
    if len(feature) == places:
        return feature
    return torch.nn.functional.adaptive_avg_pool1d(feature.T[None], places)[0].T


@dataclass(frozen=True)
class Space:
    """Directions in feature space that tell concepts apart, scaled so that views of one concept vary by one in each.

    Two-covariance linear discriminant analysis (Ioffe 2006, probabilistic LDA). ``centre`` [width]; ``read`` and
    ``write`` [width, r]: into the directions and back; ``ratio`` [r]: variance between concepts over that within;
    ``radius``: half the distance of a typical identity from the centre, which is nobody.
    """

    centre: Tensor
    read: Tensor
    write: Tensor
    ratio: Tensor
    radius: Tensor

    def white(self, rows: Rows) -> Tensor:
        """``[n, width]`` → ``[n, r]``: centred, variation within a concept scaled to one."""
        return torch.cat([(part - self.centre) @ self.read for part in parts(rows)])

    def identity(self, white: Tensor, views: Tensor | int = 1) -> Tensor:
        """What means over ``views`` images tell of the concept itself: the posterior mean, ``[n, r]`` → ``[n, r]``."""
        return white * self.ratio / (self.ratio + 1 / torch.as_tensor(views, device=white.device)[..., None])

    def unit(self, identity: Tensor) -> Tensor:
        """Identities on the unit sphere, where similarity is a cosine: ``[n, r]`` → ``[n, r + 1]``.

        The last coordinate is the same for all before normalising, so that nobody has a place of its own, the pole.
        """
        return normalize(torch.cat([identity, self.radius.expand(*identity.shape[:-1], 1)], -1), dim=-1)


def fit_space(rows: Rows, concepts: Sequence[str], centre: Tensor | None = None) -> Space:
    """Measure variation within and between concepts. ``rows`` [n, width], ``concepts``: whose image each row is.

    Raises UnseeError where no concept has two images: then nothing tells a view from an identity.
    """
    members: dict[str, list[int]] = {}
    for i, c in enumerate(concepts):
        members.setdefault(c, []).append(i)
    middle = mean(rows) if centre is None else centre
    groups = [torch.tensor(r, device=middle.device) for r in members.values()]
    if all(len(g) < 2 for g in groups):
        raise UnseeError("no concept has two images, so views cannot be told from identities. Give at least 2 each.")
    # The low-rank decomposition starts from random directions.
    with torch.random.fork_rng([middle.device] if middle.is_cuda else []):
        torch.manual_seed(0)
        some = rows[:: -(-len(rows) // SAMPLE)] - middle
        basis = torch.svd_lowrank(some, min(DIRECTIONS, *some.shape))[2]
    x = torch.cat([((part - middle) @ basis).double() for part in parts(rows)])
    within = torch.cat([x[g] - x[g].mean(0) for g in groups])
    scatter = within.T @ within / (len(within) - len(groups))
    variance, turn = torch.linalg.eigh(
        scatter + SHRINK * scatter.diagonal().mean() * torch.eye(len(scatter), device=x.device)
    )
    means = torch.stack([x[g].mean(0) for g in groups]) @ turn * variance.rsqrt()
    noise = sum(1 / len(g) for g in groups) / len(groups)  # what views alone would make means vary by
    ratio, tell = torch.linalg.eigh(means.T @ means / len(means) - noise * torch.eye(means.shape[1], device=x.device))
    read, write = (turn * variance.pow(power) @ tell for power in (-0.5, 0.5))
    ratio = ratio.clamp(min=1e-6)
    typical = (ratio.square() / (ratio + 1)).sum().sqrt()  # deviation of identity(white)
    return Space(middle, basis @ read.to(basis), basis @ write.to(basis), ratio.to(basis), 0.5 * typical.to(basis))


def loss(
    u: Tensor, aims: Tensor, own: Tensor, centroids: Tensor, temperature: float, crowd: Tensor | None = None
) -> Tensor:
    """L_F of each image, ``[n]``: InfoNCE with many positives (CPC, arXiv 1807.03748).

    ``u`` [n, d]: new features. Positives: ``aims`` [n, d], each image's own, and ``crowd`` [p, d]. Negatives:
    ``own`` [n, d], the image's feature before forgetting, and ``centroids`` [c, d] of every forget concept. All on the
    unit sphere.
    """
    near = [(u * aims).sum(-1, keepdim=True)] + ([] if crowd is None else [u @ crowd.T])
    far = [(u * own).sum(-1, keepdim=True), u @ centroids.T]
    whole = torch.cat([*near, *far], dim=1) / temperature
    region = torch.cat(near, dim=1) / temperature
    return whole.logsumexp(1) - region.logsumexp(1)
