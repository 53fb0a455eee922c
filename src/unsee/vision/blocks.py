"""The upper part of a visual module: which layers it has, and how to run it without running the lower part again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unsee.vision.module import Pixels, Visual

HIDDEN = "hidden"  # key under which an image's input to the first upper block travels with its pixels
CACHE_BYTES = 4 * 2**30  # where these inputs would take more, the lower part runs again at each step


def upper_layers(visual: Visual, layers: dict[str, nn.Linear], probe: Sequence[Pixels], depth: float) -> list[str]:
    """Of ``layers`` those in the last ``depth`` (a share) of the tower's blocks and all that run after, in order."""
    ran = _order(visual, layers, probe)
    blocks = _blocks(layers)
    if not blocks:
        return ran
    first = blocks[max(0, len(blocks) - max(1, round(depth * len(blocks))))]
    return ran[next(i for i, name in enumerate(ran) if name.startswith(f"{first}.")) :]


def _blocks(layers: dict[str, nn.Linear]) -> list[str]:
    """Names of the tower's blocks that reach the features: the longest numbered list of modules."""
    found: dict[str, dict[int, str]] = {}
    for name in layers:
        if match := re.match(r"(.*?)\.(\d+)\.", name):
            found.setdefault(match[1], {})[int(match[2])] = match[0].rstrip(".")
    longest = max(found.values(), key=len, default={})
    return [longest[i] for i in sorted(longest)]


def _order(visual: Visual, layers: dict[str, nn.Linear], probe: Sequence[Pixels]) -> list[str]:
    ran: dict[str, None] = {}
    handles = [m.register_forward_pre_hook(lambda _m, _x, name=n: ran.setdefault(name)) for n, m in layers.items()]
    try:
        with torch.no_grad():
            visual.features(probe)
    finally:
        for handle in handles:
            handle.remove()
    return list(ran)


class Upper:
    """The visual module from its first trained block on. What is below does not change, so it runs once per image.

    ``probe``: two images to try it with. ``images``: how many are to be remembered.
    """

    def __init__(
        self, visual: Visual, layers: dict[str, nn.Linear], trained: Sequence[str], probe: Sequence[Pixels],
        images: int, bf16: bool,
    ) -> None:  # fmt: skip
        self.visual, self.bf16 = visual, bf16
        ran, blocks = _order(visual, layers, probe[:1]), _blocks(layers)
        fixed = set(ran[: min(ran.index(n) for n in trained)])
        below = [b for b in blocks[:-1] if fixed.issuperset(n for n in layers if n.startswith(f"{b}."))]
        modules: list[nn.Module] = [visual.model.get_submodule(b) for b in blocks]
        self.lower = modules[: len(below)]
        self.first = modules[len(below)] if modules else visual.model
        self.block = blocks[len(below)] if blocks else ""
        if self.lower and not self._serves(probe, images):
            self.lower = []

    @torch.no_grad()
    def look(self, batch: Sequence[Pixels]) -> list[Tensor]:
        """Features through the whole module; each image keeps what entered the first trained block, under HIDDEN."""
        if not self.lower:
            return self._features(batch)
        seen: list[Tensor] = []
        handle = self.first.register_forward_pre_hook(
            lambda _m, args, kw: seen.append(_given(args, kw)), with_kwargs=True
        )
        try:
            features = self._features(batch)
        finally:
            handle.remove()
        joined = seen[0]
        packed = len(joined) != len(batch)  # a row a patch, of all images
        parts = joined.split([len(p["pixel_values"]) for p in batch] if packed else 1)
        for pixels, hidden in zip(batch, parts, strict=True):
            pixels[HIDDEN] = hidden
        return features

    def features(self, batch: Sequence[Pixels]) -> list[Tensor]:
        """As ``Visual.features``, from the first trained block on where all images have entered it."""
        plain = [{k: v for k, v in p.items() if k != HIDDEN} for p in batch]
        if any(HIDDEN not in p for p in batch):
            return self._features(plain)
        with self._skipping(torch.cat([p[HIDDEN] for p in batch]).to(self.visual.device)):
            return self._features(plain)

    def _features(self, batch: Sequence[Pixels]) -> list[Tensor]:
        with torch.autocast(self.visual.device.type, torch.bfloat16, enabled=self.bf16):
            return self.visual.features(batch)

    @torch.no_grad()
    def _serves(self, probe: Sequence[Pixels], images: int) -> bool:
        """Whether there is room for all images, and the short way gives what the long one does.

        A tower that also reads lower blocks differs.
        """
        entered = [dict(p) for p in probe]
        whole = self.look(entered)
        if images * max(p[HIDDEN].nbytes for p in entered) > CACHE_BYTES:
            return False
        pairs = zip(self.features(entered), whole, strict=True)
        return all(torch.allclose(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max())) for a, b in pairs)

    @contextmanager
    def _skipping(self, hidden: Tensor) -> Iterator[None]:
        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        handle = self.first.register_forward_pre_hook(enter, with_kwargs=True)
        for block in self.lower:
            block.forward = _pass_on
        try:
            yield
        finally:
            handle.remove()
            for block in self.lower:
                del block.forward


def _pass_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden
