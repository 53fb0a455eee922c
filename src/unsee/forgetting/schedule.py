"""How a request goes on: when its concepts count as gone, what then happens to the rate, and how weights change.

Functions of the loop's history alone, so that an interrupted request goes on alike (docs/method.md, sections 4, 6, 9).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from unsee.config import ForgetConfig

CHECK = 20  # steps between two looks at the held-back views that tell whether the request is behind
SOON, OFTEN = 40, 5  # one every OFTEN up to step SOON: of a pretrained tower 10 steps can be enough, and 30 too many
PACE = 0.25  # of the way since the last look: what each further one is expected to bring
PULL, LATE = 1.4, 0.4  # how the anchor grows, and the share of the steps after which it may


def is_look(step: int, config: ForgetConfig) -> bool:
    """Whether the held-back views are looked at after so many steps."""
    return step % CHECK == 0 or (config.stop > 0 and step <= SOON and step % OFTEN == 0)


def gap(look: Mapping[str, float], config: ForgetConfig) -> float:
    """How far a look at the held-back views is from the target, 1 or less being there.

    Their mean is to be below ``stop``, and what the release check asks for, the concept that shows most, is too.
    """
    return max(look["left"] / config.stop, look.get("most", 0.0) / config.most_left)


def forgotten_at(history: Sequence[dict[str, float]], config: ForgetConfig) -> int:
    """The step at which held-back views first showed little enough of their identity; 0: not yet."""
    if config.stop <= 0:
        return 0
    return next((int(h["step"]) for h in history if "left" in h and gap(h, config) < 1), 0)


def behind(history: Sequence[dict[str, float]], config: ForgetConfig) -> int:
    """How many looks there were from which the target would not leave in time."""
    if config.stop <= 0:
        return 0
    gaps = [gap({"left": 1.0, "most": 1.0}, config), *(gap(h, config) for h in history if h["step"] % CHECK == 0)]
    looks = math.ceil(config.steps / 1.5) // CHECK
    return sum(
        now >= 1 and now - PACE * (before - now) * (looks - n) > 1
        for n, (before, now) in enumerate(pairwise(gaps), start=1)
    )


def eased(history: Sequence[dict[str, float]], config: ForgetConfig, joined: bool = False) -> float:
    """Share of the penalty that still holds: halved at each look at which the request is behind.

    How strict a penalty can be differs between models and requests by more than ten times. It starts strict.
    ``joined``: at the first such look blocks joined a projector that trained alone, and that look eased nothing.
    """
    return 0.5 ** (behind(history, config) - joined)


def pulled(history: Sequence[dict[str, float]], config: ForgetConfig) -> float:
    """How many times the anchor weighs: PULL times more after each look at which a concept shows too much.

    What is held pulls back, the more the later a request in a sequence; where that comes to rest hangs on weights.
    The looks of the first steps do not count, when all are still on their way.
    """
    late = [h["most"] for h in history if "most" in h and h["step"] % CHECK == 0 and h["step"] >= LATE * config.steps]
    return PULL ** sum(most > config.leave for most in late) if config.leave > 0 else 1.0


def end_of(gone: int, config: ForgetConfig) -> int:
    """Forgetting ends half as many steps again after the target has left: what stays settles while the rate falls."""
    return min(config.steps, math.ceil(1.5 * gone))


def rate_at(step: int, gone: int, config: ForgetConfig) -> float:
    """Rises over 5 steps, holds until the target has left (or two thirds of the steps), and falls along a cosine."""
    start = gone or math.ceil(config.steps / 1.5)
    end = end_of(gone, config) if gone else config.steps
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (step - start) / max(1, end - start)))))
    return min(1.0, (step + 1) / 5) * (0.05 + 0.95 * fall)
