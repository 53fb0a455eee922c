"""The images of a lesson, as a model that is taught sees them: through blocks that stay as they are only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
from torch import Tensor, nn

from unsee.concepts import ImageRef
from unsee.config import FinetuneConfig
from unsee.data.augment import augment
from unsee.data.images import load_all
from unsee.progress import progress
from unsee.vision.blocks import Seen, Upper, tower
from unsee.vision.module import Visual
from unsee.vision.trace import Linear, trace

AT_ONCE = 64  # images that are open at the same time, where each is looked at only once


class Shown:
    """Images of ``visual``, ``config.copies`` altered ones of each behind them.

    Where the tower is taught from some block on, or not at all, what enters that block is kept, in ``folder`` where
    there is no room. ``projector``: its first linear layer.
    """

    def __init__(
        self, visual: Visual, images: Sequence[ImageRef], config: FinetuneConfig, folder: Path | None = None
    ) -> None:
        self.visual, self.images, self.config = visual, images, config
        self.frozen: set[str] = set()
        self.upper: Upper | None = None
        if config.depth < 1 or config.align:
            probe = visual.pixels([image.load() for image in (images[0], images[-1])])
            linears = trace(visual, probe[0]).linears
            in_projector = [n for n in linears if visual.family.in_projector(n)]
            self.projector: nn.Linear = visual.model.get_submodule(in_projector[0])
        if config.depth < 1:
            self._freeze(linears)
            trained = [n for n in linears if f"{n}.weight" not in self.frozen]
            self.upper = Upper(visual, linears, trained, probe, config.bf16, folder)
        self.seen = self._looked() if self.upper else self._opened()

    def __len__(self) -> int:
        return len(self.seen)

    def features(self, chosen: Sequence[int]) -> list[Tensor]:
        batch = [self.seen[i] for i in chosen]
        return self.upper.features(batch) if self.upper else self.visual.features(batch)

    def grids(self, chosen: Sequence[int]) -> list[Tensor]:
        """Of each image, where the family has one."""
        return [self.seen[i]["image_grid_thw"] for i in chosen if "image_grid_thw" in self.seen[i]]

    @contextmanager
    def projector_alone(self) -> Iterator[list[nn.Parameter]]:
        """Its parameters; those of the tower are not taught meanwhile."""
        inside = self.visual.family.in_projector
        waiting = [p for n, p in self.visual.parameters().items() if p.requires_grad and not inside(n)]
        for parameter in waiting:
            parameter.requires_grad_(False)
        try:
            yield [p for n, p in self.visual.parameters().items() if p.requires_grad]
        finally:
            for parameter in waiting:
                parameter.requires_grad_(True)

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
        rng = np.random.default_rng([self.config.seed, len(opened)])
        return self.visual.pixels([*opened, *self._copies(opened, rng)])

    def _copies(self, opened: Sequence[PIL.Image.Image], rng: np.random.Generator) -> Iterator[PIL.Image.Image]:
        return (augment(o, rng) for _ in range(self.config.copies) for o in opened)

    def _looked(self) -> list[Seen]:
        """The same images in the same order, a few at a time."""
        rng = np.random.default_rng([self.config.seed, len(self.images)])
        found: list[Seen] = []
        total = len(self.images) * (1 + self.config.copies)
        with progress("looking", total) as tick:
            for copy in range(1 + self.config.copies):
                for start in range(0, len(self.images), AT_ONCE):
                    opened = load_all(self.images[start : start + AT_ONCE])
                    found += self._look([augment(o, rng) for o in opened] if copy else opened)
                    tick(len(found))
        return found

    def _look(self, opened: Sequence[PIL.Image.Image]) -> list[Seen]:
        seen: list[Seen] = [dict(p) for p in self.visual.pixels(opened)]
        if self.upper:
            self.upper.look(seen, lambda features: features[:0])
        return seen
