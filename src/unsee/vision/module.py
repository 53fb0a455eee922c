"""Load the visual module of a multimodal checkpoint without its language model, and compute image features with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoProcessor, PreTrainedTokenizerBase

from unsee.concepts import ImageRef
from unsee.errors import UnseeError
from unsee.untrusted import shown
from unsee.vision.checkpoint import Checkpoint, language_parts, readable, without_language
from unsee.vision.families import Joined, per_image
from unsee.vision.processor import asked_of, first_line, refuse_unlike
from unsee.vision.whole import LACKS, refuse_incomplete

Pixels = dict[str, Tensor]  # one image as its processor gives it; every entry is joined along dimension 0


def load_full(
    path: str | Path, dtype: torch.dtype | str = torch.float32, revision: str | None = None, trust: bool = False
) -> tuple[Any, Any]:
    """The whole model, for answering questions, and its processor."""
    checkpoint = Checkpoint.open(path, revision, trust)
    checkpoint.fetch(sorted(set(checkpoint.shards.values())))
    refuse_incomplete(checkpoint)
    with readable(path):
        processor = AutoProcessor.from_pretrained(checkpoint.folder, trust_remote_code=trust)
    refuse_unlike(asked_of(checkpoint.config, processor), checkpoint.config, f"'{path}'")
    with readable(path):
        model, info = checkpoint.model_class.from_pretrained(
            checkpoint.folder, config=checkpoint.config, dtype=dtype, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    _refuse_missing(path, info, "")
    return model.eval(), processor


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
    _refuse_missing(path, info, "visual ")
    visual = Visual(model.eval().to(device), processor)
    visual.checkpoint = checkpoint
    return visual


def _refuse_missing(path: str | Path, info: dict[str, Any], kind: str) -> None:
    """UnseeError: weights were made up, since the checkpoint has none of that name and shape."""
    missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if missing:
        raise UnseeError(LACKS.format(path, len(missing), kind, ", ".join(missing[:5])))


class Visual:
    """Vision encoder and projector of ``model`` (a whole one or a stripped one): images in, features out.

    ``checkpoint``: where it was loaded from, where ``load_visual`` did. ``stored``: parameters that are float32 only
    for now, and in which dtype they will be again.
    """

    checkpoint: Checkpoint | None = None
    stored: Mapping[str, torch.dtype] = {}
    _running: Joined = {}

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.asked = asked_of(getattr(model, "config", None), processor)
        self.image_processor, self.family = self.asked.processor, self.asked.family
        head = getattr(model, "model", model)
        self.head = head if hasattr(head, "get_image_features") else model
        if not self.family.features and not hasattr(self.head, "get_image_features"):
            raise UnseeError(
                f"{type(model).__name__} has no get_image_features, so there is no visual module to change. "
                f"unsee works on image-text-to-text models (LLaVA, Qwen2-VL, …)."
            )
        if not callable(self.image_processor) or isinstance(self.image_processor, PreTrainedTokenizerBase):
            raise UnseeError(
                f"a {type(processor).__name__} is no processor of images. Give what AutoProcessor or "
                f"AutoImageProcessor loads from the model's folder."
            )
        self._fits: dict[tuple[int, int], str | None] = {}  # by size: that is all that it hangs on
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
            opened = [self._opened(i) for i in images[start : start + size]]
            given = [opened] if self.family.nested else opened
            try:
                out = self.image_processor(images=given, return_tensors="pt", **self.asked.settings)
            except Exception as error:  # what it does not check of a picture's shape can end in anything
                raise UnseeError(
                    f"the model's image processor fails on {_named(images[start])}: {first_line(error)}. Leave it out."
                ) from error
            kept = {k: v for k, v in out.items() if k in self._inputs and isinstance(v, Tensor)}
            result += _cut(kept, len(opened)) if self.family.together else [kept]
        return result

    def refuse_unlike(self) -> None:
        """UnseeError: the image processor gives something else than the tower takes."""
        name = f"'{self.checkpoint.name}'" if self.checkpoint else type(self.model).__name__
        refuse_unlike(self.asked, self.model.config, name)

    def fits(self, size: tuple[int, int]) -> str | None:
        """Why a picture of this width and height cannot be shown to the model; None: it can be."""
        if size not in self._fits:
            self._fits[size] = self.asked.fits(size)
        return self._fits[size]

    def _opened(self, image: ImageRef | PIL.Image.Image) -> PIL.Image.Image:
        opened = image if isinstance(image, PIL.Image.Image) else image.load()
        if reason := self.fits(opened.size):
            raise UnseeError(f"{_named(image)}: {reason}. Crop it, or leave it out.")
        return opened

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


def _named(image: ImageRef | PIL.Image.Image) -> str:
    return "a picture" if isinstance(image, PIL.Image.Image) else shown(image.id)


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
