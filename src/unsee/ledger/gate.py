"""What a request has to show before it may be released, and with what strength it is tried again when it does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from unsee.config import LedgerConfig

# figure → the setting that says how large it may be
TOLERANCES = {
    "left": "most_left",
    "retained": "most_retained",
    "heldout": "most_heldout",
    "earlier": "most_earlier",
}
MEANING = {
    "left": "share of its identity that held-back views of a requested concept still show, the worst concept",
    "retained": "drift of a layer's retained outputs by all requests together, as a share of their energy, the worst",
    "heldout": "drift of neutral images' features that no request was shown, as a share of their spread",
    "earlier": "share of what changed for earlier requests' images that has changed again since they were forgotten",
    "age": "drift of the second moments of a layer's inputs since the statistics were recorded, the worst layer",
}
STRONGER = 3.0  # by how much weights change from one attempt to the next


def failed(figures: dict[str, float], config: LedgerConfig) -> list[str]:
    """The figures that are over their tolerance; one that is NaN, or was not measured, is."""
    return [name for name, most in TOLERANCES.items() if not figures.get(name, math.nan) <= getattr(config, most)]


def again(config: LedgerConfig, figures: dict[str, float]) -> LedgerConfig | None:
    """Settings for another attempt: less strict where too much is left, stricter where too much moved.

    None: both failed, so that no strength would serve.
    """
    wrong = failed(figures, config)
    if wrong == ["left"]:
        return replace(config, penalty=config.penalty / STRONGER, keep=config.keep / STRONGER, steps=2 * config.steps)
    if "left" in wrong:
        return None
    changed: dict[str, Any] = {"penalty": config.penalty * STRONGER, "keep": config.keep * STRONGER}
    if "earlier" in wrong:
        changed |= {name: getattr(config, name) * STRONGER for name in ("settled", "settled_most")}
    return replace(config, **changed)
