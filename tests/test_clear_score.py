"""CLEAR's rules, on likelihoods made and scored by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import hmean, ks_2samp

from unsee.errors import UnseeError
from unsee.evaluation.ask import Likelihood
from unsee.evaluation.clear_score import (
    among,
    forget_quality,
    forget_truth,
    harmonic,
    log_ratios,
    published_js,
    utility_truth,
)
from unsee.evaluation.metrics import overlap, probability


def likely(*tokens: float) -> Likelihood:
    """An answer whose tokens have these probabilities."""
    return Likelihood(tuple(math.log(p) if p else -math.inf for p in tokens), (True,) * len(tokens))


PROBABILITIES = [
    ((1.0,), 1), ((0.5,), 0.5), ((0.25, 1.0), 0.5), ((0.5, 0.5, 0.5), 0.5), ((0.1, 0.4), 0.2), ((0.8, 0.2), 0.4),
    ((1e-300, 1e-300), 1e-300), ((1.0, 0.001), 0.001**0.5), ((0.0,), 0), ((0.5, 0.0), 0),
]  # fmt: skip


@pytest.mark.parametrize(("tokens", "expected"), PROBABILITIES)
def test_probability_is_that_of_the_mean_loss(tokens: tuple[float, ...], expected: float) -> None:
    assert probability(likely(*tokens)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("true", "wrong", "expected"),
    [
        (0.5, (0.5,), 0.5), (0.6, (0.2, 0.2), 0.6), (0.3, (0.1, 0.1, 0.1), 0.5), (0.9, (0.1,), 0.9),
        (0.2, (0.6,), 0.25),
        (0.0, (0.5,), 0), (0.5, (0.0,), 1), (0.0, (0.0, 0.0, 0.0), 0.25), (1.0, (1.0, 1.0, 1.0), 0.25), (0.5, (), 1),
    ],
)  # fmt: skip
def test_probability_among_answers(true: float, wrong: tuple[float, ...], expected: float) -> None:
    assert among(likely(true), [likely(p) for p in wrong]) == pytest.approx(expected)


RATIOS = [
    # probability of the right answer, of the wrong ones; their ratio by hand; what it counts on forget, what elsewhere
    (0.5, (0.5,), 1, 1, 0),
    (0.8, (0.2,), 4, 0.25, 0.75),
    (0.2, (0.8,), 0.25, 0.25, 0),
    (0.4, (0.1, 0.4), 2, 0.5, 0.5),
    (0.9, (0.1, 0.1, 0.1), 9, 1 / 9, 8 / 9),
    (0.1, (0.4, 0.9), 1 / 6, 1 / 6, 0),
    (0.3, (0.1, 0.9), 1, 1, 0),
    (1.0, (0.01, 0.0001), 1000, 0.001, 0.999),
    (0.5, (0.25, 0.25, 0.25, 0.25), 2, 0.5, 0.5),
    (0.36, (0.09, 0.16), 3, 1 / 3, 2 / 3),
    (1e-200, (1e-100,), 1e-100, 1e-100, 0),
    (1e-100, (1e-200,), 1e100, 1e-100, 1),
]


@pytest.mark.parametrize(("right", "wrong", "ratio", "on_forget", "elsewhere"), RATIOS)
def test_truth_ratio(right: float, wrong: tuple[float, ...], ratio: float, on_forget: float, elsewhere: float) -> None:
    (got,) = log_ratios([likely(right)], [[likely(p) for p in wrong]])
    assert math.exp(got) == pytest.approx(ratio)
    assert forget_truth(got) == pytest.approx(on_forget)
    assert utility_truth(got) == pytest.approx(elsewhere, abs=1e-12)


def test_longer_answers_are_measured_per_token() -> None:
    (got,) = log_ratios([likely(0.5, 0.5, 0.5)], [[likely(0.1, 0.4), likely(0.2)]])
    assert math.exp(got) == pytest.approx(0.5 / 0.2)


def test_the_published_code_compares_with_the_wrong_answers_of_all_items() -> None:
    right = [likely(0.5), likely(0.1)]
    wrong = [[likely(0.5), likely(0.5)], [likely(0.02), likely(0.02)]]
    assert np.exp(log_ratios(right, wrong)) == pytest.approx([1, 5])
    assert np.exp(log_ratios(right, wrong, published=True)) == pytest.approx([5, 1])  # all wrong ones: 0.1 on average


def test_truth_ratio_without_wrong_answers_is_refused() -> None:
    with pytest.raises(UnseeError, match="1 of them empty"):
        log_ratios([likely(0.5)], [[]])
    with pytest.raises(UnseeError, match="2 right answers and 1 lists"):
        log_ratios([likely(0.5), likely(0.5)], [[likely(0.5)]])


def test_the_weights_of_a_hopeless_model_do_not_overflow() -> None:
    assert forget_truth(1e6) == 0 and forget_truth(-1e6) == 0
    assert utility_truth(1e6) == 1 and utility_truth(-1e6) == 0
    assert published_js([1e6, 0], [1e6, 0]) == 0


@given(st.floats(-50, 50))
def test_truth_figures_lie_between_0_and_1(ratio: float) -> None:
    assert 0 <= forget_truth(ratio) <= 1 and 0 <= utility_truth(ratio) <= 1
    assert forget_truth(ratio) == forget_truth(-ratio)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ([0.5], 0.5), ([0.5, 0.5, 0.5, 0.5], 0.5), ([1, 0.5], 2 / 3), ([0.2, 0.8], 0.32), ([0.9, 0], 0), ([0, 0], 0),
        ([0.3, 0.6, 0.6, 0.6], 0.48), ([1, 1, 1], 1),
    ],
)  # fmt: skip
def test_harmonic_mean(figures: list[float], expected: float) -> None:
    assert harmonic(figures) == pytest.approx(expected)
    assert harmonic(figures) == pytest.approx(float(hmean(figures)))


def test_harmonic_mean_of_nothing_is_refused() -> None:
    for bad in ([], [0.5, -0.1]):
        with pytest.raises(UnseeError, match="harmonic mean"):
            harmonic(bad)


def test_forget_quality_is_that_of_scipy_and_does_not_care_for_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    ours, gold = rng.normal(0, 1, 60), rng.normal(1, 1, 50)
    got, theirs = forget_quality(ours.tolist(), gold.tolist()), ks_2samp(np.exp(ours), np.exp(gold))
    assert got["distance"] == pytest.approx(theirs.statistic, abs=1e-6)
    assert got["p"] == pytest.approx(theirs.pvalue, rel=1e-5)
    assert got["log_p"] == pytest.approx(math.log(theirs.pvalue), rel=1e-5)
    assert forget_quality([1, 2, 3], [1, 2, 3]) == {"distance": 0, "p": 1, "log_p": 0}


def test_forget_quality_of_a_p_too_small_for_a_float() -> None:
    got = forget_quality([0.0] * 2000, [1.0] * 2000)
    assert got["distance"] == 1 and math.isfinite(got["log_p"]) and got["log_p"] < -700


def test_published_js_is_that_of_scipy_on_the_ratios() -> None:
    ours, gold = [0.5, -1.0, 2.0], [1.0, 0.0, -0.5]
    assert published_js(ours, gold) == pytest.approx(float(jensenshannon(np.exp(ours), np.exp(gold))), abs=1e-6)
    assert published_js([0, -900], [-900, 0]) == pytest.approx(math.log(2) ** 0.5, abs=1e-6)
    with pytest.raises(UnseeError, match="2 truth ratios and 1 of gold"):
        published_js([0, 1], [0])


@pytest.mark.parametrize(
    ("truth", "said", "recall"),
    [
        ("Alba Ashafel", "Alba Ashafel", 1), ("Alba Ashafel", "This is Alba Ashafel, a baker.", 1),
        ("Alba", "alba!", 1),
        ("Alba Ashafel", "Ashafel, Alba", 0.5), ("Alba Ashafel", "Alba", 0.5), ("Alba Ashafel", "", 0),
        ("a man in a red coat", "a man in a blue coat", 5 / 6), ("a man in a red coat", "the coat", 1 / 6),
        ("a man in a red coat", "coat red a in man a", 0.5), ("東京", "東京", 0), ("B.", "(b)", 1), ("x", "   ", 0),
    ],
)  # fmt: skip
def test_recall_does_not_mind_what_else_is_said(truth: str, said: str, recall: float) -> None:
    assert overlap(truth, said).recall == pytest.approx(recall)
