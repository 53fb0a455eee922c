"""Intervals: they cover the truth as often as they say, and they know that a concept's questions go together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.errors import UnseeError
from unsee.evaluation.statistics import crossed, holm, js, ks, paired, share


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


def test_js_is_that_of_the_histograms() -> None:
    assert js([1, 2, 3], [1, 2, 3]) == 0 == js([5], [7]) == js([2, 2], [2])  # one value: one bin
    assert js([0, 0, 0, 0], [1, 1, 1, 1]) == 1
    a, b = [0, 0, 0, 1], [0, 1, 1, 1]  # two bins: 3/4, 1/4 and 1/4, 3/4
    expected = (0.75 * np.log2(0.75 / 0.5) + 0.25 * np.log2(0.25 / 0.5)) ** 0.5
    assert js(a, b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:ks_2samp. Exact")  # scipy then takes the limit of large samples
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=30), st.lists(st.floats(-9, 9), min_size=1, max_size=30))
def test_distances_are_symmetric_and_bounded(a: list[float], b: list[float]) -> None:
    assert js(a, b) == js(b, a) and 0 <= js(a, b) <= 1 and js(a, a) == 0
    assert ks(a, b) == ks(b, a) and 0 <= ks(a, b)["distance"] <= 1 and ks(a, a)["distance"] == 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [0.03, 0.06, 0.06, 0.02]
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.02]) == [0.02]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_makes_a_p_smaller_and_keeps_their_order(ps: list[float]) -> None:
    got = holm(ps)
    assert all(p <= q + 1e-6 and q <= 1 for p, q in zip(ps, got, strict=True))
    assert all(got[i] <= got[j] for i in range(len(ps)) for j in range(len(ps)) if ps[i] < ps[j])


def test_the_interval_over_seeds_knows_that_seeds_differ() -> None:
    rng = np.random.default_rng(5)
    _, concepts = answers(rng, 20, 5)
    steady = [rng.random(100) for _ in range(5)]
    moved = [row + shift for row, shift in zip(steady, (-0.4, -0.2, 0, 0.2, 0.4), strict=True)]
    narrow, wide = crossed([r.tolist() for r in steady], concepts), crossed([r.tolist() for r in moved], concepts)
    assert narrow["value"] == pytest.approx(wide["value"], abs=2e-6)
    assert wide["high"] - wide["low"] > 3 * (narrow["high"] - narrow["low"])


def test_the_interval_over_seeds_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(6), 0
    for _ in range(150):
        people, seeds = rng.normal(0, 0.3, 20), rng.normal(0, 0.2, 6)
        rows = seeds[:, None] + np.repeat(people, 3) + rng.normal(0, 0.3, (6, 60))
        got = crossed(rows.tolist(), [str(i // 3) for i in range(60)], draws=300)
        hits += got["low"] <= 0 <= got["high"]
    assert 0.85 <= hits / 150 <= 0.99


def test_bad_input_is_refused() -> None:
    for bad in ([], [float("nan")]):
        with pytest.raises(UnseeError, match="values"):
            share(bad, ["a"] * len(bad))
    with pytest.raises(UnseeError, match="2 values and 1 concept ids"):
        share([0, 1], ["a"])
    with pytest.raises(UnseeError, match="1 values before and 2 after"):
        paired([0], [0, 1], ["a", "b"])
    for distance in (ks, js):
        with pytest.raises(UnseeError):
            distance([], [1.0])
    with pytest.raises(UnseeError, match="no seeds"):
        crossed([], [])
