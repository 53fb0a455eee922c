"""Membership attacks, against hand-made likelihoods and scikit-learn."""

import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from unsee.errors import UnseeError
from unsee.evaluation.answer import scaled
from unsee.evaluation.ask import Likelihood
from unsee.evaluation.membership import auc, loss, min_k, min_k_plus_plus, privacy, reference, surprises, zlib_loss


def likely(*logprobs: float) -> Likelihood:
    return Likelihood(logprobs, (True,) * len(logprobs))


@pytest.mark.parametrize(
    ("logprobs", "k", "expected"),
    [
        ((-1.0,), 0.2, 1), ((-1.0, -3.0), 0.2, 3), ((-1.0, -3.0, -2.0), 0.2, 3), ((-1.0,) * 9 + (-5.0,), 0.2, 3),
        ((-1.0, -2.0, -3.0, -4.0), 0.5, 3.5), ((-1.0, -2.0, -3.0, -4.0), 0.6, 3.5), ((-1.0, -2.0, -3.0, -4.0), 1, 2.5),
        ((0.0, 0.0), 0.5, 0), ((-1.0, -2.0, -3.0), 0.34, 3), ((-4.0, -3.0, -2.0, -1.0), 0.25, 4),
    ],
)  # fmt: skip
def test_min_k(logprobs: tuple[float, ...], k: float, expected: float) -> None:
    assert min_k(likely(*logprobs), k) == pytest.approx(expected)


def test_all_of_the_tokens_are_the_loss() -> None:
    answer = likely(-0.5, -2.5, -0.1)
    assert min_k(answer, 1) == pytest.approx(loss(answer))


def test_min_k_of_no_share_is_refused() -> None:
    for k in (0, -0.2, 1.5):
        with pytest.raises(UnseeError, match="Min-K"):
            min_k(likely(-1.0), k)
    with pytest.raises(UnseeError, match="no tokens"):
        min_k(likely())


@pytest.mark.parametrize("text", ["", "Alba", "Alba Ashafel was born in Arden", "a" * 500, "東京", " "])
def test_zlib(text: str) -> None:
    assert zlib_loss(likely(-2.0, -4.0), text) == pytest.approx(3 / len(zlib.compress(text.encode())))


def test_reference_is_what_the_other_model_did_not_lose() -> None:
    assert reference(likely(-1.0, -2.0), likely(-3.0)) == pytest.approx(-1.5)


def test_surprises_are_in_the_order_of_the_answers() -> None:
    answers, texts = [likely(-1.0), likely(-2.0, -4.0)], ["Alba", "Bel Ostford"]
    got = surprises(answers, texts)
    assert list(got) == ["loss", "min_k", "zlib"]
    assert got["loss"] == [1, 3] and got["min_k"] == [1, 4]
    assert surprises(answers, texts, without=[likely(-5.0)] * 2)["reference"] == [-4, -2]


def test_min_k_plus_plus_by_hand() -> None:
    """Of two words with 0.8 and 0.2 the logarithms are d = ln 4 apart: mean ln 0.8 − 0.2 d, standard deviation 0.4 d.

    The likelier is 0.2 d above the mean, so half a deviation, the other 0.8 d below, so two. Of 0.9 and 0.1 the
    deviation is 0.3 d: a third above, three below.
    """
    logs = torch.tensor([[0.8, 0.2], [0.2, 0.8], [0.9, 0.1]]).log()
    found = scaled(logs, logs[:, 0]).tolist()
    assert found == pytest.approx([0.5, -2, 1 / 3], rel=1e-4)
    answer = Likelihood(tuple(logs[:, 0].tolist()), (True, False, True), tuple(found))
    assert min_k_plus_plus(answer) == pytest.approx(2, rel=1e-4)  # of three tokens the one that surprises most
    assert min_k_plus_plus(answer, 0.7) == pytest.approx((2 - 1 / 3) / 2, rel=1e-4)
    got = surprises([answer], ["a b c"])
    assert list(got) == ["loss", "min_k", "zlib", "min_k++"] and got["min_k++"] == [min_k_plus_plus(answer)]


def test_a_word_that_is_sure_is_no_surprise() -> None:
    logs = torch.tensor([[0.0, -math.inf], [-1e-9, -30.0]])
    assert scaled(logs, logs[:, 0]).tolist() == pytest.approx([0, 0], abs=1e-3)


def test_the_end_of_a_turn_is_no_token_of_min_k() -> None:
    """Of (1, 2, 9) the 9 is the end: loss 4, of the two others the larger, and zlib by the loss."""
    answer = Likelihood((-1.0, -2.0, -9.0), (True,) * 3, (-0.5, -0.25, -9.0))
    got = surprises([answer], ["ab"], ended=True)
    size = len(zlib.compress(b"ab"))
    assert got == {"loss": [4], "min_k": [2], "zlib": [4 / size], "min_k++": [0.5]}


def whose(values: list[float]) -> list[str]:
    return [f"c{i % 5}" for i in range(len(values))]


def test_auc_by_hand() -> None:
    taught, not_taught = [1.0, 2.0, 3.0], [2.0, 4.0]
    got = auc(taught, not_taught, ["a", "b", "c"], ["d", "e"])
    assert got["value"] == pytest.approx(4.5 / 6, abs=1e-6)  # of six pairs four are in order, and one is equal
    assert got["score"] == pytest.approx(0.5) and got["n"] == 3
    assert auc([1.0, 2.0], [3.0, 4.0], ["a", "b"], ["a", "b"])["score"] == 0
    assert auc([3.0, 4.0], [1.0, 2.0], ["a", "b"], ["a", "b"])["value"] == 0


numbers = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=15)


@given(numbers, numbers)
def test_auc_is_scikit_learns_whichever_way_round(ours: list[float], others: list[float]) -> None:
    got = auc(ours, others, whose(ours), whose(others), draws=20)
    truth = [1] * len(ours) + [0] * len(others)
    assert got["value"] == pytest.approx(roc_auc_score(truth, [-v for v in ours + others]), abs=1e-6)
    back = auc(others, ours, whose(others), whose(ours), draws=20)
    assert got["value"] + back["value"] == pytest.approx(1, abs=2e-6)
    assert got["score"] == pytest.approx(back["score"], abs=1e-5)
    assert 0 <= got["low"] <= got["value"] <= got["high"] <= 1 and 0 <= got["score"] <= 1


def test_the_same_likelihoods_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=60).tolist()
    got = auc(values, values, whose(values), whose(values))
    assert (got["low"], got["value"], got["high"], got["score"]) == (0.5, 0.5, 0.5, 1)  # whichever concepts are drawn
    same = auc([1.0, 1.0], [1.0, 1.0], ["a", "b"], ["c", "d"])
    assert (same["low"], same["value"], same["high"]) == (0.5, 0.5, 0.5)


def test_the_interval_draws_concepts_and_is_repeatable() -> None:
    rng = np.random.default_rng(1)
    concepts = [f"c{i}" for i in range(12) for _ in range(10)]
    known = np.repeat(rng.normal(0, 1, 12), 10)
    ours, others = (known + rng.normal(0, 0.1, 120) - 0.7).tolist(), rng.normal(0, 1, 120).tolist()
    got = auc(ours, others, concepts, concepts)
    assert got == auc(ours, others, concepts, concepts)
    apart = auc(ours, others, [str(i) for i in range(120)], [str(i) for i in range(120)])
    assert got["high"] - got["low"] > 1.5 * (apart["high"] - apart["low"])
    assert got["low"] < got["value"] < got["high"]


def test_where_nothing_differs_the_interval_holds_one_half_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(2), 0
    for _ in range(100):
        ours, others = (np.repeat(rng.normal(0, 1, 20), 4) + rng.normal(0, 1, 80) for _ in "ab")
        names, others_names = ([f"{side}{i}" for i in range(20) for _ in range(4)] for side in "ab")
        got = auc(ours.tolist(), others.tolist(), names, others_names, draws=200)
        hits += got["low"] <= 0.5 <= got["high"]
    assert 86 <= hits <= 99


def test_privacy() -> None:
    assert [privacy(a) for a in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnseeError, match="2 surprises and 1 concept ids"):
        auc([1.0, 2.0], [1.0], ["a"], ["b"])
    for bad in ([], [float("inf")]):
        with pytest.raises(UnseeError, match="values"):
            auc(bad, [1.0], [], ["b"])
