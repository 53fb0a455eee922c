"""Images through the visual module before anything changes: features, what enters the part that trains, its spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unsee import processes
from unsee.concepts import Concept, ImageRef
from unsee.data.augment import augment
from unsee.data.images import digest, load_all
from unsee.forgetting import contrast
from unsee.forgetting.recorder import MomentRecorder
from unsee.forgetting.region import Images
from unsee.forgetting.replay import Replay, directions
from unsee.progress import progress
from unsee.vision.blocks import HIDDEN, Upper
from unsee.vision.module import Visual

OPENED = 64  # images, altered copies among them, that are open at a time
Encoded = tuple[Images, list[Tensor]]  # images, and their features under a reference


def encode(
    upper: Upper,
    concepts: Sequence[Concept],
    what: str,
    altered: int = 0,
    seed: int = 0,
    recorder: MomentRecorder | None = None,
    reference: Visual | None = None,
    aims: list[Tensor] | None = None,
) -> Images:
    """One pass over the concepts' images and so many ``altered`` copies of each: features, what enters the upper part.

    ``recorder``: records its layers' inputs. ``aims``: filled with features under ``reference``.
    """
    refs = [(c.id, i) for c in concepts for i in c.images]
    step = max(1, OPENED // (1 + altered))
    found = Images([], [])
    if recorder:
        recorder.mask = upper.visual.real_rows
    with progress(what, len(refs)) as tick:
        for starts in processes.turns(range(0, len(refs), step)):
            done: Encoded | None = None
            with processes.alike():
                for start in processes.own(starts):
                    done = encode_some(upper, refs[start : start + step], altered, seed, reference)
                    if recorder:
                        recorder.images += len(done[0])
            for images, more in _gathered(upper, done):
                found += images
                if aims is not None:
                    aims += more
            tick(min(starts[-1] + step, len(refs)))
    return found


def _gathered(upper: Upper, own: Encoded | None) -> list[Encoded]:
    """What the processes looked at in one turn; of what others did, hidden inputs go to this one's store."""
    if processes.count() == 1:
        return [own] if own else []
    found = processes.everywhere(own and (_plain(own[0]), own[1]))
    found[processes.rank()] = own
    return [looked if looked is own else (_kept(upper, looked[0]), looked[1]) for looked in found if looked is not None]


def _plain(images: Images) -> Images:
    """With hidden inputs as tensors, to be sent."""
    pixels = [{k: v() if k == HIDDEN else v for k, v in p.items()} for p in images.pixels]
    return Images(pixels, images.concepts, images.before)


def _kept(upper: Upper, images: Images) -> Images:
    """The other way round."""
    pixels = [upper.keep(p) if HIDDEN in p else p for p in images.pixels]
    return Images(pixels, images.concepts, images.before)


def encode_some(
    upper: Upper, part: Sequence[tuple[str, ImageRef]], altered: int, seed: int, reference: Visual | None
) -> Encoded:
    opened = load_all([i for _, i in part])
    # By pixels: a copy is the same in another request, whatever other images that has.
    rngs = [np.random.default_rng([seed, int(digest(o), 16)]) for o in opened]
    more = [augment(o, rng) for o, rng in zip(opened, rngs, strict=True) for _ in range(altered)]
    pixels = upper.visual.pixels([*opened, *more])
    concepts = [c for c, _ in part] + [c for c, _ in part for _ in range(altered)]
    with torch.no_grad():
        aims = [contrast.pooled(reference.features([p])[0]).to(upper.visual.device) for p in pixels if reference]
    return Images(pixels, concepts, upper.look(pixels, contrast.pooled)), aims


def groups_of(concepts: Sequence[Concept]) -> Iterator[list[Concept]]:
    """Whole concepts, OPENED images or so at a time; a larger one in pieces, which count as concepts of their own."""
    some: list[Concept] = []
    for concept in concepts:
        for start in range(0, len(concept.images), OPENED):
            some.append(Concept(concept.id, concept.images[start : start + OPENED]))
            if sum(len(c.images) for c in some) >= OPENED:
                yield some
                some = []
    if some:
        yield some


class Distribution:
    """Of what enters the upper part, over images that are seen a few at a time."""

    def __init__(self, block: str) -> None:
        self.block, self.some, self.fitted = block, list[Tensor](), list[Replay | None]()

    def add(self, shown: Images) -> None:
        seen = entered(shown)
        self.some += seen or ()
        if seen is None:
            self.fitted.append(None)
        elif sum(map(len, self.some)) > 2 * directions(self.some[0][0].numel()):  # many at once lose less
            self.fitted = self.parts()

    def parts(self) -> list[Replay | None]:
        """None in it: images differ in size, or the module runs whole."""
        if self.some:
            self.fitted, self.some = [summed([*self.fitted, Replay.fit(self.some, self.block)])], []
        return self.fitted


def entered(shown: Images) -> Iterator[Tensor] | None:
    """What entered the upper part, concept by concept: ``[images, …]``. None: it differs in shape, or nothing did."""
    inputs = [p[HIDDEN] for p in shown.pixels if HIDDEN in p]
    if len(inputs) < len(shown) or len({p["pixel_values"].shape for p in shown.pixels}) != 1:
        return None
    groups: dict[str, list[Any]] = {}
    for concept, hidden in zip(shown.concepts, inputs, strict=True):
        groups.setdefault(concept, []).append(hidden)
    return (torch.stack([h() for h in group]) for group in groups.values())


def summed(parts: Sequence[Replay | None]) -> Replay | None:
    """None where one of them has none, or is of another shape."""
    whole = [p for p in parts if p is not None]
    if not whole or len(whole) < len(parts) or any(p.shape != whole[0].shape for p in whole):
        return None
    return reduce(add, whole)
