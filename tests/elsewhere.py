"""A device that is not the CPU, on any machine: tensors of ``meta``, where what meets a CPU tensor fails as on a GPU.

Whole numbers and masks keep their values, on which shapes hang. Fractions have none: read back, they are drawn. So what
is computed is not tested, only where everything lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

AWAY = torch.device("meta")
aten = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Misplaced(AssertionError):
    """A CPU tensor met one of the device."""


class _Elsewhere(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.values = WeakTensorKeyDictionary()  # of whole numbers and masks on AWAY

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        if func is aten._to_copy.default:
            return self._moved(args[0], kwargs)
        if func is aten.copy_.default:
            return self._written(*args[:2])
        away = [t for t in tensors if t.is_meta]
        if not away:
            made = torch.device(kwargs.get("device") or "cpu").type == "meta"
            return self._known(func, args, kwargs) if made else func(*args, **kwargs)
        met = [args[0], *args[2:3]] if func in INDEXED else tensors  # places may lie on the CPU, as CUDA takes them
        if any(isinstance(t, Tensor) and not t.is_meta and t.dim() for t in met):
            raise Misplaced(f"{func} of tensors on {[(t.device.type, tuple(t.shape)) for t in tensors]}")
        if func in (aten._local_scalar_dense.default, aten.item.default):
            return self._read(args[0]).item()
        if func in (aten.equal.default, aten.allclose.default):
            return True
        if all(t in self.values for t in away):
            return self._known(func, args, kwargs)
        if func in INDEXED:
            args = (args[0], [self._places(i) for i in args[1]], *args[2:])
        try:
            return func(*args, **kwargs)
        except NotImplementedError:  # its shape hangs on values
            return self._known(func, args, kwargs)

    def _known(self, func: Any, args: Any, kwargs: Any) -> Any:
        """As ``func`` gives of what the tensors hold, on AWAY."""
        held = tree_map_only(Tensor, self._read, (args, kwargs))
        out = func(*held[0], **held[1] | ({"device": "cpu"} if "device" in kwargs else {}))
        return tree_map_only(Tensor, self._sent, out)

    def _sent(self, tensor: Tensor) -> Tensor:
        away = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=AWAY)
        if not tensor.is_floating_point():
            self.values[away] = tensor
        return away

    def _read(self, tensor: Tensor) -> Tensor:
        if not tensor.is_meta or tensor in self.values:
            return self.values.get(tensor, tensor)
        if tensor.is_floating_point():  # the same each time; of a square, a second moment
            drawn = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0))
            square = drawn.dim() == 2 and drawn.shape[0] == drawn.shape[1]
            return (drawn @ drawn.T if square else drawn).to(tensor.dtype)
        return torch.ones(tensor.shape, dtype=tensor.dtype)

    def _moved(self, tensor: Tensor, kwargs: Any) -> Tensor:
        to = torch.device(kwargs.get("device") or tensor.device).type
        held = aten._to_copy.default(self._read(tensor), **kwargs | {"device": "cpu"})
        return self._sent(held) if to == "meta" else held

    def _written(self, target: Tensor, source: Tensor) -> Tensor:
        if not target.is_meta:
            return aten.copy_.default(target, self._read(source))
        if not target.is_floating_point():
            self.values[target] = self._read(source).to(target.dtype).expand(target.shape).clone()
        return target

    def _places(self, index: Tensor | None) -> Tensor | None:
        if index is None or index.dtype != torch.bool:
            return index
        found = self._read(index).nonzero()
        if found.shape[1] != 1:
            return index
        return torch.empty(len(found), dtype=torch.long, device=AWAY)


class _Autocast:
    """torch knows none of ``meta``."""

    def __init__(self, device: str, *args: Any, **kwargs: Any) -> None:
        assert device == AWAY.type, f"autocast on {device}, and the model is elsewhere"

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within: models on AWAY can be used as if there were such a device."""
    from unsee.vision import given, module

    def moved(tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)

    with pytest.MonkeyPatch.context() as patch, _Elsewhere():
        patch.setattr(module, "_to", moved)  # which keeps values off the meta device, to follow a model there
        patch.setattr(given, "_refuse_weights", lambda visual: None)  # of which one is that they are meta
        patch.setattr(torch, "autocast", _Autocast)
        yield
