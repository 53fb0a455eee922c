"""What is kept of all requests so far, in constant size and without an image (docs/method.md, section 11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unsee.errors import UnseeError
from unsee.forgetting import nullspace, penalty
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled, beyond
from unsee.forgetting.stored import load_state, save_state
from unsee.vision.patch import Patch

PARTS = ("retained", "settled", "weights")


@dataclass(frozen=True)
class Share:
    """What one turn of requests adds to the state and takes from it.

    ``after``: moments of its images after forgetting; ``taken``: what the retained sums held of its concepts, None
    where they held nothing; ``concepts``: how many it forgot.
    """

    after: Moments
    taken: Moments | None = None
    concepts: int = 1

    def settled(self, delta: Mapping[str, Tensor], retained: Moments) -> Settled:
        """What it is held by. ``delta``: layer → W − W_base at its end; ``retained``: moments of who stayed then."""
        return Settled.one(delta, beyond(self.after, retained, delta), self.concepts)

    def save(self, path: Path | str) -> None:
        """One safetensors file; the same share gives the same bytes."""
        tensors, info = _joined({"after": self.after.state(), **({"taken": self.taken.state()} if self.taken else {})})
        save_state(path, "share", tensors, info | {"concepts": self.concepts})

    @classmethod
    def load(cls, path: Path | str) -> Share:
        """UnseeError: missing, truncated or another kind of file."""
        tensors, info = load_state(path, "share")
        found = _parted(tensors, info, path, ("after", "taken"))
        taken = Moments.restored(*found["taken"], path) if found["taken"][1] else None
        return cls(Moments.restored(*found["after"], path), taken, int(info.get("concepts", 1)))


@dataclass(frozen=True)
class State:
    """After some turns.

    ``retained``: sums over what is to stay, recorded at the base model. ``settled``: what the turns left. ``weights``:
    by name and in dtype as on disk, what differs from the base now. ``turns``: the patches that lie on the base, by id
    and in their order.
    """

    retained: Moments
    settled: Settled
    weights: dict[str, Tensor]
    turns: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """Fingerprint of the base model's visual module."""
        return self.retained.meta.get("model", "")

    def without(self, taken: Moments | None) -> State:
        """The requested concepts' share out of the retained sums: nothing holds them where they are any more."""
        return replace(self, retained=self.retained - taken) if taken else self

    def settle(self, patch: Patch, delta: Mapping[str, Tensor], share: Share) -> State:
        """A turn is done. ``delta``: layer → W − W_base now."""
        settled = self.settled + share.settled(delta, self.retained)
        return replace(
            self, settled=settled, weights=self.weights | patch.tensors, turns=(*self.turns, patch.id)
        )  # fmt: skip

    def save(self, path: Path | str) -> None:
        """One safetensors file, whole or not at all; the same state gives the same bytes."""
        parts = {"retained": self.retained.state(), "settled": self.settled.state()}
        tensors, info = _joined(parts | {"weights": (self.weights, {"turns": list(self.turns)})})
        save_state(path, "ledger state", tensors, info)

    @classmethod
    def load(cls, path: Path | str) -> State:
        """UnseeError: missing, truncated, of another version or another kind of file."""
        found = _parted(*load_state(path, "ledger state"), path, PARTS)
        retained, settled = Moments.restored(*found["retained"], path), Settled.restored(*found["settled"], path)
        weights, info = found["weights"]
        return cls(retained, settled, weights, tuple(map(str, info["turns"])))


def retained_drift(state: State, base: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> dict[str, float]:
    """Layer → E|D x|² / E|W_base x|² over what is to stay, from its sums alone."""
    return {n: nullspace.certificate(D, base[n], state.retained.mean(n)) for n, D in delta.items()}


def earlier_drift(settled: Settled, delta: Mapping[str, Tensor]) -> float:
    """Of what changed for the images of settled requests, the share that has changed again since; 0: nothing.

    sum_t tr((D − D_t) S_t (D − D_t)ᵀ) / sum_t tr(D_t S_t D_tᵀ), mean over layers.
    """
    if not settled.n:
        return 0.0
    wide = {n: D.detach().to("cpu").double() for n, D in delta.items()}
    parts = [(float(penalty.settled_penalty(D, settled.layer(n, D), 1.0)), n) for n, D in wide.items()]
    shares = [max(0.0, moved) / float(settled.c[n]) for moved, n in parts if settled.c[n] > 0]
    return sum(shares) / len(shares) if shares else 0.0


def age(then: Moments, now: Moments) -> dict[str, float]:
    """How far the inputs of each layer have drifted since ``then``: |C_now − C_then| / |C_then| (Frobenius).

    Of the same images. Layers below the first that trains do not age.
    """
    matrices = {n: (then.mean(n), now.mean(n)) for n in then.layers}
    return {n: float((b - a).norm() / a.norm()) for n, (a, b) in matrices.items()}


def _joined(parts: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Any]]]) -> tuple[dict[str, Tensor], Any]:
    tensors = {f"{part}.{name}": t for part, (found, _) in parts.items() for name, t in found.items()}
    return tensors, {part: dict(info) for part, (_, info) in parts.items()}


def _parted(
    tensors: Mapping[str, Tensor], info: Mapping[str, Any], path: Path | str, names: tuple[str, ...]
) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    if not isinstance(info.get(names[0]), dict):
        raise UnseeError(f"{path} lacks its part '{names[0]}'. Restore it from a copy.")
    found = {}
    for part in names:
        mine = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
        found[part] = (mine, dict(info.get(part) or {}))
    return found
