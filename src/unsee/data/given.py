"""Images as people have them in Python: paths, PIL images and arrays, in a concept."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from unsee.concepts import Concept, ImageRef
from unsee.data.images import checked, digest
from unsee.data.pixels import upright
from unsee.errors import UnseeError
from unsee.untrusted import shown

HOW = 'Give a folder, or concepts: unsee.Concept("ada", ("ada/1.jpg", …)), of paths, PIL images or uint8 arrays.'


@dataclass(frozen=True)
class HeldImage:
    """A picture in memory."""

    id: str
    image: PIL.Image.Image

    def load(self) -> PIL.Image.Image:
        return self.image

    @cached_property
    def digest(self) -> str:
        return digest(self.image)


def with_images(concept: Any) -> Concept:
    """``concept``, each of its images one that can be opened. UnseeError: it is no concept, or holds something else."""
    if not isinstance(concept, Concept):
        raise UnseeError(f"a {type(concept).__name__} in a list is no concept: whose picture is it? {HOW}")
    if isinstance(concept.images, str | os.PathLike):
        raise UnseeError(f"the images of concept '{concept.id}' are one path, not a list. {HOW}")
    images = tuple(_image(concept.id, n, item) for n, item in enumerate(concept.images))
    if not images:
        raise UnseeError(f"concept '{concept.id}' has no image. {HOW}")
    return replace(concept, images=images)


def _image(concept: str, number: int, item: Any) -> ImageRef:
    name = f"{concept}/{number}"
    if isinstance(item, PIL.Image.Image):
        return HeldImage(name, upright(item))
    if isinstance(item, np.ndarray):
        return HeldImage(name, _of_array(name, item))
    if isinstance(item, str | os.PathLike):
        path = Path(item)
        if not path.is_file():
            raise UnseeError(f"{name}: '{path}' is no file. {HOW}")
        return checked(f"{concept}/{shown(path.name)}", path)
    if isinstance(item, ImageRef):
        return item
    raise UnseeError(f"{name} is a {type(item).__name__}, which is no picture. {HOW}")


def _of_array(name: str, array: np.ndarray[Any, Any]) -> PIL.Image.Image:
    picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not picture or not array.size:
        raise UnseeError(
            f"{name} is an array of {array.dtype} and shape {array.shape}. Give uint8, height × width, or × 3 or 4."
        )
    return upright(PIL.Image.fromarray(array))
