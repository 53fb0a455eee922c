"""How a visual module runs on this machine: the same mathematics as transformers' own, at a fraction of the time."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

# Towers that pack the patches of all images in one row (Qwen2-VL and its kin) call attention image by image, unless its
# name says "flash": then once, with the bounds of the images.
PACKED = "unsee_packed_flash"


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None = None, scaling: float = 1.0,
    *, cu_seq_lens_q: Tensor, dropout: float = 0.0, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention within each image of a packed row, images of equal length at once.

    ``query``, ``key``, ``value`` [1, heads, rows, d]; ``cu_seq_lens_q`` [images + 1]: where each begins. Returns
    [1, rows, heads, d].
    """
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    if len(set(lengths)) == 1:
        parts = [tuple(t[0].unflatten(1, (len(lengths), lengths[0])).transpose(0, 1) for t in (query, key, value))]
    else:
        parts = list(zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True))
    out = [_attend(q, k, v, scaling).transpose(1, 2).flatten(0, 1) for q, k, v in parts]
    return torch.cat(out)[None], None


def _attend(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    weights = (q @ k.transpose(-1, -2) * scaling).softmax(-1, dtype=torch.float32)
    return weights.to(q.dtype) @ v


AttentionInterface.register(PACKED, packed_attention)


@contextmanager
def attention_for(model: nn.Module, training: bool) -> Iterator[None]:
    """Within: attention that is fast on this machine, and image by image only where it must be.

    On a CPU eager attention for training in bfloat16, where sdpa's backward pass doubles the time of a small tower's
    step; and patches embedded by one matrix product, where a convolution over each patch took 69 % of a Qwen2-VL
    tower's training step.
    """
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = [config._attn_implementation for config in configs.values()]
    eager = training and next(model.parameters()).device.type == "cpu"
    packed = {id(m.config) for m in model.modules() if _is_packed(m)}
    for key, config in configs.items():  # an outer config sets its inner ones too, so outer ones come first
        config._attn_implementation = PACKED if key in packed else "eager" if eager else config._attn_implementation
    embeddings = [m for m in model.modules() if isinstance(m, nn.Conv3d) and "forward" not in vars(m)]  # not nested
    for conv in embeddings:
        conv.forward = partial(_patch_product, conv)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for conv in embeddings:
            del conv.forward
        for config, name in zip(configs.values(), before, strict=True):
            config._attn_implementation = name


def _patch_product(conv: nn.Conv3d, patches: Tensor) -> Tensor:
    """A convolution whose kernel covers its input, ``[n, channels, frames, height, width]``, is a linear layer."""
    if patches.shape[2:] != conv.kernel_size or any(conv.padding) or conv.groups != 1:
        return type(conv).forward(conv, patches)
    return nn.functional.linear(patches.flatten(1), conv.weight.flatten(1), conv.bias)[:, :, None, None, None]


def _is_packed(module: nn.Module) -> bool:
    return hasattr(module, "scaling") and "cu_seqlens" in inspect.signature(module.forward).parameters
