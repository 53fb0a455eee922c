"""Forget again from statistics alone: what a turn did to its images is done to their moments, in closed form.

Ours, no paper's. Per layer the change E from the delta D_0 at hand is the minimiser of

    OWN · tr((D_0 + E − D_t) S_t (D_0 + E − D_t)ᵀ)  +  s · tr(E A Eᵀ)  +  b · tr(E C Eᵀ)

D_t, S_t: delta and moments of the turn when its images were there; A: earlier turns, C: what stays. A layer's outputs
on the turn's images become what they were; on all others they stay as far as they can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unsee.config import LedgerConfig
from unsee.forgetting.moments import Moments
from unsee.ledger.body import Body
from unsee.ledger.state import State
from unsee.vision import patch as patches
from unsee.vision.patch import Patch

OWN = 1000.0  # weight of the turn's own images: they are to go, whatever else
RIDGE = 1e-6  # of the mean eigenvalue, so that directions nobody has do not move


def refit(body: Body, state: State, wanted: Mapping[str, Tensor], after: Moments, config: LedgerConfig) -> Patch:
    """The patch that follows ``state`` and gives the images of ``after`` what the delta ``wanted`` gave them."""
    now, info = body.delta(state.weights, list(wanted)), {"method": "refit"}
    changed = {}
    for name, target in wanted.items():
        own, kept = OWN * after.mean(name), config.penalty * state.retained.mean(name)
        held = config.hold(state.settled.concepts) * state.settled.A[name] if state.settled.n else torch.zeros_like(own)
        step = solve(target.cpu().double() - now[name].cpu().double(), own, kept + held)
        changed[name] = body.base[name].cpu().double() + now[name].cpu().double() + step
    return _patch(body, state, changed, info)


def solve(gap: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """E [out, d] that minimises tr((E − gap) own (E − gap)ᵀ) + tr(E other Eᵀ)."""
    whole = own + other
    whole = whole + RIDGE * whole.diagonal().mean() * torch.eye(len(whole), dtype=whole.dtype)
    return torch.linalg.solve(whole, own @ gap.T).T


def _patch(body: Body, state: State, weights: Mapping[str, Tensor], info: dict[str, Any]) -> Patch:
    stored = {n: (body.disk[n], body.stored(n)) for n in weights}
    before = {disk: state.weights.get(disk, body.base[n].to("cpu", dtype)) for n, (disk, dtype) in stored.items()}
    return patches.make(before, {disk: weights[n].to(dtype) for n, (disk, dtype) in stored.items()}, info)[0]
