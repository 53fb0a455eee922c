"""How long a step may be, and how much of all steps together is needed (docs/method.md, sections 8 and 9).

The largest rate at which a first step moves what stays by no more than it may; the least share of the change with which
the concepts are gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# Steps that are tried, at most: what one moves grows with its square where it is small, and faster where it is large,
# so that a guess from there is far too low. One that moves LEAST of what it may will do.
TRIES, LEAST, FARTHEST = 10, 0.25, 0.01
HALVINGS = 5


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


def least_share(enough: Callable[[float], bool]) -> float:
    """The least share of a change that is ``enough``, to one part in 2 to the power of HALVINGS; 1 if not even all is.

    Of a pretrained tower the first five steps can go twice as far as they need to, and what stays goes along with them.
    """
    short, share = 0.0, 1.0
    if not enough(share):
        return share
    for _ in range(HALVINGS):
        middle = (short + share) / 2
        short, share = (short, middle) if enough(middle) else (middle, share)
    return share
