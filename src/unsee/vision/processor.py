"""What an image processor makes of a picture, told from its size before it is made, and whether its tower takes that.

The processor runs on the meta device, where a picture has a size and no pixels. So a picture of 143 bytes that would
become gigabytes costs nothing, and each family's own rules decide, not ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from unsee.errors import UnseeError
from unsee.untrusted import shown
from unsee.vision.families import Family, family_of

MOST = 2**30  # bytes of one tensor on the way: a photograph of 64 megapixels, the most that is opened, takes 0.75 GiB
SHAPE = 200  # times as long as wide, at most, where a processor cannot be asked; Qwen's own bound
Shapes = dict[str, tuple[int, ...]]


def asked_of(config: Any, processor: Any) -> Asked:
    """``processor``, a whole one or an image processor, as the model of ``config`` has it called."""
    family, settings = family_of(getattr(config, "model_type", "")), dict[str, int]()
    if family.merged:
        settings["patch_size"] = config.vision_config.patch_size * config.spatial_merge_size
    return Asked(getattr(processor, "image_processor", processor), family, settings)


class Unfit(Exception):
    """Why a processor gives nothing of a picture."""


@dataclass(frozen=True)
class Asked:
    """A processor as it is called. ``settings``: beside the pictures."""

    processor: Any
    family: Family
    settings: Mapping[str, Any]

    def fits(self, size: tuple[int, int]) -> str | None:
        """Why no picture of this width and height can be shown to the model; None: one can."""
        width, height = size
        try:
            shapes = self.shapes(size)
            if shapes is None and max(size) > SHAPE * min(size):
                raise Unfit(f"it is more than {SHAPE} times as long as wide")
            if shapes and self.family.merged and _patches(shapes, self.settings["patch_size"]) < 2:
                raise Unfit(
                    "it would be one patch, and the model takes two or more"
                )  # transformers 5.24 loses its axis
        except Unfit as why:
            return f"the model's image processor takes no picture of {width} × {height} pixels: {why}"
        return None

    def shapes(self, size: tuple[int, int]) -> Shapes | None:
        """Of all tensors that it gives of a picture of this width and height; None: it cannot tell without pixels."""
        if getattr(self.processor, "backend", "") != "torchvision":
            return None
        picture = torch.empty((3, size[1], size[0]), dtype=torch.uint8, device="meta")
        given = [[picture]] if self.family.nested else [picture]
        every = _config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
        try:
            with every, _Bounded():
                out = self.processor(
                    images=given, return_tensors="pt", input_data_format="channels_first", **self.settings
                )
        except (Unfit, MemoryError) as error:
            raise Unfit(str(error) or "it would take too much memory") from error
        except NotImplementedError:  # an operation that the meta device lacks
            return None
        except Exception as error:  # processors check little: a side of 0 ends in whatever comes to it first
            if "meta tensor" in str(error):  # of a number that it computes with (Llama 4)
                return None
            raise Unfit(first_line(error)) from error
        return {k: tuple(v.shape) for k, v in out.items() if isinstance(v, Tensor)}


def _patches(shapes: Shapes, side: int) -> int:
    *_, height, width = shapes["pixel_values"]
    return (height // side) * (width // side)


class _Bounded(TorchDispatchMode):
    """Within: Unfit where a tensor would be larger than MOST bytes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and (size := tensor.numel() * tensor.element_size()) > MOST:
                raise Unfit(f"it would take {size / 2**30:.3g} GiB on the way")
        return out


def refuse_unlike(asked: Asked, config: Any, name: str, side: int = 336) -> None:
    """UnseeError: the processor gives something else than the tower of ``config`` takes. ``name``: of the model."""
    for setting, least in SCALES.items():
        if not _scales(getattr(asked.processor, setting, None), least):
            raise UnseeError(
                f"the image processor of {name} makes NaN or Inf of every picture: its {setting} is "
                f"{shown(getattr(asked.processor, setting))[:100]}. {ADVICE}"
            )
    try:
        shapes = asked.shapes((side, side))
    except Unfit as why:
        raise UnseeError(
            f"the image processor of {name} takes no picture, not one of {side} × {side} pixels: {why}. {ADVICE}"
        ) from why
    vision = getattr(config, "vision_config", None)
    if shapes is None or vision is None or "pixel_values" not in shapes:
        return
    for what, given, taken in _compared(asked, config, vision, shapes):
        if given != taken:
            raise UnseeError(
                f"the image processor of {name} gives {what} {_shown(given)}, the tower takes {_shown(taken)}. {ADVICE}"
            )


ADVICE = "They are of different checkpoints, or one was edited: take preprocessor_config.json from the model's own."
SQUARE = (  # towers of one size of picture; others take several, or none is set
    "llava vipllava llava_next llava_next_video llava_onevision internvl got_ocr2 gemma3 paligemma aya_vision blip-2 "
    "mllama llama4"
).split()


LARGE = 1e6  # more than any pixel, whatever it is scaled to
SCALES = {"image_mean": -LARGE, "image_std": 1 / LARGE, "rescale_factor": 1 / LARGE}  # setting: what it is more than


def _scales(value: Any, least: float) -> bool:
    """Whether pixels stay numbers when ``value``, a number or one of each colour, is taken off or divided by."""
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return all(isinstance(v, int | float) and least < v < LARGE for v in values)


def _compared(asked: Asked, config: Any, vision: Any, shapes: Shapes) -> Iterable[tuple[str, Any, Any]]:
    """What both sides speak of: what it is, as the processor gives it, as the tower takes it."""
    processor, pixels = asked.processor, shapes["pixel_values"]
    if "image_grid_thw" in shapes:
        for ours, theirs in (
            ("patch_size", "patch_size"), ("temporal_patch_size", "temporal_patch_size"),
            ("merge_size", "spatial_merge_size"),
        ):  # fmt: skip
            yield ours, getattr(processor, ours, None), getattr(vision, theirs, None)
    elif getattr(vision, "model_type", "") == "pixtral":
        yield "patches of", asked.settings.get("patch_size", _pair(processor.patch_size)[0]), _patch_of(config, asked)
    elif config.model_type in SQUARE:
        yield "pictures of", pixels[-2:], _pair(vision.image_size)
    elif config.model_type in ("idefics3", "smolvlm"):
        yield "pictures of", max(pixels[-2:]), min(max(pixels[-2:]), _pair(vision.image_size)[0])
    if config.model_type == "mllama":
        yield "tiles up to", getattr(processor, "max_image_tiles", None), vision.max_num_tiles
    if (grid := getattr(config, "image_grid_pinpoints", None)) and hasattr(processor, "image_grid_pinpoints"):
        yield "tiles in a grid of", _grid(processor.image_grid_pinpoints), _grid(grid)


def _patch_of(config: Any, asked: Asked) -> int:
    """Side of what becomes one token."""
    size: int = config.vision_config.patch_size
    return size * config.spatial_merge_size if asked.family.merged else size


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = (size["height"], size["width"]) if hasattr(size, "keys") else size
    return height, width


def _grid(points: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted(tuple(p) for p in points))


def _shown(value: Any) -> str:
    pairs = isinstance(value, tuple) and value and isinstance(value[0], tuple)
    if pairs:
        return f"{len(value)} shapes up to {' × '.join(map(str, max(value)))}"
    return " × ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def first_line(error: BaseException) -> str:
    """Of its message, without the full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")[:200]
