"""Second moments of the inputs of linear layers: sums of x xᵀ that add over batches, machines and requests.

They are all that forgetting needs of the retained images, which can be deleted afterwards (docs/method.md, section 2).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
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
            raise UnseeError(f"no moments of layer '{layer}'. Recorded: {listed(self.layers)}.")
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


def _words(given: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in given.items()}


def listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" … ({len(names)} in all)" if len(names) > 5 else "")


def _comparable(one: Moments, other: Moments) -> None:
    for what in ("layers", "meta"):
        a, b = getattr(one, what), getattr(other, what)
        if a != b:
            odd = [str(k) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
            raise UnseeError(
                f"these moments cannot be combined: their {what} differ in {listed(odd)}. "
                f"Record both from the same model with the same layers."
            )
    for key, matrix in one.matrices.items():
        if matrix.shape != other.matrices[key].shape:
            shapes = f"{list(matrix.shape)} and {list(other.matrices[key].shape)}"
            raise UnseeError(f"these moments cannot be combined: the layer '{key}' is {shapes} wide. Use one model.")
