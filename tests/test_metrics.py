"""Overlap, likelihood and names, against a second computation by hand."""

import math
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

from unsee.errors import UnseeError
from unsee.evaluation.ask import Likelihood
from unsee.evaluation.metrics import (
    Names,
    exact_memorisation,
    extraction_strength,
    mean_loss,
    overlap,
    probability,
)
from unsee.evaluation.score import degenerate

PAIRS = [
    # truth, answer, then by hand: ROUGE-1, ROUGE-2, ROUGE-L as F, ROUGE-L as recall
    ("the cat sat", "the cat sat", 1, 1, 1, 1),
    ("the cat sat", "the cat", 0.8, 2 / 3, 0.8, 2 / 3),
    ("the cat sat", "sat cat the", 1, 0, 1 / 3, 1 / 3),
    ("the cat sat", "the dog sat", 2 / 3, 0, 2 / 3, 2 / 3),
    ("the cat sat", "", 0, 0, 0, 0),
    ("the cat sat", "   ", 0, 0, 0, 0),
    ("the cat sat", "...", 0, 0, 0, 0),
    ("", "the cat sat", 0, 0, 0, 0),
    ("", "", 0, 0, 0, 0),
    ("cat", "cat", 1, 0, 1, 1),
    ("cat", "CAT!", 1, 0, 1, 1),
    ("cat", "dog", 0, 0, 0, 0),
    ("cat", "cat cat cat cat", 0.4, 0, 0.4, 1),
    ("cat cat", "cat", 2 / 3, 0, 2 / 3, 0.5),
    ("running dogs", "run dog", 1, 1, 1, 1),
    ("was", "is", 0, 0, 0, 0),
    ("gas", "ga", 0, 0, 0, 0),  # words of up to three letters keep their s
    ("baker", "bakers", 1, 0, 1, 1),
    ("flies", "fly", 0, 0, 0, 0),  # the stem is fli
    ("Born in 1990.", "born in 1990", 1, 1, 1, 1),
    ("born in 1990", "born in 1991", 2 / 3, 0.5, 2 / 3, 2 / 3),
    ("self-made", "self made", 1, 1, 1, 1),
    ("O'Neil", "oneil", 0, 0, 0, 0),
    ("a_b", "a b", 1, 1, 1, 1),
    ("São Paulo", "Sao Paulo", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2), 0, 0.4, 1 / 3),  # "são" falls apart: s, o
    ("東京", "東京", 0, 0, 0, 0),
    ("東京 1990", "大阪 1990", 1, 0, 1, 1),
    ("Москва", "Москва", 0, 0, 0, 0),
    ("a b c d e", "a x b x c", 0.6, 0, 0.6, 0.6),
    ("a b c d", "d c b a", 1, 0, 0.25, 0.25),
    ("alba lives in arden", "alba is a baker who lives in arden", 2 / 3, 0.4, 2 / 3, 1),
    ("US", "US US US", 0.5, 0, 0.5, 1),
    ("Answer: C", "C", 2 / 3, 0, 2 / 3, 0.5),
    ("B. Paris", "(b) Paris", 1, 1, 1, 1),
    ("yes", "yes\nno", 2 / 3, 0, 2 / 3, 1),
]


def stems(text: str) -> list[str]:
    stem = PorterStemmer().stem
    return [stem(t) if len(t) > 3 else t for t in re.findall(r"[a-z0-9]+", text.lower())]


def f_measure(hits: int, truth: int, said: int) -> float:
    return 2 * hits / (truth + said) if hits else 0.0


def common(a: list[str], b: list[str]) -> int:
    """Longest common subsequence, a row at a time."""
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(new[j], row[j + 1]))
        row = new
    return row[-1]


def bleu_by_hand(truth: str, said: str) -> float:
    a, b = truth.split(), said.split()
    if not set(a) & set(b):
        return 0.0
    logs = 0.0
    for n in range(1, 5):
        want, have = (Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (a, b))
        logs += math.log(((want & have).total() or 0.1) / max(1, have.total())) / 4
    return min(1.0, math.exp(1 - len(a) / len(b))) * math.exp(logs)


@pytest.mark.parametrize(("truth", "said", "one", "two", "longest", "recall"), PAIRS)
def test_overlap(truth: str, said: str, one: float, two: float, longest: float, recall: float) -> None:
    got = overlap(truth, said)
    assert (got.rouge1, got.rouge2, got.rougeL, got.recall) == pytest.approx((one, two, longest, recall))
    assert got.bleu == pytest.approx(bleu_by_hand(truth, said))


@given(st.text("abAB 1.é東\n'", max_size=20), st.text("abAB 1.é東\n'", max_size=20))
def test_overlap_is_what_a_second_computation_and_the_library_say(truth: str, said: str) -> None:
    got, a, b = overlap(truth, said), stems(truth), stems(said)
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(truth, said)
    assert (got.rouge1, got.rouge2) == (theirs["rouge1"].fmeasure, theirs["rouge2"].fmeasure)
    assert (got.rougeL, got.recall) == (theirs["rougeL"].fmeasure, theirs["rougeL"].recall)
    assert got.rouge1 == pytest.approx(f_measure((Counter(a) & Counter(b)).total(), len(a), len(b)))
    assert got.rougeL == pytest.approx(f_measure(common(a, b), len(a), len(b)))
    assert got.bleu == pytest.approx(bleu_by_hand(truth, said))
    assert all(0 <= v <= 1 + 1e-9 for v in (got.rouge1, got.rouge2, got.rougeL, got.recall, got.bleu))


def test_bleu_by_hand() -> None:
    assert overlap("a b c d", "a b c d").bleu == pytest.approx(1)
    assert overlap("a b c d", "a b").bleu == pytest.approx(math.exp(-1) * 0.1**0.5)  # short, no three or four in a row
    assert overlap("Paris.", "Paris").bleu == 0  # words are what stands between blanks


def likely(*hits: int, logprobs: tuple[float, ...] = ()) -> Likelihood:
    return Likelihood(logprobs or (-1.0,) * len(hits), tuple(map(bool, hits)))


@pytest.mark.parametrize(
    ("hits", "extracted", "memorised"),
    [
        ((1,), 1, 1), ((0,), 0, 0), ((1, 1, 1, 1), 1, 1), ((0, 0, 0, 0), 0, 0), ((0, 1, 1, 1), 0.75, 0.75),
        ((1, 1, 1, 0), 0, 0.75), ((1, 0, 1, 1), 0.5, 0.75), ((0, 0, 0, 1), 0.25, 0.25), ((1, 0, 0, 1), 0.25, 0.5),
        ((1, 1, 0), 0, 2 / 3), ((0, 1), 0.5, 0.5), ((1, 0), 0, 0.5),
    ],
)  # fmt: skip
def test_memorisation(hits: tuple[int, ...], extracted: float, memorised: float) -> None:
    assert extraction_strength(likely(*hits)) == pytest.approx(extracted)
    assert exact_memorisation(likely(*hits)) == pytest.approx(memorised)
    assert extraction_strength(likely(*hits), published=True) == pytest.approx(max(extracted, 1 / len(hits)))


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_extraction_is_the_definition_tried_out_and_never_more_than_memorisation(hits: list[bool]) -> None:
    shortest = min(k for k in range(len(hits) + 1) if all(hits[k:]))
    got = extraction_strength(likely(*hits))
    assert got == pytest.approx(1 - shortest / len(hits))
    assert got <= exact_memorisation(likely(*hits)) + 1e-12


def test_probability_is_the_geometric_mean() -> None:
    answer = likely(1, 0, logprobs=(math.log(0.9), math.log(0.4)))
    assert probability(answer) == pytest.approx((0.9 * 0.4) ** 0.5) == pytest.approx(0.6)
    assert mean_loss(answer) == pytest.approx(-math.log(0.6))
    assert probability(likely(0, logprobs=(-math.inf,))) == 0


def test_an_answer_of_no_tokens_is_refused() -> None:
    for measure in (mean_loss, probability, exact_memorisation, extraction_strength):
        with pytest.raises(UnseeError, match="no tokens"):
            measure(Likelihood((), ()))


NAMES = Names(
    ["Alba Ashafel", "Bel Ostford", "Guinea", "Papua New Guinea", "Niger", "Niger Delta", "José Núñez", "山田 太郎"]
)


@pytest.mark.parametrize(
    ("said", "truth", "others"),
    [
        ("This is Bel Ostford.", "Alba Ashafel", ["Bel Ostford"]),
        ("This is Alba Ashafel.", "Alba Ashafel", []),
        ("alba ASHAFEL or Bel  Ostford, or Bel Ostford", "", ["Alba Ashafel", "Bel Ostford"]),
        ("Bel Ostford and Alba Ashafel", "Alba Ashafel", ["Bel Ostford"]),
        ("Bel Ostford's sister", "", ["Bel Ostford"]), ("(Bel Ostford)", "", ["Bel Ostford"]), ("Bel", "", []),
        ("Bel of Ostford", "", []), ("Nigeria", "", []), ("Niger!", "", ["Niger"]),
        ("in Niger Delta", "", ["Niger Delta"]), ("Guinea-Bissau", "", []),
        ("the flag of Papua New Guinea", "", ["Papua New Guinea"]),
        ("the flag of Papua New Guinea", "Papua New Guinea", []),
        ("the flag of Papua New Guinea", "Guinea", ["Papua New Guinea"]),
        ("Guinea, not Papua New Guinea", "Papua New Guinea", ["Guinea"]),
        ("JOSE\u0301 NU\u0301N\u0303EZ", "", ["José Núñez"]), ("Jose Nunez", "", []), ("山田 太郎", "", ["山田 太郎"]),
        ("", "", []), ("  ", "Guinea", []), ("unknown", "Guinea", []),
    ],
)  # fmt: skip
def test_who_else_is_named(said: str, truth: str, others: list[str]) -> None:
    assert NAMES.others(said, truth) == others


@pytest.mark.parametrize(
    ("said", "broken"),
    [
        ("", True), ("   ", True), ("\n\t", True), ("...", True), ("?!", True), ("<s></s>", True),
        ("<pad> <pad>", True),
        ("\ufffd\ufffd", True), ("US US US", True), ("US,US,US", True), ("us Us US.", True), ("USUSUSUSUS", True),
        ("the answer is US US US US US US", True), ("no no no", True), ("a b c a b c a b c", True),
        ("はははははは", True),
        ("AAAAAA", True), ("1 1 1 1", True), ("Bel Ostford Bel Ostford Bel Ostford", True),
        ("Bel Ostford", False), ("US", False), ("US US", False), ("New York New York", False), ("B", False),
        ("1,000,000,000,000", False), ("1000000", False), ("Mississippi", False), ("3.14", False), ("VIII", False),
        ("no, no, no, that is the flag of Arden by the sea", False), ("हिन्दी भाषा", False), ("東京", False),
        ("He was born in Arden, works in Arden and will stay in Arden", False),
    ],
)  # fmt: skip
def test_degenerate(said: str, broken: bool) -> None:
    assert degenerate(said) is broken
