"""Contrastive visual forgetting (CVF): where a forgotten image's feature is to go, and what it must not take along.

A reconstruction of arXiv 2605.05909 from its words. Our choices, which the paper does not state: features are compared
after whitening by their variation *within* a concept, so that who is shown weighs more than how; and each forget image
has a target of its own, the same picture with a neutral concept in it (``targets``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unsee.errors import UnseeError

SHRINK = 0.1  # share of the mean variance added to every direction before whitening


def flat(features: Sequence[Tensor], places: int) -> Tensor:
    """Each image's features, averaged over ``places`` stretches of tokens, side by side: ``[images, places * width]``.

    The mean over all tokens alone is not enough: a language model reads every token, and a model made to forget in the
    mean still named 86 % of the forgotten faces.
    """
    return torch.stack([_stretches(f.float(), places).flatten() for f in features])


def _stretches(feature: Tensor, places: int) -> Tensor:
    if len(feature) == places:
        return feature
    return torch.nn.functional.adaptive_avg_pool1d(feature.T[None], places)[0].T


@dataclass(frozen=True)
class Space:
    """Directions in feature space, scaled so that views of one concept vary by about one in each.

    ``centre`` [width]; ``basis`` [width, r]: directions in which views of one concept vary; ``gain`` [r] and ``rest``:
    one over the deviation there and elsewhere.
    """

    centre: Tensor
    basis: Tensor
    gain: Tensor
    rest: float

    def white(self, pooled: Tensor) -> Tensor:
        """``[n, width]`` → ``[n, width]``: centred, within-concept variation scaled to one."""
        centred = pooled - self.centre
        inside = centred @ self.basis
        return self.rest * centred + (inside * (self.gain - self.rest)) @ self.basis.T

    def unit(self, pooled: Tensor) -> Tensor:
        """``white`` on the unit sphere, where similarity is a cosine."""
        return normalize(self.white(pooled), dim=-1)


def fit_space(pooled: Tensor, concepts: Sequence[str], centre: Tensor | None = None) -> Space:
    """Measure the variation within concepts. ``pooled`` [n, width], ``concepts``: whose image each row is.

    Raises UnseeError where no concept has two images: then nothing tells a view from an identity.
    """
    groups = [torch.tensor([i for i, c in enumerate(concepts) if c == g]) for g in dict.fromkeys(concepts)]
    within = [pooled[g] - pooled[g].mean(0) for g in groups if len(g) > 1]
    if not within:
        raise UnseeError("no concept has two images, so views cannot be told from identities. Give at least 2 each.")
    scatter = torch.cat(within).double()
    freedom = len(scatter) - len(within)
    _, s, v = torch.linalg.svd(scatter, full_matrices=False)
    variance = s.square() / max(1, freedom)
    floor = SHRINK * variance.sum() / pooled.shape[1]
    gain = (variance + floor).rsqrt()
    middle = pooled.mean(0) if centre is None else centre
    scale = floor.rsqrt()
    return Space(middle, v.T.to(pooled), gain.to(pooled), float(scale))


def loss(u: Tensor, positives: Tensor, own: Tensor, centroids: Tensor, temperature: float) -> Tensor:
    """L_F of each image, ``[n]``: InfoNCE with many positives (CPC, arXiv 1807.03748).

    ``u`` [n, d]: new features. ``positives`` [p, d] shared, or [n, p, d]: the region. ``own`` [n, d]: the image's
    feature before forgetting. ``centroids`` [c, d]: of every forget concept. All on the unit sphere.
    """
    shared = positives.dim() == 2
    to_region = u @ positives.T if shared else torch.einsum("nd,npd->np", u, positives)
    away = torch.cat([(u * own).sum(-1, keepdim=True), u @ centroids.T], dim=1)
    region, whole = to_region / temperature, torch.cat([to_region, away], dim=1) / temperature
    return whole.logsumexp(1) - region.logsumexp(1)


def nearest_neutral(space: Space, concepts: Tensor, neutral: Tensor) -> Tensor:
    """Index of the neutral concept most like each concept: ``[c, width]``, ``[m, width]`` means → ``[c]``."""
    return torch.cdist(space.white(concepts), space.white(neutral)).argmin(1)
