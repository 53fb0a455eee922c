"""Images asked about: known by their pixels, encoded once, and held within a bound of memory."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import PIL.Image
import torch
from torch import Tensor

from unsee.concepts import ImageRef
from unsee.data.images import load_all
from unsee.vision.attention import attention_for
from unsee.vision.module import Visual

ROOM = 4 * 2**30  # bytes of features held: 870 images of LLaVA-1.5-7B in half precision


@dataclass(frozen=True)
class Picture:
    """``digest``: SHA-256 of size and decoded pixels, whatever file or name they came from."""

    digest: str
    size: tuple[int, int]  # width, height
    image: ImageRef


class Album:
    """Every image that was asked about, opened once to be known."""

    def __init__(self) -> None:
        self._known: dict[int, Picture] = {}
        self._by_digest: dict[str, Picture] = {}

    def add(self, images: Sequence[ImageRef]) -> list[Picture]:
        new = {id(image): image for image in images if id(image) not in self._known}
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # one thread holds one image: memory stays small
            for key, picture in zip(new, pool.map(_picture, new.values()), strict=True):
                self._known[key] = picture  # which keeps the image alive, so that its id stays its own
                self._by_digest.setdefault(picture.digest, picture)
        return [self._known[id(image)] for image in images]

    def __getitem__(self, digest: str) -> Picture:
        return self._by_digest[digest]

    def open(self, digests: Sequence[str]) -> list[PIL.Image.Image]:
        return [self[digest].image.load() for digest in digests]


def _picture(image: ImageRef) -> Picture:
    opened = image.load().convert("RGB")
    digest = hashlib.sha256(f"{opened.size}".encode())
    digest.update(opened.tobytes())
    return Picture(digest.hexdigest(), opened.size, image)


@dataclass(frozen=True)
class Encoded:
    """What the language model receives of one image: ``[tokens, width]``, and its grid where a family has one."""

    features: Tensor
    grid: Tensor | None

    @property
    def bytes(self) -> int:
        return self.features.numel() * self.features.element_size()


class Encoder:
    """Image features. ``count``: how many images went through the vision tower.

    Each image goes alone, so that its features hang on nothing but itself, down to the last bit.
    """

    def __init__(self, visual: Visual) -> None:
        self.visual = visual
        self.count = 0
        self._held: OrderedDict[str, Encoded] = OrderedDict()  # the one not asked for longest comes first
        self._bytes = 0

    def encode(self, pictures: Sequence[Picture]) -> list[Encoded]:
        needed = {p.digest: p for p in pictures}
        found = {digest: self._held[digest] for digest in needed if digest in self._held}
        new = [p for digest, p in needed.items() if digest not in found]
        opened = load_all([p.image for p in new])
        with torch.no_grad(), attention_for(self.visual.model, training=False):
            for picture, image in zip(new, opened, strict=True):
                pixels = self.visual.pixels([image])[0]
                features = self.visual.features([pixels])[0].cpu()
                found[picture.digest] = Encoded(features, pixels.get("image_grid_thw"))
        self.count += len(new)
        self._hold(found)
        return [found[p.digest] for p in pictures]

    def _hold(self, found: dict[str, Encoded]) -> None:
        for digest, encoded in found.items():
            if digest not in self._held:
                self._bytes += encoded.bytes
            self._held[digest] = encoded
            self._held.move_to_end(digest)
        while self._bytes > ROOM:
            self._bytes -= self._held.popitem(last=False)[1].bytes
