"""What of a visual module can train, found by one pass on the meta device, where tensors have no values.

A parameter that reaches the features is found along the graph of that pass, in a second for any size of model; a
backward pass through real weights would tell the same and cost the module's gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from unsee.errors import UnseeError
from unsee.vision.checkpoint import skeleton_of
from unsee.vision.module import Pixels, Visual
from unsee.vision.processor import first_line

Strange = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)  # of a model's forward


@dataclass(frozen=True)
class Linear:
    """A linear layer ``out × width`` that reaches the features. ``rows``: of its input, for the traced image.

    ``shares``: the first layer that gets the same input, maybe itself.
    """

    out: int
    width: int
    rows: int
    shares: str


@dataclass(frozen=True)
class Trace:
    """``linears``: in the order they run. ``frozen``: every other parameter, and why it does not train.

    ``features``: [tokens, width] of the traced image. ``flops``: of its forward pass.
    """

    linears: dict[str, Linear]
    frozen: dict[str, str]
    features: tuple[int, int]
    flops: int


def trace(visual: Visual, pixels: Pixels) -> Trace:
    """How ``pixels``, one image, runs through ``visual``. UnseeError: no linear layer reaches the features."""
    model = visual.model
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"  # what is set for this machine is no attention that a model starts with
    skeleton = Visual(skeleton_of(_own_class(model), config), visual.image_processor)
    try:
        return follow(skeleton, pixels)
    except Strange:  # shapes hang on values that the meta device does not have
        with running(visual, pixels):
            return follow(visual, pixels)


@contextmanager
def running(visual: Visual, pixels: Pixels) -> Iterator[None]:
    """Within: a model that cannot take what its processor gives ends in one UnseeError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Strange as error:
        given = ", ".join(f"{k} {' × '.join(map(str, v.shape))}" for k, v in pixels.items())
        raise UnseeError(
            f"{type(visual.model).__name__} cannot take what its image processor gives ({given}): {first_line(error)}. "
            f"Take config.json and preprocessor_config.json from the same checkpoint."
        ) from error


def follow(visual: Visual, pixels: Pixels) -> Trace:
    """As ``trace``, in ``visual`` itself; Strange: it is on the meta device and cannot be followed there."""
    parameters = visual.parameters()
    modules = {n: m for n, m in visual.model.named_modules() if isinstance(m, nn.Linear)}
    rows, inputs = dict[str, int](), dict[str, Tensor]()
    every = _config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
    with (
        torch.enable_grad(),
        _watched(modules, rows, inputs),
        _Meta(),
        every,
        FlopCounterMode(display=False) as counter,
    ):
        asked = {n: p.requires_grad for n, p in parameters.items()}
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            (features,) = visual.run(visual.join([pixels]), 1)
            reached = _reached(features)
        finally:
            for n, parameter in parameters.items():
                parameter.requires_grad_(asked[n])
    names = {n for n, p in parameters.items() if id(p) in reached}
    linears = {
        n: Linear(modules[n].out_features, modules[n].in_features, rows[n], _first(inputs, x))
        for n, x in inputs.items()
        if f"{n}.weight" in names
    }
    if not linears:
        raise UnseeError(f"no linear layer of {type(visual.model).__name__} reaches its image features.")
    frozen = {n: _why(n, visual.model, names, linears) for n in parameters if n.removesuffix(".weight") not in linears}
    return Trace(linears, frozen, (features.shape[0], features.shape[1]), counter.get_total_flops())


def _first(inputs: dict[str, Tensor], x: Tensor) -> str:
    return next(name for name, other in inputs.items() if other is x)


def _own_class(model: Any) -> Any:
    """The model's class; of a stripped one, the class it was made from."""
    cls = type(model)
    return cls.__mro__[1] if cls.__mro__[1].__name__ == cls.__name__ else cls


def _why(name: str, model: Any, reached: set[str], linears: dict[str, Linear]) -> str:
    """Why parameter ``name`` does not train."""
    owner, _, kind = name.rpartition(".")
    module = model.get_submodule(owner)
    if name not in reached:
        return "does not reach the features"
    if kind == "bias" or "Norm" in type(module).__name__:
        return "bias or norm"
    if isinstance(module, (nn.Linear, nn.MultiheadAttention)):
        return "nn.MultiheadAttention, which never calls its layers"
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        return "convolution"
    if isinstance(module, nn.Embedding) or "embedding" in kind:
        return "embedding"
    return "bare parameter"


def _reached(features: Tensor) -> set[int]:
    """Identities of the parameters on the graph behind ``features``."""
    found: set[int] = set()
    seen: set[Any] = set()
    todo = [features.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        todo += [n for n, _ in node.next_functions]
    return found


@contextmanager
def _watched(modules: dict[str, nn.Linear], rows: dict[str, int], inputs: dict[str, Tensor]) -> Iterator[None]:
    """Within: filled with how many rows each of ``modules`` gets and its first input, in the order they run."""

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["input"]
            rows[name] = rows.get(name, 0) + x.numel() // x.shape[-1]
            inputs.setdefault(name, x)

        return hook

    handles = [m.register_forward_pre_hook(watch(n), with_kwargs=True) for n, m in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Meta(TorchDispatchMode):
    """Positions, grids and masks have values, since shapes hang on them, until they meet a meta tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return True  # "does the mask show all?": one that was made of ones does
        moved = func is torch.ops.aten._to_copy.default and not args[0].is_floating_point()
        if moved and torch.device(kwargs.get("device") or "cpu").type == "meta":
            kwargs.pop("device")
        devices = {t.device.type for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        if devices == {"meta", "cpu"}:
            args, kwargs = tree_map_only(Tensor, _to_meta, (args, kwargs))
        return func(*args, **kwargs)


def _to_meta(tensor: Tensor) -> Tensor:
    if tensor.device.type == "meta":
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
