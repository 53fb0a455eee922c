"""One solve of the last layer: the minimum of what the loop minimises, and what it leaves where it does not serve."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unsee
from unsee import ForgetConfig, load_visual, read_folder
from unsee.forgetting.closed_form import LeastSquares


def problem(seed: int, width: int = 5, out: int = 3) -> tuple[LeastSquares, torch.Tensor, torch.Tensor]:
    """Of random inputs, and these: x [n, d] and y [n, out]."""
    torch.manual_seed(seed)
    x, y, stays = (torch.randn(12, n, dtype=torch.float64) for n in (width, out, width))
    return LeastSquares(x.T @ x / len(x), y.T @ x / len(x), stays.T @ stays / len(stays)), x, y


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), hold=st.floats(1e-3, 1e3))
def test_no_other_change_costs_less(seed, hold):
    squares, x, y = problem(seed)
    found = squares.change(hold)
    unit = squares.goes.diagonal().mean() / squares.stays.diagonal().mean()
    ridge = 1e-2 * squares.stays.diagonal().mean() * torch.eye(5).double()

    def cost(change: torch.Tensor) -> float:
        wrong = (x @ change.T - y).square().sum(1).mean()
        return float(wrong + hold * unit * torch.trace(change @ (squares.stays + ridge) @ change.T))

    assert all(cost(found) <= cost(found + 1e-2 * torch.randn_like(found)) for _ in range(8))


def test_the_strictest_that_is_enough_is_found():
    squares, x, y = problem(0)

    def done(change: torch.Tensor) -> float:
        return float((x @ change.T * y).sum() / y.square().sum())

    most = done(squares.change(1e-6))
    found = squares.strictest(lambda change: done(change) > most / 2)
    assert found is not None and most / 2 < done(found) < 1.01 * most / 2
    assert squares.strictest(lambda change: done(change) > 1.01 * most) is None


@pytest.fixture(scope="module")
def sets(images) -> dict[str, list[unsee.Concept]]:
    first, *others = read_folder(images / "known").concepts
    return {"forget": [first], "retain": others, "neutral": list(read_folder(images / "neutral").concepts)}


def test_a_request_that_one_solve_serves_takes_no_step(checkpoint, sets):
    config = ForgetConfig(solve=10, stop=0.95, most_left=0.95)
    one, two = (unsee.forget(load_visual(checkpoint), **sets, config=config) for _ in range(2))
    (look,) = one.history
    assert one.forgotten and 0.9 * 0.95 < look["left"] < 0.95 and 0 < look["drift"] <= 10
    assert one.stopped.endswith("after one solve of the last layer")
    assert [n for n, d in one.delta.items() if d.any()] == list(one.delta)[-1:]
    assert all(torch.equal(two.delta[n], d) for n, d in one.delta.items())


def test_where_a_solve_moves_too_much_the_steps_begin_as_if_there_had_been_none(checkpoint, sets, capsys):
    config = ForgetConfig(steps=2, batch=4, stop=0.95, most_left=0.95)
    without, tried = (
        unsee.forget(load_visual(checkpoint), **sets, config=replace(config, solve=solve)) for solve in (0, 1e-12)
    )
    assert "alone, solved in closed form, moves what stays by" in capsys.readouterr().err
    assert len(tried.history) == len(without.history) == 2
    assert all(torch.equal(tried.delta[n], d) for n, d in without.delta.items())
