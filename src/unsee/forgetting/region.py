"""Where forgotten images are to go, and how far they have come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from unsee.config import ForgetConfig
from unsee.forgetting import contrast


@dataclass
class Images:
    """Images as a model's processor gave them, with the concept each shows and its features before (``pooled``)."""

    pixels: list[Any]
    concepts: list[str]
    before: list[Tensor] = field(default_factory=list)

    def __iadd__(self, other: Images) -> Images:
        self.pixels += other.pixels
        self.concepts += other.concepts
        self.before += other.before
        return self

    def __len__(self) -> int:
        return len(self.pixels)

    def __add__(self, other: Images) -> Images:
        return Images(self.pixels + other.pixels, self.concepts + other.concepts, self.before + other.before)

    def __getitem__(self, some: slice) -> Images:
        return Images(self.pixels[some], self.concepts[some], self.before[some])

    def some(self, most: int) -> Images:
        """So many at most, spread over all."""
        return self[:: -(-len(self) // most) or 1]


class Region:
    """Targets and contrast of a request (docs/method.md, sections 3 and 4).

    ``kind``: neutral (nobody: the mean of neutral images), mean (of retained ones) or reference (``reference``:
    features of the forget images under a model that never learned them). In the first two, an image's target is itself
    without what tells its concept apart from the mean.
    """

    def __init__(
        self, kind: str, forget: Images, neutral: Images, retain: Images, reference: Sequence[Tensor] = ()
    ) -> None:
        self.forget, self._reference = forget, list(reference)
        sets = (forget, neutral, retain)
        self.places = min(len(f) for images in sets for f in images.before)
        before = [f for images in sets for f in images.before]
        old = self._rows(before)
        first, second = len(forget), len(forget) + len(neutral)  # where neutral images begin, and retained ones
        stay = slice(first, None) if len(old) > first else slice(None)
        home = {"neutral": slice(first, second), "mean": slice(second, None)}.get(kind, stay)
        centre = contrast.mean(self._rows(before[home]))
        self.space = contrast.fit_space(old, [c for images in sets for c in images.concepts], centre)
        white = self.space.white(old)
        who, unit = self.space.identity(white), self.space.unit
        self.scale = contrast.variance(self._rows(before[stay]))
        self.identity_scale = who[stay].var(0).mean()
        self.index = {c: i for i, c in enumerate(dict.fromkeys(forget.concepts))}
        whose = torch.tensor([self.index[c] for c in forget.concepts], device=white.device)
        forgotten = self._concepts(white[:first], whose)
        if self._reference:
            there = self.space.white(self._rows(self._reference))
            self.way = forgotten - self._concepts(there, whose)  # from target to concept
            self.aim_identity = self.space.identity(there)
        else:
            self.way = forgotten
            self.aim_identity = self.space.identity(white[:first] - forgotten[whose])
        self.away = self.way @ self.space.write.T
        self.space = replace(self.space, write=self.space.write[:0].clone())  # as large as all images; not used again
        self.own, self.aims, self.centroids = unit(who[:first]), unit(self.aim_identity), unit(forgotten)
        self.crowd = unit(who[home]) if kind == "neutral" else None

    def _concepts(self, white: Tensor, whose: Tensor) -> Tensor:
        """Who each concept is, as far as its images tell: ``[concepts, r]``."""
        parts = [white[whose == i] for i in range(len(self.index))]
        views = torch.tensor([len(p) for p in parts], device=white.device)
        return self.space.identity(torch.stack([p.mean(0) for p in parts]), views)

    def aim(self, images: Sequence[int]) -> Tensor:
        """Targets of forget ``images``, place by place: ``[n, places * width]``."""
        if self._reference:
            return self.flat([self._reference[i] for i in images])
        away = self.away[[self.index[self.forget.concepts[i]] for i in images]]
        return self.flat([self.forget.before[i] for i in images]) - away

    def _rows(self, features: Sequence[Tensor]) -> contrast.Flat:
        return contrast.Flat(features, self.places)

    def flat(self, features: Sequence[Tensor]) -> Tensor:
        """``[images, places * width]``."""
        return contrast.flat(features, self.places)

    def losses(
        self,
        forgotten: Sequence[Tensor],
        images: Sequence[int],
        stay: Sequence[Tensor],
        old: Sequence[Tensor],
        config: ForgetConfig,
        whole: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Terms of the loss. Features of the forget ``images`` are now ``forgotten``; ``stay`` were ``old`` before.

        ``whole``: how many of both the whole batch has: the terms of its parts add up to the batch's mean.

        ``forget``: L_F, with what lies under the floor counted as done. ``anchor``, ``keep`` (L_R): squared distance
        from the target, over the variance of what stays; half of it of identity. What is seen weighs most in the plain
        distance, who it is in the other.
        """
        n, read = len(images), self.space.read.to(torch.bfloat16 if config.bf16 else torch.float32)
        there = torch.cat([*([self.aim(images)] if n else []), *([self.flat(old)] if old else [])])
        told, far = self._far(self.flat([*forgotten, *stay]) - there, read)
        terms = {"keep": far[n:].sum() / (2 * whole[1])} if old else {}
        if n:
            u = self.space.unit(self.aim_identity[images] + told[:n])
            each = contrast.loss(u, self.aims[images], self.own[images], self.centroids, config.temperature, self.crowd)
            terms["forget"] = (each - config.floor).clamp(min=0).sum() / whole[0]
            terms["anchor"] = far[:n].sum() / (2 * whole[0])
        return terms

    def _far(self, change: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """Of each ``change`` of features: its part in identity, and twice its size, half of which is identity."""
        told = self.space.identity((change.to(read.dtype) @ read).float())
        return told, change.square().mean(1) / self.scale + told.square().mean(1) / self.identity_scale

    def drift(self, now: Sequence[Tensor], before: Sequence[Tensor]) -> float:
        """Mean squared distance between features of images that stay, as ``keep`` has it."""
        return float(self._far(self.flat(now) - self.flat(before), self.space.read)[1].mean()) / 2

    def shown(self, images: Images) -> Tensor:
        """Share of each forget concept's identity that ``images`` showed before, ``[n, concepts]``: its own about 1."""
        return self._share(self.space.white(self._rows(images.before)))

    def left(self, check: Images, now: Sequence[Tensor]) -> Tensor:
        """Share of its identity that each view still shows, ``[views]``: 1 as before forgetting, 0 at the target."""
        come = self.space.white(self._rows(check.before)) - self.space.white(self._rows(now))
        return 1 - self._share(come)[range(len(check)), [self.index[c] for c in check.concepts]]

    def _share(self, white: Tensor) -> Tensor:
        """How far ``white`` [n, r] goes along the way from target to each concept: ``[n, concepts]``."""
        return self.space.identity(white) @ self.way.T / (self.space.identity(self.way) * self.way).sum(-1)
