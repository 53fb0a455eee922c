"""How long a step may be: the largest rate at which a first one moves what stays by no more than it may.

docs/method.md, section 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# Steps that are tried, at most: what one moves grows with its square where it is small, and faster where it is large,
# so that a guess from there is far too low. One that moves LEAST of what it may will do.
TRIES, LEAST, FARTHEST = 10, 0.25, 0.01


def largest_rate(rate: float, most: float, moved: Callable[[float], float]) -> float:
    """``rate``, or a lower one at which ``moved`` is between LEAST of ``most`` and ``most``.

    Where none is found in TRIES, the largest within ``most``; where there is none, the last guess.
    """
    within, beyond = 0.0, math.inf
    for _ in range(TRIES):
        now = moved(rate)
        if now > most:
            beyond = rate
        else:  # as is a NaN, of which the first step tells
            within = rate
            if not now < LEAST * most or beyond == math.inf:
                break
        guess = rate * max((most / now) ** 0.5, FARTHEST) if now > 0 else math.inf
        rate = guess if within < guess < beyond else (within * beyond) ** 0.5
    return within or rate
