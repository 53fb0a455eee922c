"""Models as the library is given them: whole or compiled, in half precision, in training, under no_grad."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.vision.checkpoint import language_parts
from unsee.vision.module import Visual


def visual_of(model: Any, processor: Any) -> Visual:
    """The visual module of ``model``, or what ``load_visual`` gave. UnseeError: it cannot be trained and read exactly.

    A model of torch.compile is taken as what it was made from: the two share their weights.
    """
    if isinstance(model, Visual):
        return model
    model = getattr(model, "_orig_mod", model)
    _refuse_wrapped(model)
    visual = Visual(model, processor)
    _refuse_weights(visual)
    return visual


def _refuse_wrapped(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UnseeError(
            f"a {type(model).__name__} is no model. Give what from_pretrained loads, or unsee.load_visual(FOLDER)."
        )
    parts = dict(model.named_modules())
    if hasattr(model, "peft_config") or any(type(m).__module__.startswith("peft.") for m in parts.values()):
        raise UnseeError(
            "the model has adapters of peft, and a patch would be of weights that are not what answers. Merge them "
            "first: model = model.merge_and_unload()."
        )
    if inner := [n for n in parts if "_orig_mod" in n.split(".")]:
        raise UnseeError(
            f"a part of the model is compiled ({inner[0]}), so that its weights have other names than in its "
            f"checkpoint. Give the model from before torch.compile."
        )
    if type(model).__name__ in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
        raise UnseeError(f"the model is wrapped in a {type(model).__name__}. Give what is in it: model.module.")


def _refuse_weights(visual: Visual) -> None:
    parameters = visual.parameters()
    for name, p in parameters.items():
        if p.is_meta:
            raise UnseeError(
                f"{name} has no values here (device meta): the model was not loaded, or its weights were offloaded. "
                f"Load it on one device: device_map='cpu' or device_map='cuda'."
            )
        if not p.is_floating_point() or p.dtype.itemsize < 2 or type(p.data) is not Tensor:
            raise UnseeError(
                f"{name} is quantised ({str(p.dtype).removeprefix('torch.')}), and cannot take a small change. Load "
                f"the model without quantisation, apply the patch, and quantise again."
            )
        if p.dtype == torch.float64:
            raise UnseeError(f"{name} is float64, and unsee computes in float32. Give model.float().")
        if p.is_inference():
            raise UnseeError(f"{name} was made under torch.inference_mode, so it cannot train. Load the model outside.")
    if len(devices := {str(p.device) for p in parameters.values()}) > 1:
        raise UnseeError(
            f"the visual module lies on several devices ({', '.join(sorted(devices))}). Load it on one: "
            f"device_map='cuda:0'."
        )


@contextmanager
def in_float32(visual: Visual) -> Iterator[None]:
    """Within: weights in float32, evaluation mode, gradients and no autocast, whatever is set around the call.

    Afterwards each weight has the dtype it had: to widen half a float is exact, so what did not change keeps its bits.
    ``visual.stored`` tells within in which dtype each weight will be.
    """
    model, mode = visual.model, [m for m in visual.model.modules() if m.training]
    every = {**visual.parameters(), **_buffers(visual)}
    narrow = {n: t.dtype for n, t in every.items() if t.is_floating_point() and t.dtype != torch.float32}
    plain = torch.autocast(visual.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), plain:
        try:
            for name in narrow:
                every[name].data = every[name].data.float()
            visual.stored = {n: d for n, d in narrow.items() if isinstance(every[n], nn.Parameter)}
            model.eval()
            yield
        finally:
            for name, dtype in narrow.items():
                every[name].data = every[name].data.to(dtype)
            visual.stored = {}
            for module in mode:
                module.training = True
            torch.clear_autocast_cache()  # of a caller, whose autocast would go on with the weights of before


def _buffers(visual: Visual) -> dict[str, Tensor]:
    language = {id(b) for part in language_parts(visual.model) for b in part.buffers()}
    return {n: b for n, b in visual.model.named_buffers() if id(b) not in language}
