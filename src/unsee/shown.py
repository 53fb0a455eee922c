"""The images of a lesson, as a model that is taught sees them: through blocks that stay as they are only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import PIL.Image
from torch import Tensor, nn

from unsee.concepts import ImageRef
from unsee.config import FinetuneConfig
from unsee.data.augment import augment
from unsee.data.images import load_all
from unsee.feature_cache import FeatureCache
from unsee.progress import progress
from unsee.vision.blocks import Seen, Upper, tower
from unsee.vision.module import Visual
from unsee.vision.trace import Linear, trace

AT_ONCE = 64  # images that are open at the same time, where each is looked at only once


class Shown:
    """Images of ``visual``, ``config.copies`` altered ones of each behind them.

    Where the tower is taught from some block on, or not at all, what enters that block is kept, in ``folder`` where
    there is no room, and in ``cache`` for other runs on the same tower, a file an image. ``projector``: its linear
    layers, in the order in which they run.
    """

    def __init__(
        self, visual: Visual, images: Sequence[ImageRef], config: FinetuneConfig, folder: Path | None = None,
        cache: Path | None = None,
    ) -> None:  # fmt: skip
        self.visual, self.images, self.config = visual, images, config
        self.frozen: set[str] = set()
        self.upper: Upper | None = None
        if config.depth < 1 or config.align:
            probe = visual.pixels([image.load() for image in (images[0], images[-1])])
            linears = trace(visual, probe[0]).linears
            self.projector: list[nn.Linear] = [
                visual.model.get_submodule(n) for n in linears if visual.family.in_projector(n)
            ]
        if config.depth < 1:
            self._freeze(linears)
            trained = [n for n in linears if f"{n}.weight" not in self.frozen]
            frozen = {name: t for name, t in visual.tensors().items() if name in self.frozen}
            kept = FeatureCache(cache, frozen) if cache else None
            self.upper = Upper(visual, linears, trained, probe, config.bf16, folder, cache=kept)
        self.seen = self._looked(self.upper) if self.upper else self._opened()

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def tower(self) -> dict[str, nn.Parameter]:
        """What is taught of the tower, by name."""
        family, found = self.visual.family, self.visual.parameters().items()
        return {name: p for name, p in found if p.requires_grad and not family.in_projector(name)}

    def features(self, chosen: Sequence[int]) -> list[Tensor]:
        batch = [self.seen[i] for i in chosen]
        return self.upper.features(batch) if self.upper else self.visual.features(batch)

    def grids(self, chosen: Sequence[int]) -> list[Tensor]:
        """Of each image, where the family has one."""
        return [self.seen[i]["image_grid_thw"] for i in chosen if "image_grid_thw" in self.seen[i]]

    def release(self) -> None:
        """All parameters may be taught again, by somebody else."""
        for name, parameter in self.visual.parameters().items():
            parameter.requires_grad_(parameter.requires_grad or name in self.frozen)

    def _freeze(self, linears: dict[str, Linear]) -> None:
        """All of the encoder but its last blocks."""
        blocks = tower(linears)
        taught = blocks[len(blocks) - round(self.config.depth * len(blocks)) :]
        for name, parameter in self.visual.parameters().items():
            if not self.visual.family.in_projector(name) and not any(name.startswith(f"{b}.") for b in taught):
                self.frozen.add(name)
                parameter.requires_grad_(False)

    def _opened(self) -> list[Seen]:
        opened = load_all(self.images)
        return self.visual.pixels([*opened, *self._copies(self.images, opened)])

    def _copies(self, images: Sequence[ImageRef], opened: Sequence[PIL.Image.Image]) -> Iterator[PIL.Image.Image]:
        return (self._altered(i, o, c) for c in range(self.config.copies) for i, o in zip(images, opened, strict=True))

    def _altered(self, image: ImageRef, opened: PIL.Image.Image, copy: int) -> PIL.Image.Image:
        """The same whatever other images there are, so that a gold model sees what others do."""
        return augment(opened, np.random.default_rng([self.config.seed, copy, crc32(image.id.encode())]))

    def _looked(self, upper: Upper) -> list[Seen]:
        """The same images in the same order, a few at a time."""
        found: list[Seen] = []
        with progress("looking", len(self.images) * (1 + self.config.copies)) as tick:
            for copy in range(-1, self.config.copies):
                for start in range(0, len(self.images), AT_ONCE):
                    images = self.images[start : start + AT_ONCE]
                    opened = load_all(images)
                    if copy >= 0:
                        opened = [self._altered(i, o, copy) for i, o in zip(images, opened, strict=True)]
                    seen: list[Seen] = [dict(p) for p in self.visual.pixels(opened)]
                    upper.enter(seen)
                    found += seen
                    tick(len(found))
        return found
