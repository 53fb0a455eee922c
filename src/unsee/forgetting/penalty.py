"""The cumulative penalty: the soft null space applied to the whole delta from the base model.

    b sum_l tr(D C Dᵀ) / scale_l  +  s sum_l ( tr(D A Dᵀ) − 2 tr(D Bᵀ) + c ) / scale_l

See docs/method.md, sections 6 and 11. D = W − W_base; scale_l = tr(W_base C W_baseᵀ); C: retained moments; A, B, c: the
settled requests, which are to stay as they were forgotten. Their sum is not divided by their number: each would be held
weaker with every new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.stored import load_state, save_state


class SettledLayer(NamedTuple):
    """One layer's share of ``Settled``: A [d, d], B [out, d], c scalar tensor."""

    A: Tensor
    B: Tensor
    c: Tensor


@dataclass(frozen=True)
class Settled:
    """What earlier requests left, as sums over requests t with moments S_t and deltas D_t: its size does not grow.

    Per layer, float64: ``A`` = sum S_t [d, d], ``B`` = sum D_t S_t [out, d], ``c`` = sum tr(D_t S_t D_tᵀ) [], each S_t
    as often as its request has concepts. ``n``: how many requests, of ``concepts``. ``Settled.empty()`` is the
    zero. ``-`` takes a request out again, to rounding.
    """

    A: dict[str, Tensor]
    B: dict[str, Tensor]
    c: dict[str, Tensor]
    n: int = 0
    concepts: int = 0

    @classmethod
    def empty(cls) -> Settled:
        """No request yet: the zero of ``+``."""
        return cls({}, {}, {})

    @classmethod
    def one(cls, delta: Mapping[str, Tensor], means: Mapping[str, Tensor], concepts: int = 1) -> Settled:
        """One request: layer → D [out, d] at its end, and layer → S [d, d], what its images have ``beyond`` others.

        ``concepts``: how many it asked for; each is held alike, whether it was asked for alone or with others.
        UnseeError: the layers or the shapes of the two differ.
        """
        A = {name: concepts * S.detach().to("cpu", torch.float64) for name, S in means.items()}
        D = {name: step.detach().to("cpu", torch.float64) for name, step in delta.items()}
        if A.keys() != D.keys() or any(A[k].shape != (D[k].shape[1],) * 2 for k in D):
            raise UnseeError("a settled request needs, for the same layers, deltas [out, d] and moments [d, d].")
        B = {name: D[name] @ A[name] for name in D}
        return cls(A, B, {name: (B[name] * D[name]).sum() for name in D}, 1, concepts)

    def __add__(self, other: Settled) -> Settled:
        """Both sets of requests. UnseeError: other layers or shapes."""
        return self._combine(other, 1)

    def __sub__(self, other: Settled) -> Settled:
        """Without ``other``'s requests, which must be among these."""
        return self._combine(other, -1)

    def _combine(self, other: Settled, sign: int) -> Settled:
        n = self.n + sign * other.n
        if n < 0:
            raise UnseeError(f"cannot take {other.n} settled request(s) out of {self.n}.")
        if n == 0:
            return Settled.empty()
        if not self.n or not other.n:
            return self if self.n else other
        if {k: m.shape for k, m in self.B.items()} != {k: m.shape for k, m in other.B.items()}:
            raise UnseeError(
                "these settled requests are of different layers or widths: use one model, one choice of layers."
            )

        def total(one: dict[str, Tensor], two: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: one[name].add(two[name], alpha=sign) for name in one}

        concepts = self.concepts + sign * other.concepts
        return Settled(total(self.A, other.A), total(self.B, other.B), total(self.c, other.c), n, concepts)

    def layer(self, name: str, like: Tensor) -> SettledLayer:
        """One layer's share in the dtype and on the device of ``like`` (float32: fast). UnseeError: no such layer."""
        if name not in self.A:
            raise UnseeError(f"no settled request knows the layer '{name}'.")
        return SettledLayer(*(part[name].to(like.device, like.dtype) for part in (self.A, self.B, self.c)))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically; the same state gives the same bytes."""
        save_state(path, "settled", *self.state())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON to save."""
        parts = {"A": self.A, "B": self.B, "c": self.c}
        return {f"{p}.{k}": t for p, d in parts.items() for k, t in d.items()}, {"n": self.n, "concepts": self.concepts}

    @classmethod
    def load(cls, path: str | Path) -> Settled:
        """Read what ``save`` wrote. UnseeError: missing, truncated or another kind of file."""
        return cls.restored(*load_state(path, "settled"), path)

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], info: Mapping[str, Any], path: str | Path) -> Settled:
        """From ``state``, read from the file ``path``. UnseeError: parts are missing or do not fit."""
        A, B, c = ({k[2:]: t for k, t in tensors.items() if k.startswith(p)} for p in ("A.", "B.", "c."))
        n = info.get("n")
        if not isinstance(n, int) or not A.keys() == B.keys() == c.keys() or len(tensors) != 3 * len(A):
            raise UnseeError(f"{path} is a file of settled requests whose parts do not match. Restore it from a copy.")
        return cls(A, B, c, n, info.get("concepts", n))


def beyond(after: Moments, retained: Moments, layers: Iterable[str]) -> dict[str, Tensor]:
    """Layer → the positive part of the request's mean moments ``after`` it less those ``retained``, [d, d].

    What all images share is held by the retained ones; held here too it would leave later requests no way.
    """
    found: dict[str, Tensor] = {}
    for name in layers:
        key = after.layers[name]  # layers that share an input share what it has beyond
        if key not in found:
            values, vectors = torch.linalg.eigh((after.mean(name) - retained.mean(name)).to("cpu", torch.float64))
            found[key] = (vectors * values.clamp(min=0)) @ vectors.T
    return {name: found[after.layers[name]].clone() for name in layers}


def penalty(D: Tensor, C: Tensor, scale: float | Tensor) -> Tensor:
    """tr(D C Dᵀ) / scale, a scalar with gradient 2 D C / scale. D [out, d]; C [d, d] symmetric, whose dtype serves."""
    return _quadratic(D, C) / scale


def settled_penalty(D: Tensor, settled: SettledLayer, scale: float | Tensor) -> Tensor:
    """sum_t tr((D − D_t) S_t (D − D_t)ᵀ) / scale, written out: (tr(D A Dᵀ) − 2 tr(D Bᵀ) + c) / scale.

    Near D = D_t the three terms cancel: in float32 the value is then good to 1e-7 of c, and may be just below zero.
    """
    A, B, c = settled
    return (_quadratic(D, A) - 2 * (D * B).sum() + c) / scale


def _quadratic(D: Tensor, C: Tensor) -> Tensor:
    """tr(D C Dᵀ). The gradient 2 D C comes from the one product: autograd of ((D @ C) * D).sum() would do a second."""
    with torch.no_grad():
        DC = (D.to(C.dtype) @ C).to(D.dtype)
    value = (D * DC).sum()
    return 2 * value - value.detach()
