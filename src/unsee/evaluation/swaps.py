"""The p of a paired test: how often before and after, swapped for whole concepts at random, differ by as much.

Swapping a concept turns the sign of its difference. All ways to swap are counted where that can be done at once: with
few concepts, and where the differences are multiples of one number, as of right and wrong. Elsewhere swaps are drawn,
the more the rarer a difference as large is: corrected for many figures (Holm), only a small p still shows something.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COUNTED = 32  # concepts, of which all 2^32 ways are counted in two halves of 2^16
LATTICE = 20_000  # the largest sum, in multiples of one number, whose distribution is built
PARTS = 24  # of the smallest difference, tried as that number: of means over three seeds and four wordings it is 1/12
WORD = 16  # concepts whose signs are drawn as one number
CHUNK = 50_000
FEW = 50  # differences as large: with so many p is known to a seventh of itself, and no more are drawn
SURE = 1e-9  # a p bounded below this is the bound itself: no number of draws would find one as large


def swap_p(sums: Floats, rng: np.random.Generator, draws: int, most: int) -> float:
    """Two-sided p of ``sums``, a concept's differences each. Where it is drawn, by ``draws`` to ``most`` swaps.

    Valid: where nothing changed, p is at most x in no more than a share x of all cases. That holds for the drawn p
    too: swaps are added only where p, as it stands, would be smaller than any at which drawing ends (Besag, Clifford).
    """
    sizes = np.abs(sums)
    far = abs(float(sums.sum())) - 1e-9 * max(1.0, float(sizes.sum()))  # sums in another order differ a little
    sizes = sizes[sizes > 1e-12]  # the rest is rounding
    if far <= 0:
        return 1.0
    if multiples := _multiples(sizes):
        p = _built(*multiples, far)
    elif len(sizes) <= COUNTED:
        p = _counted(sizes, far)
    elif (p := 2 * float(np.exp(-(far**2) / (2 * (sizes**2).sum())))) > SURE:  # Hoeffding 1963
        p = min(1.0, _drawn(sizes, far, rng, draws, most) + SURE)  # what the bound takes from the drawn p's share
    return max(p, float(np.finfo(float).tiny))  # of a thousand concepts a float holds no less


def _multiples(sizes: Floats) -> tuple[NDArray[np.int64], float] | None:
    """``sizes`` as multiples of one number, and the number; None where there is none large enough."""
    for parts in range(1, PARTS + 1):
        unit = float(sizes.min()) / parts
        if sizes.sum() / unit > LATTICE:
            return None
        whole = np.rint(sizes / unit)
        if np.abs(whole - sizes / unit).max() < 1e-9:
            return whole.astype(np.int64), unit
    return None


def _built(sizes: NDArray[np.int64], unit: float, far: float) -> float:
    """The distribution of the sum of those that keep their sign, one after the other; the others count against it."""
    chances = np.zeros(sizes.sum() + 1)
    chances[0], reach = 1.0, 1
    for size in sizes:
        kept = chances[:reach] / 2
        chances[:reach] = kept
        chances[size : size + reach] += kept
        reach += size
    least = int(np.ceil((far / unit + sizes.sum()) / 2 - 1e-6))
    return 2 * float(chances[least:].sum())


def _counted(sizes: Floats, far: float) -> float:
    """Of the ways of one half, sorted, those that are enough are found at once for each way of the other."""
    one, other = (_all(half) for half in np.array_split(sizes, 2))
    other.sort()
    enough = len(other) - np.searchsorted(other, far - one)
    return 2 * float(enough.sum()) / 2.0 ** len(sizes)


def _drawn(sizes: Floats, far: float, rng: np.random.Generator, draws: int, most: int) -> float:
    tables = [_all(sizes[start : start + WORD]) for start in range(0, len(sizes), WORD)]
    done = as_far = 0
    while True:
        while done < draws:
            count = min(CHUNK, draws - done)
            total = np.zeros(count)
            for table in tables:
                total += table[rng.integers(len(table), size=count, dtype=np.uint16)]
            as_far += int((np.abs(total) >= far).sum())
            done += count
        if as_far >= FEW or done >= most:
            return (as_far + 1) / (done + 1)
        draws = min(10 * draws, most)


def _all(sizes: Floats) -> Floats:
    """The sum of ``sizes`` with every choice of signs."""
    found = np.zeros(1)
    for size in sizes:
        found = np.concatenate([found - size, found + size])
    return found
