"""Model families: what is the encoder, what the projector, and where a family departs from the common way.

The common way (transformers 5): ``get_image_features(pixel_values, …)`` gives what the language model receives of each
image as ``pooler_output``. A family without a row goes the common way too, image by image, once it passed a self-check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Joined = dict[str, Tensor]  # what the processor gave of several images, joined along dimension 0
USUAL = ("projector", "merger", "connector")  # in the names of projectors of families without a row


@dataclass(frozen=True)
class Family:
    """``types``: model_type of the config. ``encoder``, ``projector``: names of the modules, for people.

    ``together``: the processor may be given many images at once (fixed size, or packed with a grid); elsewhere it pads
    or deals tiles, so it sees them one by one. ``nested``: it takes a list of images per sample. ``merged``: alone it
    cuts images into patches, with its tokenizer into blocks of spatial_merge_size patches. ``features``: in place
    of get_image_features, with these ``inputs``. ``rows``: which rows of a layer's input of this shape are real, where
    some are padding.
    """

    types: tuple[str, ...]
    encoder: str = ""
    projector: str = ""
    together: bool = False
    nested: bool = False
    merged: bool = False
    features: Callable[[Any, Joined], Any] | None = None
    inputs: tuple[str, ...] = ()
    rows: Callable[[Any, Joined, tuple[int, ...]], Tensor | None] | None = None

    def in_projector(self, name: str) -> bool:
        """Whether a parameter or layer called so in the model belongs to the projector."""
        if self.projector:
            return any(f".{part}." in f".{name}." for part in self.projector.split(", "))
        return any(part in name for part in USUAL)


def _mllama(model: Any, joined: Joined) -> list[Tensor]:
    """mllama has no get_image_features: its language model attends to projected tiles. Padded ones are left out."""
    inner = model.model
    hidden = inner.vision_model(**joined).last_hidden_state  # [samples, images, tiles, patches, width]
    projected = inner.multi_modal_projector(hidden)
    real = joined["aspect_ratio_mask"].cpu()  # [samples, images, tiles]
    return [p[r.nonzero(as_tuple=True)].flatten(0, 1) for p, r in zip(projected, real, strict=True)]


def _mllama_rows(model: Any, joined: Joined, shape: tuple[int, ...]) -> Tensor | None:
    """Tiles that are not there, and the rows that fill a tile up to a multiple of eight."""
    real = joined["aspect_ratio_mask"].bool().flatten(0, 1)  # [samples * images, tiles]
    patches = model.model.vision_model.num_patches
    tiles = real.shape[1]
    if shape[-2] == patches and shape[-3] == tiles:  # the projector: filling rows are gone
        return real[:, :, None].expand(-1, -1, patches).reshape(shape[:-1])
    if len(shape) == 3 and shape[1] % tiles == 0 and shape[1] // tiles >= patches:
        filled = torch.arange(shape[1] // tiles, device=real.device) < patches
        return (real[:, :, None] & filled).reshape(shape[:-1])
    return None


def _idefics_rows(model: Any, joined: Joined, shape: tuple[int, ...]) -> Tensor | None:
    """Patches of which no pixel is an image's, where tiles of different size were put side by side."""
    if "pixel_attention_mask" not in joined:
        return None
    size = model.config.vision_config.patch_size
    pixels = joined["pixel_attention_mask"].flatten(0, 1).bool()  # [tiles, height, width]
    patches = pixels.unfold(1, size, size).unfold(2, size, size).flatten(3).any(-1).flatten(1)
    return patches if shape[:-1] == patches.shape else None


def _llama4(model: Any, joined: Joined) -> Tensor:
    """llama4's get_image_features leaves out the projector."""
    hidden = model.get_image_features(**joined, return_dict=True).last_hidden_state
    projected: Tensor = model.multi_modal_projector(hidden.reshape(-1, hidden.shape[-1]))
    return projected


FAMILIES: tuple[Family, ...] = (
    Family(("llava", "vipllava"), "vision_tower", "multi_modal_projector"),
    Family(("llava_next", "llava_next_video", "llava_onevision"), "vision_tower", "multi_modal_projector"),
    Family(("qwen2_vl", "qwen2_5_vl"), "visual", "visual.merger", together=True),
    Family(("qwen3_vl", "qwen3_vl_moe"), "visual", "visual.merger, visual.deepstack_merger_list", together=True),
    Family(("glm4v", "glm4v_moe"), "visual", "visual.merger", together=True),
    Family(("idefics2", "idefics3", "smolvlm"), "vision_model", "connector", nested=True, rows=_idefics_rows),
    Family(("internvl", "got_ocr2"), "vision_tower", "multi_modal_projector"),
    Family(("mistral3",), "vision_tower", "multi_modal_projector", merged=True),
    Family(("gemma3", "paligemma", "aya_vision"), "vision_tower", "multi_modal_projector"),
    Family(("blip-2",), "vision_model", "qformer, language_projection", together=True),
    Family(
        ("mllama",),
        "vision_model",
        "multi_modal_projector",
        nested=True,
        features=_mllama,
        rows=_mllama_rows,
        inputs=("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"),
    ),
    Family(("llama4",), "vision_model", "multi_modal_projector", features=_llama4, inputs=("pixel_values",)),
)
OTHER = Family(())


def family_of(model_type: str) -> Family:
    """The row of ``model_type``; ``OTHER`` where there is none."""
    return next((f for f in FAMILIES if model_type in f.types), OTHER)


def supported() -> list[str]:
    return sorted(t for f in FAMILIES for t in f.types)


def per_image(out: Any, images: int) -> list[Tensor]:
    """Features of each of ``images`` images of equal shape, ``[tokens, width]``, from what a model returned of them.

    A tensor (images, or all their tiles, along dimension 0) or a list (a tensor per image, or per tile).
    """
    parts: Sequence[Tensor] = out.chunk(images) if isinstance(out, Tensor) else list(out)
    each, left = divmod(len(parts), images)
    if left or not each:
        raise ValueError(f"{len(parts)} features of {images} images")
    groups = [parts[i * each : (i + 1) * each] for i in range(images)]
    return [torch.cat([p.reshape(-1, p.shape[-1]) for p in group]) for group in groups]
