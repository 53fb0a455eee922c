"""When a request counts as done, and how strict it is until then: both told by the history alone."""

from __future__ import annotations

import pytest

from unsee.config import ForgetConfig
from unsee.forgetting.schedule import CHECK, PULL, behind, eased, forgotten_at, pulled
from unsee.forgetting.step_size import largest_rate

CONFIG = ForgetConfig(steps=300, stop=0.3)


def history(*left: float, most: bool = False) -> list[dict[str, float]]:
    """A line a step, with a look at the held-back views every CHECK steps; ``most``: at two concepts."""
    lines = [{"step": float(n + 1)} for n in range(len(left) * CHECK)]
    for n, share in enumerate(left, start=1):
        lines[n * CHECK - 1] |= {"left": share / 2, "most": share} if most else {"left": share}
    return lines


@pytest.mark.parametrize(
    ("left", "share"),
    [
        ((), 1.0),
        ((0.7,), 1.0),  # nine looks are left before the rate falls, and a quarter of this pace is enough
        ((0.9,), 0.5),
        ((0.9, 0.8), 0.25),
        ((0.9, 0.6), 0.5),  # eased once, and now on course
        ((0.7, 0.5, 0.6), 0.5),  # coming back is off course
        ((0.9, 0.2), 0.5),  # there
    ],
)
def test_the_penalty_is_halved_at_each_look_that_is_off_course(left, share):
    assert eased(history(*left), CONFIG) == share


@pytest.mark.parametrize(
    ("left", "looks", "share"),
    [((), 0, 1.0), ((0.7, 0.5), 0, 1.0), ((0.9,), 1, 1.0), ((0.9, 0.6), 1, 1.0), ((0.9, 0.8), 2, 0.5)],
)
def test_the_blocks_join_a_projector_that_is_off_course_before_anything_is_eased(left, looks, share):
    assert behind(history(*left), CONFIG) == looks
    assert eased(history(*left), CONFIG, joined=looks > 0) == share


def test_without_a_stop_there_is_no_course():
    assert eased(history(1.0, 1.0), ForgetConfig(stop=0)) == 1.0
    assert forgotten_at(history(0.1), ForgetConfig(stop=0)) == 0


def test_the_target_has_left_at_the_first_look_under_the_stop():
    assert forgotten_at(history(0.6, 0.4), CONFIG) == 0
    assert forgotten_at(history(0.6, 0.29, 0.5), CONFIG) == 2 * CHECK


def test_the_concept_that_shows_most_has_to_leave_too():
    lags, there = ({"step": 20.0, "left": 0.2, "most": most} for most in (0.6, 0.4))
    config = ForgetConfig(steps=300, stop=0.3, most_left=0.5)
    assert forgotten_at([lags], config) == 0 and forgotten_at([there], config) == 20
    stays = [{"step": step, "left": 0.2, "most": 0.6} for step in (20.0, 40.0)]
    assert behind(stays[:1], config) == 0 and behind(stays, config) == 1


@pytest.mark.parametrize(
    ("most", "looks"),
    [
        ((), 0),
        ((0.9, 0.8), 0),  # on the way: of 150 steps the looks at 20 and 40 do not count
        ((0.9, 0.8, 0.5), 1),
        ((0.9, 0.8, 0.3, 0.31, 0.29), 1),
        ((0.9, 0.8, 0.5, 0.4, 0.35), 3),
    ],
)
def test_the_pull_grows_at_each_look_at_which_a_concept_shows_too_much(most, looks):
    shown = history(*most, most=True)
    assert pulled(shown, ForgetConfig(steps=150, leave=0.3)) == PULL**looks
    assert pulled(shown, ForgetConfig(steps=150)) == 1


@pytest.mark.parametrize("power", [2.0, 3.0, 4.0])
def test_the_largest_rate_that_moves_little_enough_is_found(power):
    def moved(rate):
        return (rate / 1e-3) ** power

    found = largest_rate(0.03, 0.005, moved)
    assert 0.25 * 0.005 <= moved(found) <= 0.005
    assert largest_rate(1e-6, 0.005, moved) == 1e-6
    assert largest_rate(0.03, 0.005, lambda rate: float("nan")) == 0.03
