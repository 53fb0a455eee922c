"""The upper part of a visual module: which layers it has, and how to run it without running the lower part again."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unsee.errors import UnseeError
from unsee.vision.module import Pixels, Visual
from unsee.vision.trace import Linear

Seen = dict[str, Any]  # pixels, and under HIDDEN what gives the image's input to the first upper block
HIDDEN = "hidden"
ROOM = 128 * 2**20  # bytes of these inputs that are kept in memory, on a CPU; the rest goes to disk
ROWS = 2048  # of a layer's input in one pass without gradients, on a CPU; images are taken so many at a time
IMAGES = 64  # and no more than so many images
FEW = 256  # rows of an image up to which eager attention is faster in training than torch's own, and saves little
ACTIVATIONS = 512 * 2**20  # bytes that a pass with gradients may hold on to, on a CPU


def upper_layers(layers: dict[str, Linear], depth: float) -> list[str]:
    """Of ``layers`` (in the order they run) those in the last ``depth`` (a share) of the tower's blocks, and all that
    run outside the blocks after the first of them: the projector, also of lower blocks' features (deepstack). Of depth
    0 only these. UnseeError: none does."""
    blocks = tower(layers)
    if not blocks:
        return list(layers)
    ran = list(layers)
    within = [n for n in ran if any(n.startswith(f"{b}.") for b in blocks)]
    upper = blocks[len(blocks) - max(1, round(depth * len(blocks))) :] if depth else []
    after = ran[ran.index(within[0]) :]
    chosen = [n for n in after if n not in within or any(n.startswith(f"{b}.") for b in upper)]
    if not chosen:
        raise UnseeError(
            "no linear layer follows the tower's blocks, so nothing trains with --depth 0. Allowed: above 0."
        )
    return chosen


def tower(layers: dict[str, Linear]) -> list[str]:
    """Names of the tower's blocks that reach the features: the longest numbered list of modules."""
    found: dict[str, dict[int, str]] = {}
    for name in layers:
        if match := re.match(r"(.*?)\.(\d+)\.", name):
            found.setdefault(match[1], {})[int(match[2])] = match[0].rstrip(".")
    longest = max(found.values(), key=len, default={})
    return [longest[i] for i in sorted(longest)]


class Store:
    """Tensors to come back to: the first ``room`` bytes where they are, others in a nameless file in ``folder``."""

    def __init__(self, folder: Path | None, room: int) -> None:
        self.folder, self.room, self.held = folder, room, 0
        self.file: Any = None

    def put(self, tensor: Tensor) -> Callable[[], Tensor]:
        """A function that gives it back."""
        self.held += tensor.nbytes
        if self.held <= self.room:
            return lambda: tensor
        if self.file is None:
            self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  (open as long as this is)
        data = tensor.detach().cpu().contiguous().view(torch.uint8).flatten()
        start = self.file.seek(0, 2)
        self.file.write(data.numpy().data)
        return partial(self._read, start, len(data), tensor.dtype, tensor.shape, tensor.device)

    def _read(self, start: int, size: int, dtype: torch.dtype, shape: torch.Size, device: torch.device) -> Tensor:
        self.file.seek(start)
        data = bytearray(self.file.read(size))
        return torch.frombuffer(data, dtype=dtype).reshape(shape).to(device)


class Cache(Protocol):
    """What was computed of an image's pixels at a place in the model, kept for later runs."""

    def get(self, pixels: Pixels, place: str) -> Tensor | None: ...

    def put(self, pixels: Pixels, place: str, hidden: Tensor) -> None: ...


class _EnteredError(Exception):
    """Not an error: ends a pass at the first trained block."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Upper:
    """The visual module from its first trained block on. What is below does not change, so it runs once per image.

    ``layers``: all that reach the features. ``probe``: two images to try it with. ``folder``: for what takes more
    memory than there should be. ``cache``: of what the lower part gives of each image, for later runs.
    """

    def __init__(
        self, visual: Visual, layers: dict[str, Linear], trained: Sequence[str], probe: Sequence[Pixels], bf16: bool,
        folder: Path | None = None, checkpointing: bool = False, cache: Cache | None = None,
    ) -> None:  # fmt: skip
        self.visual, self.bf16, self.checkpointing = visual, bf16, checkpointing
        self.gpu = visual.device.type == "cuda"
        self.folder, self.room = folder, self._free() if self.gpu else ROOM
        self.cache: Cache | None = None
        self.clear()
        self.axis = 0  # along which images lie side by side where they enter a block
        blocks, ran = tower(layers), list(layers)
        fixed = set(ran[: min(ran.index(n) for n in trained)])
        below = [b for b in blocks if fixed.issuperset(n for n in layers if n.startswith(f"{b}."))]
        modules: list[nn.Module] = [visual.model.get_submodule(b) for b in blocks]
        self.lower, self.blocks = modules[: len(below)], modules[len(below) :]
        self.block = next(iter([*blocks[len(below) :], *trained])) if blocks else ""
        rows = max(x.rows for x in layers.values())
        self.at_once = max(1, min(IMAGES, (16 if self.gpu else 1) * ROWS // rows))
        self.few_rows = rows <= FEW
        if self.lower and not self._serves(probe):
            self.lower = []
        self.in_training = max(
            1, min(4 * IMAGES, (self._free() if self.gpu else ACTIVATIONS) // self._saved(probe[:1]))
        )
        self.cache = cache if self.lower else None
        self.place = f"{self.block} {'bfloat16' if bf16 else 'float32'}"

    @torch.no_grad()
    def look(self, batch: Sequence[Seen], reduced: Callable[[Tensor], Tensor] = lambda f: f) -> list[Tensor]:
        """Features through the whole module, each ``reduced``; an image keeps what entered the first trained block."""
        if self.cache:
            self.enter(batch)
            return self.now(batch, reduced)
        found: dict[int, Tensor] = {}
        for part in self._parts(batch):
            images = [batch[i] for i in part]
            found |= zip(part, map(reduced, self._look(images)), strict=True)
        return [found[i] for i in range(len(batch))]

    def _look(self, images: Sequence[Seen]) -> list[Tensor]:
        if not self.lower:
            return self._features(images)
        seen: list[Tensor] = []
        with self._entering(seen.append):
            features = self._features([_plain(p) for p in images])
        for pixels, hidden in zip(images, self._split(seen[0], images), strict=True):
            pixels |= self.keep({**pixels, HIDDEN: hidden})
        return features

    @torch.no_grad()
    def enter(self, batch: Sequence[Seen]) -> None:
        """Each image keeps what enters the first trained block: out of the cache, or computed and put there.

        One by one: products of several images differ in their last bits with how many there are, and then a result
        would hang on what was in the cache. Nothing where the module runs whole.
        """
        for pixels in batch if self.lower else []:
            hidden = self.cache.get(_plain(pixels), self.place) if self.cache else None
            if hidden is None:
                hidden = self._entered(_plain(pixels))
                if self.cache:
                    self.cache.put(_plain(pixels), self.place, hidden)
            pixels |= self.keep({**pixels, HIDDEN: hidden.to(self.visual.device)})

    def _entered(self, pixels: Pixels) -> Tensor:
        """What enters the first trained block; nothing behind it runs."""

        def stop(hidden: Tensor) -> None:
            raise _EnteredError(hidden)

        with self._entering(stop):
            try:
                self._features([pixels])
            except _EnteredError as entered:
                return entered.hidden
        raise AssertionError("the first trained block did not run")

    @contextmanager
    def _entering(self, told: Callable[[Tensor], None]) -> Iterator[None]:
        """Within: ``told`` of what enters the first trained block, or leaves the last where none trains."""
        if self.blocks:
            handle = self.blocks[0].register_forward_pre_hook(
                lambda _m, args, kw: told(args[0] if args else kw["hidden_states"]), with_kwargs=True
            )
        else:
            handle = self.lower[-1].register_forward_hook(lambda _m, _args, out: told(out))
        try:
            yield
        finally:
            handle.remove()

    def keep(self, pixels: Seen) -> Seen:
        """``pixels`` whose input to the first upper block, a tensor, is in the store.

        Of the pixels themselves only what hangs on their shape is asked from here on: one of each shape stands for all.
        """
        values = pixels["pixel_values"]
        if values.shape not in self._stand_ins:
            self._stand_ins[values.shape] = values.to(self.visual.device)
        shared = self._stand_ins[values.shape]
        return {**pixels, "pixel_values": shared, HIDDEN: self.store.put(pixels[HIDDEN])}

    def clear(self) -> None:
        """Nothing that was looked at is asked for again."""
        self.store = Store(self.folder, self.room)
        self._stand_ins: dict[torch.Size, Tensor] = {}

    def features(self, batch: Sequence[Seen]) -> list[Tensor]:
        """As ``Visual.features``, from the first trained block on where all images have entered it."""
        if any(HIDDEN not in p for p in batch) or not self.lower:
            return self._features([_plain(p) for p in batch])
        found: dict[int, Tensor] = {}
        for bucket in self.visual.buckets([_plain(p) for p in batch]):
            images = [batch[i] for i in bucket]
            hidden = [p[HIDDEN]() for p in images]
            with self._skipping(torch.cat(hidden, self.axis)):
                found |= zip(bucket, self._features([_plain(p) for p in images]), strict=True)
        return [found[i] for i in range(len(batch))]

    @torch.no_grad()
    def now(self, batch: Sequence[Seen], reduced: Callable[[Tensor], Tensor] = lambda f: f) -> list[Tensor]:
        """``features`` of any number of images, each ``reduced``; so many at a time as there is room for."""
        parts = (batch[i : i + self.at_once] for i in range(0, len(batch), self.at_once))
        return [reduced(f) for part in parts for f in self.features(part)]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within: what is below the first trained block lies on disk, where there is a folder for it."""
        kept, store = [], Store(self.folder, 0)
        try:
            for p in (p for block in self.lower if self.folder for p in block.parameters()):
                kept.append((p, store.put(p.data)))
                p.data = p.data.new_empty(0)
            yield
        finally:
            for p, back in kept:
                p.data = back()

    def _features(self, batch: Sequence[Pixels]) -> list[Tensor]:
        again = self.checkpointing and torch.is_grad_enabled()
        # Autocast's cache of converted weights would hold half of all weights again; each is used once in a pass.
        half = torch.autocast(self.visual.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)
        with half, _recomputed(self.blocks if again else []):
            return self.visual.features(batch)

    def _parts(self, batch: Sequence[Seen]) -> list[list[int]]:
        buckets = self.visual.buckets([_plain(p) for p in batch])
        return [b[i : i + self.at_once] for b in buckets for i in range(0, len(b), self.at_once)]

    @torch.no_grad()
    def _serves(self, probe: Sequence[Pixels]) -> bool:
        """Whether the short way gives what the long one does. A tower that also reads lower blocks differs."""
        entered = [dict(p) for p in (probe[0], *probe)]  # one twice: two of the same shape share a pass
        try:
            whole = self.look(entered)
            short = self.features(entered)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, IndexError, AttributeError, KeyError):
            return False  # its blocks take or give something else than hidden states
        finally:
            self.clear()
        if not all(torch.isfinite(part).all() for part in whole):
            raise UnseeError(
                "the model's features of an image hold NaN or Inf, though its weights do not: some are too large. "
                "Download it again."
            )
        return all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max()))
            for a, b in zip(short, whole, strict=True)
        )

    def _free(self) -> int:
        """A quarter of what is free on the GPU, in bytes."""
        return torch.cuda.mem_get_info(self.visual.device)[0] // 4

    def _saved(self, probe: Sequence[Pixels]) -> int:
        """Bytes that a pass with gradients through the upper part holds on to, of one image."""
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        entered = [dict(p) for p in probe]
        self.look(entered)
        weights = {p.untyped_storage().data_ptr() for p in self.visual.parameters().values()}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.features(entered)
        self.clear()
        return max(1, sum(size for where, size in sizes.items() if where not in weights))

    def _split(self, joined: Tensor, images: Sequence[Seen]) -> Sequence[Tensor]:
        """What entered a block, image by image: rows of a batch, or stretches of one row (Pixtral, Qwen-VL)."""
        if "image_grid_thw" in images[0]:
            return joined.split([len(p["pixel_values"]) for p in images])
        if len(images) > 1:
            self.axis = 1 if joined.dim() == 3 and len(joined) == 1 else 0
        return joined.chunk(len(images), self.axis)

    @contextmanager
    def _skipping(self, hidden: Tensor) -> Iterator[None]:
        for block in self.lower:
            block.forward = lambda *_, **__: hidden
        try:
            yield
        finally:
            for block in self.lower:
                del block.forward


def _plain(pixels: Seen) -> Pixels:
    return {k: v for k, v in pixels.items() if k != HIDDEN}


@contextmanager
def _recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Within: the blocks keep nothing but their input for the backward pass."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
