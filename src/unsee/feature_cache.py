"""What frozen layers make of an image, on disk: a later run with the same weights and image need not compute it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unsee import resume
from unsee.errors import UnseeError
from unsee.forgetting.stored import load_state, save_state
from unsee.vision.module import Visual

KIND, NAME = "features", "hidden"


class FeatureCache:
    """A file for each image in ``folder``, named after all that its features depend on.

    ``frozen``: the weights that compute them. ``place``: where in the model they are taken, and how they are computed.
    Features tell who was shown, so only the owner may read the files.
    """

    def __init__(self, folder: Path, frozen: Mapping[str, Tensor]) -> None:
        names = sorted(frozen)
        self.folder, self.origin = folder, resume.origin({}, (frozen[n] for n in names), names)

    @classmethod
    def below(cls, folder: Path | None, visual: Visual, trained: Iterable[str]) -> FeatureCache | None:
        """Of all weights of ``visual`` but those of ``trained`` layers; None without a folder."""
        changing = {f"{n}.weight" for n in trained}
        return cls(folder, {n: t for n, t in visual.tensors().items() if n not in changing}) if folder else None

    def get(self, pixels: Mapping[str, Any], place: str) -> Tensor | None:
        """What was put for an image, on the CPU; None: nothing was. UnseeError: the file is damaged or foreign."""
        file = self._file(pixels, place)
        if not file.is_file():
            return None
        tensors, _ = load_state(file, KIND)
        hidden = tensors.get(NAME)
        if len(tensors) != 1 or hidden is None or not torch.isfinite(hidden).all():
            raise UnseeError(f"'{file}' does not hold the features of an image. Delete it, and it is made again.")
        return hidden

    def put(self, pixels: Mapping[str, Any], place: str, hidden: Tensor) -> None:
        save_state(self._file(pixels, place), KIND, {NAME: hidden}, {})

    def _file(self, pixels: Mapping[str, Any], place: str) -> Path:
        names = sorted(name for name, value in pixels.items() if isinstance(value, Tensor))
        key = resume.origin({"origin": self.origin, "place": place}, (pixels[name] for name in names), names)
        return self.folder / f"{key}.safetensors"
