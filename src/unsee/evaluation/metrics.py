"""What is measured of one answer: how close its words are, how likely it was, who else it names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from unsee.errors import UnseeError
from unsee.evaluation.ask import Likelihood
from unsee.evaluation.score import words


@dataclass(frozen=True)
class Overlap:
    """How many words and word pairs of a text are in another, each between 0 and 1.

    ``rouge1``, ``rouge2``, ``rougeL``: F-measure of words, pairs of words, the longest common run with gaps.
    ``recall``: the share of the truth's words in that longest run. ROUGE knows a–z and 0–9 only: Chinese has no words.
    """

    rouge1: float
    rouge2: float
    rougeL: float
    recall: float
    bleu: float


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def overlap(truth: str, given: str) -> Overlap:
    """ROUGE with stemming by rouge-score, and BLEU by nltk on words between blanks, smoothed by its method 1."""
    found = _scorer().score(truth, given)
    smooth = SmoothingFunction().method1
    bleu = sentence_bleu([truth.split()], given.split(), smoothing_function=smooth)
    f = {name: score.fmeasure for name, score in found.items()}
    return Overlap(f["rouge1"], f["rouge2"], f["rougeL"], found["rougeL"].recall, float(bleu))


def mean_loss(answer: Likelihood) -> float:
    """Nats per token, of all that was scored."""
    return -sum(_some(answer).logprobs) / len(answer.logprobs)


def probability(answer: Likelihood) -> float:
    """exp(−mean loss): the geometric mean over the answer's tokens, between 0 and 1."""
    return math.exp(-mean_loss(answer))


def exact_memorisation(answer: Likelihood) -> float:
    """Share of tokens that are the likeliest after the true ones before them (arXiv 2205.10770, 2506.12618)."""
    return sum(_some(answer).hits) / len(answer.hits)


def extraction_strength(answer: Likelihood, published: bool = False) -> float:
    """1 − k/L: k of L tokens must be given before the model says all the rest by itself (arXiv 2406.09179, 2506.12618).

    Where not even the last token is said it is 0; OpenUnlearning's code (``published``) gives 1/L there.
    """
    said = sum(1 for _ in takewhile(bool, reversed(_some(answer).hits)))
    return max(said, int(published)) / len(answer.hits)


def _some(answer: Likelihood) -> Likelihood:
    if not answer.logprobs:
        raise UnseeError(
            "the likelihood of an answer of no tokens: give an answer with words in it. `unsee data check` lists "
            "a benchmark's empty answers."
        )
    return answer


class Names:
    """Finds names in answers: as whole words, whatever their case, the longest where one lies within another."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_start: dict[str, list[tuple[list[str], str]]] = {}
        for name in sorted(names, key=lambda n: (-len(words(n)), n)):
            if spelt := words(name):
                self._by_start.setdefault(spelt[0], []).append((spelt, name))

    def others(self, given: str, truth: str = "") -> list[str]:
        """Those named in the answer beside ``truth``, each once, in their order. Only full names count."""
        said = [word.removesuffix("'s") for word in words(given)]
        own = words(truth)
        found: dict[str, None] = {}
        start = 0
        while start < len(said):
            named = [(spelt, name) for spelt, name in self._by_start.get(said[start], []) if _at(said, start, spelt)]
            if own and _at(said, start, own) and (not named or len(own) >= len(named[0][0])):
                start += len(own)
            elif named:
                found[named[0][1]] = None
                start += len(named[0][0])
            else:
                start += 1
        return list(found)


def _at(said: list[str], start: int, spelt: list[str]) -> bool:
    return said[start : start + len(spelt)] == spelt
