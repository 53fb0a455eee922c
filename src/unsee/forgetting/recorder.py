"""Record the second moments of linear layers' inputs while a model runs (docs/method.md, section 2)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from unsee import processes
from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments, listed

ROWS = 4096  # rows multiplied at a time: 128 MiB in float64 for an input 4096 wide
WIDE = 1024  # inputs from this width on are multiplied in float32, and the products added up in float64
BLOCKS = 8  # of columns; of the symmetric product only those on and above the diagonal are computed


class MomentRecorder:
    """Record the moments of linear layers' inputs while batches run through the model: one pass, constant memory.

    ``layers``: name → nn.Linear. Inputs are [..., d]. Before a padded batch set ``recorder.mask`` to a bool tensor of
    the leading dimensions (True = a real row; missing last dimensions are filled in; None = all rows), or to a function
    from an input's shape to one; after it add to ``recorder.images``. Layers that receive the same tensor in the first
    batch share one matrix from then on::

        with MomentRecorder(layers) as recorder, torch.no_grad():
            for batch in batches:
                model(batch)
                recorder.images += len(batch)
        moments = recorder.moments(meta)

    UnseeError, from within the forward pass: NaN or Inf in an input; a mask that does not fit; sharing that changed.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        if not layers:
            raise UnseeError("no layer to record: give at least one linear layer.")
        self.layers = dict(layers)
        self.mask: Tensor | Callable[[tuple[int, ...]], Tensor | None] | None = None
        self.images = 0
        self._keys: dict[str, str] = {}  # layer → the first layer that got the same input
        self._calls = dict.fromkeys(self.layers, 0)
        self._matrices: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._latest: dict[str, tuple[weakref.ref[Tensor], tuple[Any, ...]]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> MomentRecorder:
        for name, module in self.layers.items():
            self._handles.append(module.register_forward_pre_hook(self._hook(name), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._latest.clear()

    def moments(self, meta: Mapping[str, str] | None = None) -> Moments:
        """What was recorded, by all processes, on the CPU. The recorder is empty afterwards.

        UnseeError: a layer never ran, or not as often as those it shares with.
        """
        self._gather()
        silent = [name for name, calls in self._calls.items() if not calls]
        if silent:
            raise UnseeError(
                f"{len(silent)} layer(s) got no input: {listed(silent)}. Run at least one batch, and leave out layers "
                f"that the model does not call (a last block that is not used, a packed nn.MultiheadAttention)."
            )
        odd = [name for name, key in self._keys.items() if self._calls[name] != self._calls[key]]
        if odd:
            raise UnseeError(f"layer(s) {listed(odd)} did not run in every batch that recorded their shared input.")
        keys = {name: self._keys[name] for name in self.layers}
        matrices = {key: _mirrored(self._matrices.pop(key)).cpu() for key in list(self._matrices)}
        done = Moments(matrices, self._counts, keys, self.images, dict(meta or {}))
        self._keys, self._counts, self.images = {}, {}, 0
        self._calls = dict.fromkeys(self.layers, 0)
        return done

    def _gather(self) -> None:
        """Add up what several processes recorded. One that saw no batch has nothing to add."""
        if processes.count() == 1:
            return
        widths = {key: len(matrix) for key, matrix in self._matrices.items()}
        sums = processes.everywhere((self._keys, widths, self._counts, self._calls, self.images))
        seen = [(keys, widths) for keys, widths, *_ in sums if keys] or [(self._keys, widths)]
        self._keys, widths = seen[0]
        if any(keys != self._keys for keys, _ in seen):
            raise UnseeError(
                "layers that shared their input in one process did not in another. Record them in one process."
            )
        self._matrices = {key: processes.total(self._matrix(key, width)) for key, width in widths.items()}
        self._counts = {key: sum(counts.get(key, 0) for _, _, counts, _, _ in sums) for key in widths}
        self._calls = {n: sum(calls[n] for _, _, _, calls, _ in sums) for n in self.layers}
        self.images = sum(images for *_, images in sums)

    def _matrix(self, key: str, width: int) -> Tensor:
        """What was summed up so far under ``key``, or zeros."""
        if key not in self._matrices:
            device = self.layers[key].weight.device
            home = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
            self._matrices[key] = torch.zeros(width, width, dtype=torch.float64, device=home)
        return self._matrices[key]

    def _hook(self, name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Returns None: anything else would replace the layer's input.
            x: Tensor = args[0] if args else kwargs["input"]
            self._calls[name] += 1
            if self._leads(name, x):
                self._accumulate(name, x.detach())

        return record

    def _leads(self, name: str, x: Tensor) -> bool:
        """Whether this input is to be added under ``name``: it is not another layer's that was added already."""
        seen = _identity(x)
        if name not in self._keys:
            same = (key for key, (ref, identity) in self._latest.items() if identity == seen and ref() is not None)
            self._keys[name] = next(same, name)
        key = self._keys[name]
        if key == name:  # a weak reference, since a freed tensor's address is soon used by another
            self._latest[name] = (weakref.ref(x), seen)
            return True
        ref, identity = self._latest[key]
        if ref() is None or identity != seen:
            raise UnseeError(
                f"layers '{key}' and '{name}' shared their input in the first batch and no longer do. "
                f"Record them in two passes, one layer in each."
            )
        return False

    def _accumulate(self, name: str, x: Tensor) -> None:
        mask = self.mask(tuple(x.shape)) if callable(self.mask) else self.mask
        rows = x.reshape(-1, x.shape[-1]) if mask is None else x[_fit_mask(mask, x, name)]
        total = self._matrix(name, x.shape[-1])
        for part in rows.split(ROWS):
            _add_product(total, part.to(total.device))
        self._counts[name] = self._counts.get(name, 0) + len(rows)
        if not torch.isfinite(total.diagonal().sum()):  # any NaN or Inf in a row reaches the diagonal
            raise UnseeError(
                f"NaN or Inf in the input of layer '{name}' (batch after image {self.images}). Run the model in "
                f"float32 or bfloat16, check the images, set recorder.mask if the batch is padded."
            )


def _add_product(total: Tensor, rows: Tensor) -> None:
    """Add rowsᵀ rows to the upper triangle of ``total``, block by block; what is below it means nothing.

    Products of narrow inputs are in float64, of wide ones in float32, flushed into float64 every ROWS rows; within
    autocast the factors are what the layer multiplies, rounded to bfloat16. Measured on two cores for 4039 rows 4096
    wide: 710 ms in float64, 342 in float32, 237 of those blocks alone, 96 of bfloat16 factors. The float32 sums are off
    by about 1e-7 of the largest (benchmarks/speed.py): nothing to a penalty or a soft projector, but it would fill an
    exact null space, which only inputs of fewer rows than their width have.
    """
    if len(total) < WIDE:
        rows = rows.double()
        total.addmm_(rows.T, rows)
        return
    half = torch.is_autocast_enabled(rows.device.type)
    rows = rows.to(torch.bfloat16).float() if half else rows.float()
    step = -(-len(total) // BLOCKS)
    plain = torch.autocast(rows.device.type, enabled=False)  # which would round the products to bfloat16 too
    with plain, _products_of_halves(rows.device) if half else nullcontext():
        for i in range(0, len(total), step):
            total[i : i + step, i:] += rows[:, i : i + step].T @ rows[:, i:]


@contextmanager
def _products_of_halves(device: torch.device) -> Iterator[None]:
    """Within: float32 products whose factors are known to have no more than bfloat16's bits, at bfloat16's speed."""
    backend: Any = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, backend.fp32_precision = backend.fp32_precision, "tf32" if device.type == "cuda" else "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


def _mirrored(total: Tensor) -> Tensor:
    """``total`` with what is above its diagonal below it too, in its own memory."""
    above = total.triu_().triu(1)
    return total.add_(above.T)


def _identity(x: Tensor) -> tuple[Any, ...]:
    version = None if x.is_inference() else x._version  # inference tensors keep no version
    return x.data_ptr(), tuple(x.shape), x.stride(), x.dtype, x.device, version


def _fit_mask(mask: Tensor, x: Tensor, name: str) -> Tensor:
    """``mask`` as a bool tensor of x's leading dimensions. UnseeError: it does not fit."""
    lead, mask = x.shape[:-1], mask.to(x.device)
    if len(lead) == 1 and mask.numel() == lead[0]:  # a packed batch, [rows, d]
        mask = mask.reshape(-1)
    try:
        if mask.dtype != torch.bool or mask.dim() > len(lead):
            raise RuntimeError
        return mask.reshape(mask.shape + (1,) * (len(lead) - mask.dim())).expand(lead)
    except RuntimeError:
        raise UnseeError(
            f"recorder.mask is {mask.dtype} {list(mask.shape)}, but layer '{name}' got an input {list(x.shape)}: give "
            f"a bool tensor of its leading dimensions {list(lead)}, True for real rows, or None."
        ) from None
