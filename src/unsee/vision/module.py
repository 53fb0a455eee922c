"""Load the visual module of a multimodal checkpoint without its language model, and compute image features with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoProcessor

from unsee.concepts import ImageRef
from unsee.errors import UnseeError
from unsee.vision.checkpoint import Checkpoint, language_parts, readable, without_language
from unsee.vision.families import Joined, family_of, per_image
from unsee.vision.whole import LACKS, refuse_incomplete

Pixels = dict[str, Tensor]  # one image as its processor gives it; every entry is joined along dimension 0


def load_full(
    path: str | Path, dtype: torch.dtype | str = torch.float32, revision: str | None = None, trust: bool = False
) -> tuple[Any, Any]:
    """The whole model, for answering questions, and its processor."""
    checkpoint = Checkpoint.open(path, revision, trust)
    checkpoint.fetch(sorted(set(checkpoint.shards.values())))
    with readable(path):
        model = checkpoint.model_class.from_pretrained(checkpoint.folder, config=checkpoint.config, dtype=dtype)
        return model.eval(), AutoProcessor.from_pretrained(checkpoint.folder, trust_remote_code=trust)


def load_visual(
    path: str | Path, revision: str | None = None, trust: bool = False, device: str | torch.device = "cpu"
) -> Visual:
    """The visual module alone, in float32. No tensor of the language model is read or allocated.

    ``path``: a folder or a hub name, of which only the shards with visual tensors are downloaded.
    """
    checkpoint = Checkpoint.open(path, revision, trust)
    checkpoint.fetch(checkpoint.visual_files)
    refuse_incomplete(checkpoint)  # a damaged file, or a missing tensor, is named before any is read
    stripped = without_language(checkpoint.model_class)
    with readable(path), ExitStack() as opened:
        files = {
            f: opened.enter_context(safe_open(checkpoint.folder / f, "pt", backend="pread"))
            for f in checkpoint.visual_files
        }
        slices = {name: files[checkpoint.shards[name]].get_slice(name) for name in checkpoint.visual}
        model, info = stripped.from_pretrained(
            None, config=checkpoint.config, state_dict=slices, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(checkpoint.folder, trust_remote_code=trust)
    if info["missing_keys"] or info["mismatched_keys"]:
        missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise UnseeError(LACKS.format(path, len(missing), ", ".join(missing[:5])))
    visual = Visual(model.eval().to(device), processor)
    visual.checkpoint = checkpoint
    return visual


class Visual:
    """Vision encoder and projector of ``model`` (a whole one or a stripped one): images in, features out.

    ``checkpoint``: where it was loaded from, where ``load_visual`` did.
    """

    checkpoint: Checkpoint | None = None
    _running: Joined = {}

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.image_processor = getattr(processor, "image_processor", processor)
        self.family = family_of(getattr(getattr(model, "config", None), "model_type", ""))
        head = getattr(model, "model", model)
        self.head = head if hasattr(head, "get_image_features") else model
        if not self.family.features and not hasattr(self.head, "get_image_features"):
            raise UnseeError(
                f"{type(model).__name__} has no get_image_features, so there is no visual module to change. "
                f"unsee works on image-text-to-text models (LLaVA, Qwen2-VL, …)."
            )
        self._settings: dict[str, int] = {}
        if self.family.merged:
            config = model.config
            self._settings["patch_size"] = config.vision_config.patch_size * config.spatial_merge_size
        self._any = next(iter(self.parameters().values()))  # looked up once: the walk costs a tenth of a small step
        self._inputs = set(self.family.inputs) or set(
            inspect.signature(inspect.unwrap(type(self.head).get_image_features)).parameters
        )

    @property
    def device(self) -> torch.device:
        return self._any.device

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything outside the language model, by its name in the model."""
        language = {id(p) for part in language_parts(self.model) for p in part.parameters()}
        return {n: p for n, p in self.model.named_parameters() if id(p) not in language}

    @contextmanager
    def training(self, names: Iterable[str]) -> Iterator[None]:
        """Within: only the parameters ``names`` ask for gradients, so that nothing is kept for the others."""
        wanted, parameters = set(names), self.parameters()
        asked = {n: p.requires_grad for n, p in parameters.items()}
        try:
            for n, p in parameters.items():
                p.requires_grad_(n in wanted)
            yield
        finally:
            for n, p in parameters.items():
                p.requires_grad_(asked[n])

    def tensors(self) -> dict[str, Tensor]:
        """The visual parameters, detached, by name."""
        return {n: p.detach() for n, p in self.parameters().items()}

    def pixels(self, images: Sequence[ImageRef | PIL.Image.Image], batch: int = 64) -> list[Pixels]:
        """Each image through the model's own image processor, opened when its turn comes."""
        size = batch if self.family.together else 1
        result: list[Pixels] = []
        for start in range(0, len(images), size):
            opened = [i if isinstance(i, PIL.Image.Image) else i.load() for i in images[start : start + size]]
            given = [opened] if self.family.nested else opened
            out = self.image_processor(images=given, return_tensors="pt", **self._settings)
            kept = {k: v for k, v in out.items() if k in self._inputs and isinstance(v, Tensor)}
            result += _cut(kept, len(opened)) if self.family.together else [kept]
        return result

    def buckets(self, batch: Sequence[Pixels]) -> list[list[int]]:
        """Images of a batch that can run in one pass: of equal shapes, or packed by their grids."""
        found: dict[Any, list[int]] = {}
        for i, pixels in enumerate(batch):
            key = () if "image_grid_thw" in pixels else tuple((k, v.shape) for k, v in sorted(pixels.items()))
            found.setdefault(key, []).append(i)
        return list(found.values())

    def join(self, batch: Sequence[Pixels]) -> Joined:
        """Images of one bucket as the model takes them."""
        return {k: _to(torch.cat([p[k] for p in batch]), self._any) for k in batch[0]}

    def features(self, batch: Sequence[Pixels]) -> list[Tensor]:
        """Features of each image as the language model receives them: ``[tokens, language width]``.

        Where it receives features of several depths (Qwen3-VL's deepstack), they follow one another.
        """
        found: dict[int, Tensor] = {}
        for bucket in self.buckets(batch):
            found |= zip(bucket, self.run(self.join([batch[i] for i in bucket]), len(bucket)), strict=True)
        return [found[i] for i in range(len(batch))]

    def real_rows(self, shape: tuple[int, ...]) -> Tensor | None:
        """Within a pass: which rows of an input of this shape are no padding; None: all."""
        mask = self._running.get("pixel_attention_mask")
        if self.family.rows:
            return self.family.rows(self.model, self._running, shape)
        return mask.bool() if mask is not None and shape[:-1] == mask.shape else None

    def run(self, joined: Joined, images: int) -> list[Tensor]:
        """One pass over a bucket."""
        self._running = joined
        if self.family.features:
            return per_image(self.family.features(self.model, joined), images)
        out = self.head.get_image_features(**joined, return_dict=True)
        levels = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
        return [torch.cat(parts) for parts in zip(*(per_image(level, images) for level in levels), strict=True)]


def _to(tensor: Tensor, like: Tensor) -> Tensor:
    """On the device of ``like``, pixels in its dtype too. Off the meta device: shapes may hang on values."""
    dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(dtype) if like.is_meta else tensor.to(like.device, dtype)


def _cut(out: dict[str, Tensor], n: int) -> list[Pixels]:
    """Qwen-like processors pack the patches of all images in one tensor; cut it back by each image's grid."""
    if "image_grid_thw" in out:
        sizes = out["image_grid_thw"].prod(-1).tolist()
        cut = {k: v.split(1) if k == "image_grid_thw" else v.split(sizes) for k, v in out.items()}
    else:
        cut = {k: v.split(1) for k, v in out.items()}
    return [{k: v[i] for k, v in cut.items()} for i in range(n)]
