"""Where forgotten images are to go, and how far they have come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unsee.forgetting import contrast

PLACES = 36  # stretches of tokens that are told apart: more cost memory, ``places * width`` floats an image


@dataclass
class Images:
    """Images as a model's processor gave them, with the concept each shows and, once computed, its first features."""

    pixels: list[Any]
    concepts: list[str]
    before: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pixels)


class Region:
    """Targets and contrast of a request (method, section 2).

    ``kind``: neutral (nobody: the mean of neutral images), mean (of retained ones) or reference (``reference``:
    features of the forget images under a model that never learned them). In the first two, an image's target is itself
    without what tells its concept apart from the mean.
    """

    def __init__(
        self, kind: str, forget: Images, neutral: Images, retain: Images, reference: Sequence[Tensor] = ()
    ) -> None:
        self.forget, self._reference = forget, list(reference)
        named = {"forget": forget, "neutral": neutral, "retain": retain}
        self.places = min(PLACES, *(len(f) for images in named.values() for f in images.before))
        old = {name: self._flat(images.before) for name, images in named.items() if len(images)}
        stay = torch.cat([old[n] for n in ("neutral", "retain") if n in old] or [old["forget"]])
        concepts = [c for images in named.values() for c in images.concepts]
        centre = old["neutral" if kind == "neutral" else "retain"] if kind != "reference" else stay
        self.space = contrast.fit_space(torch.cat(list(old.values())), concepts, centre.mean(0))
        self.scale, self.identity_scale = stay.var(0).mean(), self._identity(stay).var(0).mean()
        self.index = {c: i for i, c in enumerate(dict.fromkeys(forget.concepts))}
        forgotten = self._concepts(old["forget"], forget.concepts)
        self.way = forgotten  # from target to concept
        if self._reference:
            self.way = forgotten - self._concepts(self._flat(self._reference), forget.concepts)
        self.away = self.way @ self.space.write.T
        whose = torch.tensor([self.index[c] for c in forget.concepts])
        white, unit = self.space.white(old["forget"]), self.space.unit
        self.own = unit(self.space.identity(white))
        if self._reference:
            self.aims = unit(self._identity(self._flat(self._reference)))
        else:
            self.aims = unit(self.space.identity(white - self.way[whose]))
        self.centroids = unit(forgotten)
        self.crowd = unit(self._identity(old["neutral"])) if kind == "neutral" else None

    def _concepts(self, flat: Tensor, concepts: Sequence[str]) -> Tensor:
        """Who each concept is, as far as its images tell: ``[concepts, r]``."""
        rows = [[i for i, c in enumerate(concepts) if c == g] for g in dict.fromkeys(concepts)]
        means = torch.stack([flat[r].mean(0) for r in rows])
        return self.space.identity(self.space.white(means), torch.tensor([len(r) for r in rows]))

    def _identity(self, flat: Tensor) -> Tensor:
        return self.space.identity(self.space.white(flat))

    def aim(self, image: int) -> Tensor:
        """Target of a forget image, token by token: ``[tokens, width]``."""
        if self._reference:
            return self._reference[image]
        before = self.forget.before[image]
        away = self.away[self.index[self.forget.concepts[image]]]
        return before - _stretch(away.unflatten(0, (self.places, -1)), len(before))

    def _flat(self, features: Sequence[Tensor]) -> Tensor:
        return contrast.flat(features, self.places)

    def loss(self, new: Sequence[Tensor], images: Sequence[int], temperature: float, floor: float) -> Tensor:
        """L_F of forget ``images`` whose features are now ``new``, with what lies under ``floor`` counted as done."""
        chosen = torch.tensor(images)
        u = self.space.unit(self._identity(self._flat(new)))
        each = contrast.loss(u, self.aims[chosen], self.own[chosen], self.centroids, temperature, self.crowd)
        return (each - floor).clamp(min=0).mean()

    def drift(self, new: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """L_R: squared distance of features from ``target``, over the variance of what stays; half of it of identity.

        What is seen weighs most in the plain distance, who it is in the other.
        """
        change = self._flat(new) - self._flat(target)
        seen = change.square().mean() / self.scale
        who = self.space.identity(change @ self.space.read).square().mean() / self.identity_scale
        return (seen + who) / 2

    def left(self, check: Images, now: Sequence[Tensor]) -> Tensor:
        """Share of its identity that each view still shows, ``[views]``: 1 as before forgetting, 0 at the target."""
        way = self.way[[self.index[c] for c in check.concepts]]
        come = self.space.white(self._flat(check.before)) - self.space.white(self._flat(now))
        return 1 - (self.space.identity(come) * way).sum(-1) / (self.space.identity(way) * way).sum(-1)


def _stretch(places: Tensor, tokens: int) -> Tensor:
    """``[places, width]`` → ``[tokens, width]``: each token takes what holds at its place."""
    return places[torch.arange(tokens) * len(places) // tokens]
