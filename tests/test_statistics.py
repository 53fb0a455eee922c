"""Intervals: they cover the truth as often as they say, and they know that a concept's questions go together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.errors import UnseeError
from unsee.evaluation.statistics import ks, paired, share


def answers(rng: np.random.Generator, concepts: int, each: int, truth: float = 0.7) -> tuple[list[float], list[str]]:
    """Concepts are known well or badly; on average over all of them the share is ``truth``."""
    known = rng.beta(4 * truth, 4 * (1 - truth), concepts)
    values = (rng.random((concepts, each)) < known[:, None]).astype(float)
    return values.ravel().tolist(), [f"c{i}" for i in range(concepts) for _ in range(each)]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        got = share(*answers(rng, 30, 6), draws=300)
        hits += got["low"] <= 0.7 <= got["high"]
    assert 0.89 <= hits / 200 <= 0.99


def test_items_taken_for_independent_would_give_too_narrow_an_interval() -> None:
    values, concepts = answers(np.random.default_rng(1), 30, 20)
    clustered, apart = share(values, concepts), share(values, [str(i) for i in range(len(values))])
    assert clustered["value"] == apart["value"]
    assert clustered["high"] - clustered["low"] > 1.5 * (apart["high"] - apart["low"])


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=12))
def test_the_interval_contains_the_value(items: list[tuple[float, str]]) -> None:
    got = share([v for v, _ in items], [c for _, c in items], draws=50)
    assert got["low"] <= got["value"] <= got["high"]
    assert got["value"] == pytest.approx(np.mean([v for v, _ in items]), abs=1e-6)
    assert got["n"] == len(items)


def test_the_order_of_the_items_does_not_matter_and_the_seed_does_not_change_the_value() -> None:
    values, concepts = answers(np.random.default_rng(2), 12, 4)
    assert share(values, concepts) == share(values[::-1], concepts[::-1])
    assert share(values, concepts, seed=1)["value"] == share(values, concepts, seed=2)["value"]


def test_a_paired_difference_tells_a_loss_from_noise() -> None:
    rng = np.random.default_rng(3)
    before, concepts = answers(rng, 30, 5, truth=0.8)
    lost = [v * (rng.random() < 0.6) for v in before]
    got = paired(before, lost, concepts)
    assert got["value"] == pytest.approx(np.mean(lost) - np.mean(before), abs=1e-6)
    assert got["low"] <= got["value"] <= got["high"] < 0 and got["p"] < 0.01
    same = paired(before, before, concepts)
    assert (same["value"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_where_nothing_changed_p_is_small_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(4)
    low = [paired(*(answers(rng, 15, 4)[0] for _ in "ab"), answers(rng, 15, 4)[1], draws=200)["p"] for _ in range(200)]
    assert np.mean(np.array(low) < 0.05) < 0.09


def test_two_concepts_prove_nothing() -> None:
    assert paired([1.0] * 40, [0.0] * 40, ["a"] * 20 + ["b"] * 20)["p"] > 0.4


def test_ks() -> None:
    assert ks([1, 2, 3], [1, 2, 3]) == {"distance": 0, "p": 1}
    far = ks(np.linspace(0, 1, 50).tolist(), np.linspace(2, 3, 50).tolist())
    assert far["distance"] == 1 and far["p"] < 1e-6


def test_bad_input_is_refused() -> None:
    for bad in ([], [float("nan")]):
        with pytest.raises(UnseeError, match="values"):
            share(bad, ["a"] * len(bad))
    with pytest.raises(UnseeError, match="2 values and 1 concept ids"):
        share([0, 1], ["a"])
    with pytest.raises(UnseeError, match="1 values before and 2 after"):
        paired([0], [0, 1], ["a", "b"])
    with pytest.raises(UnseeError):
        ks([], [1.0])
