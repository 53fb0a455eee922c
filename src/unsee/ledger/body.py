"""The visual module of a ledger's base model, and the same with the weights of later turns in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unsee.concepts import ImageRef
from unsee.errors import UnseeError
from unsee.ledger.measure import Look, look
from unsee.ledger.state import State
from unsee.vision.module import Visual, load_visual
from unsee.vision.patch import fingerprint

Weights = Mapping[str, Tensor]  # by name on disk, what differs from the base


class Body:
    """``visual`` as ``load_visual`` gave it, whose layers of ``state`` change from turn to turn. UnseeError: it is not
    the model that the statistics are of."""

    def __init__(self, visual: Visual, state: State) -> None:
        if visual.checkpoint is None:
            raise UnseeError("a ledger stands on a checkpoint, and this module was not loaded from one: load_visual.")
        if fingerprint(visual.tensors()) != state.base:
            raise UnseeError(
                "the model is not the one that the ledger's statistics were recorded with. Give that one, or make the "
                "statistics again: unsee statistics --model … --images …"
            )
        state.retained.refuse_unlike(visual.model, state.retained.layers)
        self.visual, self.checkpoint, self.layers = visual, visual.checkpoint, list(state.retained.layers)
        self.disk = {module.removesuffix(".weight"): disk for disk, module in self.checkpoint.visual.items()}
        self.base = {n: self._layer(n).weight.detach().clone() for n in self.layers}
        self._looked: dict[tuple[str, ...], Look] = {}

    @classmethod
    def load(cls, model: str, revision: str | None, trust: bool, device: str, state: State) -> Body:
        return cls(load_visual(model, revision, trust, device), state)

    def _layer(self, name: str) -> nn.Linear:
        layer: Any = self.visual.model.get_submodule(name)
        return layer

    def put(self, weights: Weights) -> Visual:
        """The module with ``weights`` in it."""
        with torch.no_grad():
            for name, base in self.base.items():
                self._layer(name).weight.copy_(weights.get(self.disk[name], base))
        return self.visual

    def stored(self, layer: str) -> torch.dtype:
        """The dtype in which a layer's weight lies in the checkpoint."""
        return self.checkpoint.entry(self.disk[layer]).dtype

    def delta(self, weights: Weights, layers: Sequence[str]) -> dict[str, Tensor]:
        """Layer → W − W_base, float32."""
        changed = {n: weights.get(self.disk[n], self.base[n]).to(self.base[n]) for n in layers}
        return {n: W - self.base[n] for n, W in changed.items()}

    def look(self, weights: Weights, images: Sequence[ImageRef]) -> Look:
        """Held-out images, with ``weights``."""
        return look(self.put(weights), self.layers, images)

    def look_at_base(self, images: Sequence[ImageRef]) -> Look:
        """The same before any turn; once for a set of images."""
        key = tuple(i.id for i in images)
        if key not in self._looked:
            self._looked[key] = self.look({}, images)
        return self._looked[key]
