"""The p of swapped concepts: that of all swaps counted, honest where it is drawn, and small enough for many figures."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.comparison.significance import swapped
from unsee.evaluation import swaps
from unsee.evaluation.statistics import holm, paired
from unsee.evaluation.swaps import swap_p

SIZES = st.one_of(
    st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=9),
    st.lists(st.floats(-2, 2).map(lambda x: round(x, 3)), min_size=1, max_size=9),
    st.lists(st.sampled_from([0.1, 0.2, 0.3, -0.3, 0.7]), min_size=1, max_size=9),  # sums that tie but for rounding
)


def p_of(sums: list[float] | np.ndarray, seed: int = 0, draws: int = 2000, most: int = 20_000) -> float:
    return swap_p(np.asarray(sums, float), np.random.default_rng(seed), draws, most)


def enumerated(sums: list[float]) -> float:
    far = [abs(sum(s * e for s, e in zip(sums, signs, strict=True)))
           for signs in itertools.product((-1, 1), repeat=len(sums))]  # fmt: skip
    return float(np.mean(np.array(far) >= abs(sum(sums)) - 1e-9))


@given(SIZES)
def test_it_is_that_of_all_ways_to_swap(sums: list[float]) -> None:
    assert p_of(sums) == pytest.approx(enumerated(sums), rel=1e-12)


@given(st.lists(st.integers(-4, 9), min_size=1, max_size=26), st.sampled_from([1.0, 1 / 3, 0.07, 25.0]))
def test_both_ways_to_count_give_the_same(whole: list[int], unit: float) -> None:
    sums = np.array(whole) * unit
    built = p_of(sums)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swaps, "LATTICE", 0)
        assert p_of(sums) == pytest.approx(built, rel=1e-12)


def test_rounding_is_no_difference() -> None:
    noise = np.array([0.1 + 0.2 - 0.3] * 20)
    assert p_of(noise) == p_of(noise * 1e-300) == 1
    assert p_of([*noise, 1.0, 1.0, 1.0]) == p_of([1.0, 1.0, 1.0]) == 0.25


@given(SIZES, st.randoms(use_true_random=False))
def test_order_direction_and_seed_do_not_matter_where_all_are_counted(sums: list[float], random) -> None:
    mixed = list(sums)
    random.shuffle(mixed)
    assert p_of(mixed) == pytest.approx(p_of(sums), rel=1e-12) == p_of([-s for s in sums], seed=1)


def test_a_drawn_p_is_near_the_counted_one_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for shift in (0.1, 0.4, 0.7):
        sums = rng.normal(shift, 1, 30)
        counted = p_of(sums)
        with monkeypatch.context() as patch:
            patch.setattr(swaps, "COUNTED", 0)
            drawn = p_of(sums, most=200_000)
            assert drawn == pytest.approx(counted, rel=0.4) and drawn == p_of(sums, most=200_000)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("concepts", [7, 40])
def test_where_nothing_changed_p_is_small_no_more_often_than_it_says(whole: bool, concepts: int) -> None:
    rng = np.random.default_rng(concepts)
    noise = rng.normal(0, 3, (1000, concepts))
    found = np.array([p_of(row, seed, 200, 5000) for seed, row in enumerate(np.rint(noise) if whole else noise)])
    for level in (0.01, 0.02, 0.05, 0.25, 0.5):
        assert (found <= level).mean() <= level + 3 * (level * (1 - level) / len(found)) ** 0.5


def test_a_bound_is_no_smaller_than_what_it_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(1).normal(1, 0.1, 30)
    counted = p_of(sums)
    monkeypatch.setattr(swaps, "COUNTED", 0)
    monkeypatch.setattr(swaps, "SURE", 1e-5)
    assert 0 < counted <= p_of(sums) < 1e-5 and p_of(sums, seed=1) == p_of(sums)


@pytest.mark.parametrize(("figures", "whole"), [(50, True), (101, True), (101, False), (300, True)])
def test_of_many_figures_what_is_sure_keeps_all_its_stars(figures: int, whole: bool) -> None:
    rng, clusters = np.random.default_rng(2), [f"c{i // 4}" for i in range(160)]
    before = rng.integers(0, 2, 160) if whole else rng.random(160)
    lost = before * (rng.random(160) < 0.3)
    p = paired(before.tolist(), lost.tolist(), clusters)["p"]
    assert 0 < holm([p] * figures)[0] < 0.001
    assert 0 < holm(swapped([lost - before], clusters) * figures)[0] < 0.001


def test_of_a_thousand_concepts_p_is_still_above_0() -> None:
    assert 0 < p_of([1.0] * 1500) < 1e-300
    assert paired([1.0] * 1500, [0.0] * 1500, [f"{i}" for i in range(1500)])["p"] > 0


def test_what_is_told_of_an_interval_is_as_it_was_before_swaps_were_counted() -> None:
    """The interval's draws come first, whatever is drawn for p."""
    values, clusters = np.random.default_rng(3).random(60), [f"c{i // 3:02}" for i in range(60)]
    got = paired(values.tolist(), values[::-1].tolist(), clusters)
    assert (got["value"], got["low"], got["high"], got["n"]) == (0.0, -0.059187, 0.057637, 60)
