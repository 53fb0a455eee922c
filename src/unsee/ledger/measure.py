"""Figures of a ledger's turn, from a visual module and moments: no language model, no image of an earlier request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unsee.concepts import Concept, ImageRef
from unsee.errors import UnseeError
from unsee.forgetting import contrast
from unsee.forgetting.moments import Moments
from unsee.forgetting.recorder import MomentRecorder
from unsee.ledger import state as states
from unsee.ledger.state import State
from unsee.vision.module import Visual

HELD_OUT, MOST = 5, 60  # every fifth neutral image, at most so many: shown to no request, asked of all


@dataclass(frozen=True)
class Look:
    """Held-out images at one version of the module: features as they are compared, moments of layers' inputs."""

    features: list[Tensor]
    moments: Moments


def split(neutral: Sequence[Concept]) -> tuple[list[Concept], list[ImageRef]]:
    """Neutral concepts as requests are shown them, and the images that are held out. UnseeError: too few."""
    images = [(c, i) for c in neutral for i in c.images]
    if len(images) < 2 * HELD_OUT:
        raise UnseeError(
            f"{len(images)} neutral image(s); a ledger needs at least {2 * HELD_OUT}, of which every fifth is shown to "
            f"no request and tells how far others move. Give more: --neutral DIR."
        )
    out = {id(i) for _, i in images[HELD_OUT - 1 :: HELD_OUT][:MOST]}
    shown = [Concept(c.id, tuple(i for i in c.images if id(i) not in out)) for c in neutral]
    return [c for c in shown if c.images], [i for _, i in images if id(i) in out]


def look(visual: Visual, layers: Sequence[str], images: Sequence[ImageRef]) -> Look:
    """One pass over ``images``, one at a time."""
    with MomentRecorder({n: visual.model.get_submodule(n) for n in layers}) as recorder, torch.no_grad():
        recorder.mask = visual.real_rows
        features = [contrast.pooled(visual.features([p])[0]) for p in visual.pixels(images)]
        recorder.images += len(images)
    return Look(features, recorder.moments())


def heldout_drift(before: Look, now: Look) -> float:
    """Squared distance that features moved, over their squared distance from their mean."""
    places = min(len(f) for f in (*before.features, *now.features))
    old, new = (contrast.flat(look.features, places) for look in (before, now))
    return float((new - old).square().sum() / (old - old.mean(0)).square().sum())


def figures(
    state: State, base: dict[str, Tensor], delta: dict[str, Tensor], left: dict[str, float], before: Look, now: Look
) -> dict[str, float]:
    """What the gate judges, and the age. ``state``: before the turn, the turn's concepts taken out of it.

    ``before``: held-out images at the base; ``left``: by concept.
    """
    return {
        "left": max(left.values()),
        "retained": max(states.retained_drift(state, base, delta).values()),
        "heldout": heldout_drift(before, now),
        "earlier": states.earlier_drift(state.settled, delta),
        "age": max(states.age(before.moments, now.moments).values()),
    }
