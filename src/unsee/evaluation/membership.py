"""Membership attacks: can it be told from the likelihoods that a model was taught the forgotten people?

Each attack gives every answer a surprise, lower where the model seems to have been taught it. They are compared with
the surprises of what was not taught: those of a model that was taught all but the forgotten people, on the same
answers, or those of the same model on people it was not taught. An attack that needs more than a forward pass (the
norm of the gradient) is not here.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from unsee.errors import UnseeError
from unsee.evaluation.ask import Likelihood
from unsee.evaluation.metrics import mean_loss
from unsee.evaluation.statistics import Floats, Share, numbers


class Attack(Share):
    """The area under the ROC curve, its 95 % interval, and how well the attack fails.

    ``value``: the chance that one of ours surprises less than one of the others, equal ones counting half; 0.5: it
    cannot be told. ``score``: 1 − 2|AUC − 0.5|, 1 best, as in Open-MMUnlearning.
    """

    score: float


def loss(answer: Likelihood) -> float:
    """Mean loss, nats per token (Yeom et al. 2018, arXiv 1709.01604)."""
    return mean_loss(answer)


def min_k(answer: Likelihood, k: float = 0.2) -> float:
    """Mean loss of the share ``k`` of the tokens that surprise most, at least one (Min-K %, arXiv 2310.16789)."""
    if not 0 < k <= 1:
        raise UnseeError(f"Min-K of a share {k:g} of the tokens: give more than 0 and at most 1, as 0.2.")
    mean_loss(answer)  # an answer of no tokens is refused there
    lowest = sorted(answer.logprobs)[: max(1, int(len(answer.logprobs) * k))]
    return -sum(lowest) / len(lowest)


def min_k_plus_plus(answer: Likelihood, k: float = 0.2) -> float:
    """The same of ``scaled``, which takes from a token what any other would have had there (Min-K %++, 2404.02936)."""
    return min_k(Likelihood(answer.scaled, answer.hits), k)


def zlib_loss(answer: Likelihood, text: str) -> float:
    """Mean loss per byte of the answer's ``text`` compressed: what is plain is no proof (arXiv 2012.07805)."""
    return mean_loss(answer) / len(zlib.compress(text.encode("utf-8")))


def reference(answer: Likelihood, without: Likelihood) -> float:
    """Loss beyond that of a model that was not taught the answer: hard answers count alike (arXiv 2111.08440)."""
    return mean_loss(answer) - mean_loss(without)


def surprises(
    answers: Sequence[Likelihood],
    texts: Sequence[str],
    without: Sequence[Likelihood] | None = None,
    k: float = 0.2,
    ended: bool = False,
) -> dict[str, list[float]]:
    """Attack → surprise of each answer, in their order: loss, min_k, zlib, and those for which there is enough.

    min_k++ needs ``scaled`` of every answer, reference ``without``. ``ended``: the last token ends the turn, which
    loss and zlib count and the other two do not.
    """
    own = [answer.without_last() if ended and len(answer.logprobs) > 1 else answer for answer in answers]
    found = {
        "loss": [loss(answer) for answer in answers],
        "min_k": [min_k(answer, k) for answer in own],
        "zlib": [zlib_loss(answer, text) for answer, text in zip(answers, texts, strict=True)],
    }
    if all(answer.scaled for answer in own):
        found["min_k++"] = [min_k_plus_plus(answer, k) for answer in own]
    if without is not None:
        found["reference"] = [reference(answer, other) for answer, other in zip(answers, without, strict=True)]
    return found


def auc(
    ours: Sequence[float],
    others: Sequence[float],
    clusters: Sequence[str],
    other_clusters: Sequence[str],
    seed: int = 0,
    draws: int = 2000,
) -> Attack:
    """How well ``ours`` are told from ``others`` by their surprise.

    Clusters: the concept of each. The interval draws whole concepts; the same ones on both sides where both sides
    are about the same concepts.
    """
    x, y = numbers(ours), numbers(others)
    value = float(roc_auc_score([1] * len(x) + [0] * len(y), -np.concatenate([x, y])))
    (names, which), (other_names, other_which) = _concepts(x, clusters), _concepts(y, other_clusters)
    wins = np.zeros((len(names), len(other_names)))  # by concept: of ours, of the others
    for i, v in zip(which, x, strict=True):
        wins[i] += np.bincount(other_which, (v < y) + 0.5 * (v == y), minlength=len(other_names))
    rng = np.random.default_rng(seed)
    drawn = _draw(rng, len(names), draws)
    other_drawn = drawn if list(names) == list(other_names) else _draw(rng, len(other_names), draws)
    pairs = (drawn @ np.bincount(which)) * (other_drawn @ np.bincount(other_which))
    low, high = np.percentile(((drawn @ wins) * other_drawn).sum(axis=1) / pairs, [2.5, 97.5])
    return {
        "value": round(value, 6),
        "low": round(min(float(low), value), 6),
        "high": round(max(float(high), value), 6),
        "n": len(x),
        "score": round(privacy(value), 6),
    }


def privacy(auc: float) -> float:
    """1 − 2|AUC − 0.5|: 1 where the attack knows no more than chance, 0 where it is never wrong, or always."""
    return 1 - 2 * abs(auc - 0.5)


def _concepts(values: Floats, clusters: Sequence[str]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    if len(values) != len(clusters):
        raise UnseeError(f"{len(values)} surprises and {len(clusters)} concept ids: give one id for each.")
    return np.unique(np.asarray(clusters, dtype=str), return_inverse=True)


def _draw(rng: np.random.Generator, concepts: int, draws: int) -> NDArray[np.int64]:
    """How often each concept is in each draw: draws × concepts."""
    return rng.multinomial(concepts, [1 / concepts] * concepts, size=draws)
