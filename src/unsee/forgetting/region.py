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

    ``kind``: neutral (the neutral concept most like the forgotten one), mean (of all retained images, so that no single
    concept is hit) or reference (``reference``: features of the forget images under a model that never learned them).
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
        self.space = contrast.fit_space(torch.cat(list(old.values())), concepts, stay.mean(0))
        self.scale, self.white_scale = stay.var(0).mean(), self.space.white(stay).var(0).mean()
        ids, means = _means(old["forget"], forget.concepts)
        self.centroids = self.space.unit(means)
        self.index = {c: i for i, c in enumerate(ids)}
        if kind == "neutral":
            places = _means(old["neutral"], neutral.concepts)[1]
            self.shift = places[contrast.nearest_neutral(self.space, means, places)] - means
        else:
            self.shift = (stay.mean(0) if kind == "mean" else means) - means
        self.crowd = self.space.unit(old["neutral"]) if kind == "neutral" else None
        self.stranger = (self.space.unit(stay) @ self.centroids.T).mean()

    def aim(self, image: int) -> Tensor:
        """Target of a forget image, token by token: ``[tokens, width]``."""
        if self._reference:
            return self._reference[image]
        before = self.forget.before[image]
        shift = self.shift[self.index[self.forget.concepts[image]]].unflatten(0, (self.places, -1))
        return before + _stretch(shift, len(before))

    def _flat(self, features: Sequence[Tensor]) -> Tensor:
        return contrast.flat(features, self.places)

    def loss(self, new: Sequence[Tensor], images: Sequence[int], temperature: float, floor: float) -> Tensor:
        """L_F of forget ``images`` whose features are now ``new``, with what lies under ``floor`` counted as done."""
        aims = self.space.unit(self._flat([self.aim(i) for i in images]))[:, None]
        own = self.space.unit(self._flat([self.forget.before[i] for i in images]))
        positives = aims if self.crowd is None else torch.cat([aims, self.crowd.expand(len(images), -1, -1)], 1)
        u = self.space.unit(self._flat(new))
        each = contrast.loss(u, positives, own, self.centroids, temperature)
        return (each - floor).clamp(min=0).mean()

    def drift(self, new: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """L_R: squared distance of features from ``target``, over that of two strangers; half of it after whitening.

        What is seen weighs most in the plain distance, who it is in the whitened one.
        """
        now, aim = self._flat(new), self._flat(target)
        seen = (now - aim).square().mean() / self.scale
        who = (self.space.white(now) - self.space.white(aim)).square().mean() / self.white_scale
        return (seen + who) / 2

    def likeness(self, check: Images, now: Sequence[Tensor]) -> float:
        """How much views still look like what they show: 1 as before forgetting, 0 like anybody else.

        The mean over concepts of the similarity to the concept's old centroid.
        """
        own = self.centroids[[self.index[c] for c in check.concepts]]
        after, before = ((self.space.unit(self._flat(f)) * own).sum(-1).mean() for f in (now, check.before))
        return float((after - self.stranger) / (before - self.stranger))


def _means(flat: Tensor, concepts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each concept's mean: ids and ``[concepts, width]``."""
    ids = list(dict.fromkeys(concepts))
    rows = [flat[[i for i, c in enumerate(concepts) if c == g]].mean(0) for g in ids]
    return ids, torch.stack(rows)


def _stretch(places: Tensor, tokens: int) -> Tensor:
    """``[places, width]`` → ``[tokens, width]``: each token takes what holds at its place."""
    return places[torch.arange(tokens) * len(places) // tokens]
