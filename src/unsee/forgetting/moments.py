"""Second moments of the inputs of linear layers: sums of x xᵀ that add over batches, machines and requests.

They are all that forgetting needs of the retained images, which can be deleted afterwards (docs/method.md, section 2).
"""

from __future__ import annotations

import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from unsee import processes
from unsee.errors import UnseeError
from unsee.files import new_file
from unsee.forgetting.replay import Replay
from unsee.forgetting.stored import counted, foreign, load_state, refuse_impossible, save_state
from unsee.untrusted import shown

REPLAY = "replay."  # before the names of its tensors in a file
ROWS = 4096  # rows multiplied at a time: 128 MiB in float64 for an input 4096 wide
WIDE = 1024  # inputs from this width on are multiplied in float32, and the products added up in float64
BLOCKS = 8  # of columns; of the symmetric product only those on and above the diagonal are computed


@dataclass(frozen=True)
class Moments:
    """Uncentred second moments as sums, so that they add (Adam-NSCL, CVPR 2021; AlphaEdit, ICLR 2025).

    ``matrices``: key → [d, d] float64, the sum of x xᵀ over rows; ``counts``: key → number of rows; ``layers``: layer
    name → key (layers that share an input, as q, k, v do, share a matrix); ``images``: how many images were seen;
    ``meta``: what the sums depend on, e.g. the model's fingerprint: sums whose meta differ are not added. ``replay``:
    the distribution of what enters the first trained block, where it was recorded. ``pictures``: hashes of the images'
    pixels, sorted, as far as they came from files: a request for one of them is refused.
    """

    matrices: Mapping[str, Tensor]
    counts: dict[str, int]
    layers: dict[str, str]
    images: int = 0
    meta: dict[str, str] = field(default_factory=dict)
    replay: Replay | None = None
    pictures: tuple[str, ...] = ()

    def mean(self, layer: str) -> Tensor:
        """The mean of x xᵀ over rows, [d, d] float64. UnseeError: an unknown layer, or one with no rows."""
        if layer not in self.layers:
            raise UnseeError(f"no moments of layer '{layer}'. Recorded: {_some(self.layers)}.")
        key = self.layers[layer]
        if self.counts[key] == 0:
            raise UnseeError(f"the moments of layer '{layer}' hold no rows: record them over at least one image.")
        return self.matrices[key] / self.counts[key]

    def refuse_unlike(self, model: nn.Module, layers: Iterable[str]) -> None:
        """UnseeError: ``model`` has one of ``layers`` not at all, or of another width than was recorded."""
        for name in layers:
            try:
                found: Any = model.get_submodule(name)
            except AttributeError:
                found = None
            width = len(self.matrices[self.layers[name]])
            if not isinstance(found, nn.Linear) or found.in_features != width:
                raise UnseeError(
                    f"the statistics are of a layer '{shown(name)[:200]}' of {width} inputs, and the model has none "
                    f"such. Make them again: unsee statistics --model … --images …"
                )

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of images. UnseeError: other layers, widths or meta."""
        return self._combine(other, 1)

    def __sub__(self, other: Moments) -> Moments:
        """The moments without ``other``'s images, which must be among them. UnseeError: they cannot be."""
        return self._combine(other, -1)

    def _combine(self, other: Moments, sign: int) -> Moments:
        _comparable(self, other)
        counts = {k: n + sign * other.counts[k] for k, n in self.counts.items()}
        images = self.images + sign * other.images
        if min([images, *counts.values()]) < 0:
            raise UnseeError(
                f"cannot take the moments of {other.images} images out of those of {self.images}: a count would become "
                f"negative. Subtract only what was added."
            )
        # Nothing left is exactly nothing: a difference of sums would leave rounding that looks like data.
        matrices = {
            k: m.add(other.matrices[k], alpha=sign) if counts[k] else torch.zeros_like(m)
            for k, m in self.matrices.items()
        }
        replay, pictures = self._replay(other, sign), self._pictures(other, sign)
        return Moments(matrices, counts, dict(self.layers), images, dict(self.meta), replay, pictures)

    def _pictures(self, other: Moments, sign: int) -> tuple[str, ...]:
        """One that was added twice is there until it was taken out twice."""
        one, two = Counter(self.pictures), Counter(other.pictures)
        return tuple(sorted((one + two if sign > 0 else one - two).elements()))

    def _replay(self, other: Moments, sign: int) -> Replay | None:
        """None where one of the two has none, was recorded elsewhere in the model, or nothing is left."""
        one, two = self.replay, other.replay
        if not one or not two or (one.block, one.shape) != (two.block, two.shape):
            return None
        if sign > 0:
            return one + two
        return one - two if one.concepts > two.concepts else None

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically; the same moments give the same bytes."""
        if isinstance(self.matrices, _OnDisk):
            with new_file(path, private=True) as file:
                shutil.copyfile(self.matrices.path, file)
            return
        save_state(path, "moments", *self.state())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON to save."""
        info: dict[str, Any] = {
            "counts": self.counts, "layers": self.layers, "images": self.images, "meta": self.meta, "replay": None,
            "pictures": list(self.pictures),
        }  # fmt: skip
        tensors = dict(self.matrices)
        if self.replay:
            parts, info["replay"] = self.replay.state()
            tensors |= {REPLAY + name: part for name, part in parts.items()}
        return tensors, info

    def on_disk(self, path: str | Path) -> Moments:
        """Saved to ``path``, and the same moments whose matrices are read from there one by one when they are used.

        Processes share the file: the first writes it, and the others wait.
        """
        with processes.alike():
            if processes.first():
                self.save(path)
        return replace(self, matrices=_OnDisk(path, list(self.matrices)), replay=None)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read what ``save`` wrote. UnseeError: missing, truncated, another kind of file, or of no images at all."""
        found = cls.restored(*load_state(path, "moments"), path)
        if not found.images or not all(found.counts.values()):
            raise foreign(path, "moments", "it counts no images, or no rows of a layer")
        if not any(m.any() for m in found.matrices.values()):
            raise foreign(path, "moments", "all its second moments are zero, so that they would keep nothing")
        return found

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], info: Mapping[str, Any], path: str | Path) -> Moments:
        """From ``state``, read from the file ``path``. UnseeError: parts are missing, do not fit or cannot be."""
        matrices = {k: t for k, t in tensors.items() if not k.startswith(REPLAY)}
        parts = {k.removeprefix(REPLAY): t for k, t in tensors.items() if k.startswith(REPLAY)}
        try:
            counts = {str(k): counted(n) for k, n in info["counts"].items()}
            layers, meta = _words(info["layers"]), _words(info["meta"])
            images = counted(info["images"])
            pictures = tuple(sorted(map(str, info.get("pictures") or ())))  # older files have none
            replay = Replay.restored(parts, info["replay"]) if info["replay"] else None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise foreign(path, "moments", f"its header lacks or garbles {shown(error)[:100]}") from error
        square = all(m.dim() == 2 and m.shape[0] == m.shape[1] and m.dtype == torch.float64 for m in matrices.values())
        if not square or not matrices or counts.keys() != matrices.keys() or set(layers.values()) != set(matrices):
            raise foreign(path, "moments", "its tensors do not match its header")
        for key, matrix in matrices.items():
            try:
                refuse_impossible(matrix)
            except ValueError as error:
                raise foreign(path, "moments", f"it holds {error}, in {shown(key)[:100]}") from error
        return cls(matrices, counts, layers, images, meta, replay, pictures)


class _OnDisk(Mapping[str, Tensor]):
    """Matrices that stay in a file: the ones of a large tower take more memory than its training."""

    def __init__(self, path: str | Path, names: list[str]) -> None:
        self.path, self.names = path, names

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.path, "pt", backend="pread") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


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
                f"{len(silent)} layer(s) got no input: {_some(silent)}. Run at least one batch, and leave out layers "
                f"that the model does not call (a last block that is not used, a packed nn.MultiheadAttention)."
            )
        odd = [name for name, key in self._keys.items() if self._calls[name] != self._calls[key]]
        if odd:
            raise UnseeError(f"layer(s) {_some(odd)} did not run in every batch that recorded their shared input.")
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


def _words(given: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in given.items()}


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" … ({len(names)} in all)" if len(names) > 5 else "")


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


def _comparable(one: Moments, other: Moments) -> None:
    for what in ("layers", "meta"):
        a, b = getattr(one, what), getattr(other, what)
        if a != b:
            odd = [str(k) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
            raise UnseeError(
                f"these moments cannot be combined: their {what} differ in {_some(odd)}. "
                f"Record both from the same model with the same layers."
            )
    for key, matrix in one.matrices.items():
        if matrix.shape != other.matrices[key].shape:
            shapes = f"{list(matrix.shape)} and {list(other.matrices[key].shape)}"
            raise UnseeError(f"these moments cannot be combined: the layer '{key}' is {shapes} wide. Use one model.")
