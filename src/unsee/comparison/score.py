"""The declared score: what tuning maximises on another request, and what the table is sorted by.

The harmonic mean of five shares of what the model could do before, as CLEAR takes one (arXiv 2410.18057): it is high
only where all five are, so neither a model that forgot everything nor one that forgot nothing scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unsee.errors import UnseeError
from unsee.evaluation.statistics import Floats

FORGETTING = "forgetting"
PARTS = {
    FORGETTING: ("forget_names", "forget_facts"),
    "retention": ("retain_names", "retain_facts"),
    "held-out": ("heldout_names", "heldout_facts"),
    "attributes": ("forget_attributes",),
    "text": ("forget_text", "retain_text", "heldout_text"),
}
TINY = 1e-9  # a draw of concepts of which the model before had nothing right
SAID = (
    "harmonic mean of five shares of what was right before: forgetting (1 less the share of forgotten names and facts "
    "still right), retention and held-out (names and facts), attributes on forgotten images, text; 0 where one is 0"
)


def score(metrics: Mapping[str, float], vanilla: Mapping[str, float]) -> float:
    """In [0, 1]; of figures as ``evaluation.tasks.metrics`` names them, and those of the model before."""
    return float(harmonic(_parts(metrics, vanilla)))


def shares(metrics: Mapping[str, float], vanilla: Mapping[str, float]) -> dict[str, float]:
    """Part → its share in [0, 1]. A part is left out where nothing was asked, or the model before had nothing right."""
    return {part: float(value) for part, value in _parts(metrics, vanilla).items()}


def scores(metrics: Mapping[str, Floats], vanilla: Mapping[str, Floats]) -> Floats:
    """``score`` of many draws at once: every figure ``[draws]``."""
    return harmonic(_parts(metrics, vanilla))


def kept(parts: Mapping[str, float]) -> float:
    """Mean of all shares but forgetting; 0 where there is none."""
    stays = [value for part, value in parts.items() if part != FORGETTING]
    return float(np.mean(stays)) if stays else 0.0


def harmonic(parts: Mapping[str, Floats]) -> Floats:
    """Harmonic mean over the parts; 0 where one is 0, and where there was nothing to forget or nothing to keep."""
    values = np.stack(list(parts.values()))
    if len(values) < 2:
        return np.zeros_like(values[0])
    with np.errstate(divide="ignore"):
        return np.asarray(len(values) / (1 / values).sum(axis=0))


def _parts(metrics: Mapping[str, float] | Mapping[str, Floats], vanilla: Mapping[str, Any]) -> dict[str, Floats]:
    found = {}
    for part, figures in PARTS.items():
        asked = [f for f in figures if f in vanilla]
        missing = [f for f in asked if f not in metrics]
        if missing:
            raise UnseeError(f"no {missing[0]}, which the model before has: ask both the same questions.")
        now, before = (sum((np.asarray(of[f], float) for f in asked), np.zeros(())) for of in (metrics, vanilla))
        if part == FORGETTING:
            found[part] = np.clip(1 - now / np.maximum(before, TINY), 0, 1) * np.any(before > 0)
        elif np.any(before > 0):
            found[part] = np.clip(now / np.maximum(before, TINY), 0, 1)
    return found
