"""One solve of the last layer: the minimum of what the loop minimises, and what it leaves where it does not serve."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unsee
from unsee import ForgetConfig, load_visual, read_folder
from unsee.forgetting.closed_form import HOLD, RIDGE, LeastSquares
from unsee.forgetting.penalty import Settled, beyond


def problem(seed: int, width: int = 5, out: int = 3) -> tuple[LeastSquares, torch.Tensor, torch.Tensor]:
    """Of random inputs of two concepts, and these: x [2, n, d]; y [2, out] is taken off the features of each."""
    torch.manual_seed(seed)
    x, stays = (torch.randn(*shape, width, dtype=torch.float64) for shape in ((2, 12), (12,)))
    y, earlier = torch.randn(2, 1, out, dtype=torch.float64), torch.randn(out, width, dtype=torch.float64)
    rows = x.flatten(0, 1)
    squares = LeastSquares(rows.T @ rows / 24, y, x.sum(1, keepdim=True) / 24, stays.T @ stays / 12, earlier)
    return squares, x, y


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_other_change_costs_less(seed):
    squares, x, y = problem(seed)
    factors = torch.tensor([0.7, 1.6]).double()
    found = squares.change(factors)
    unit = squares.goes.diagonal().mean() / squares.stays.diagonal().mean()
    held = squares.stays + RIDGE * squares.stays.diagonal().mean() * torch.eye(5).double()

    def cost(change: torch.Tensor) -> float:
        wrong = (x @ change.T + factors[:, None, None] * y).square().sum(2).mean()
        return float(wrong + torch.trace(change @ (HOLD * unit * held @ change.T - 2 * squares.earlier.T)))

    assert all(cost(found) <= cost(found + 1e-2 * torch.randn_like(found)) for _ in range(8))


@pytest.fixture(scope="module")
def sets(images) -> dict[str, list[unsee.Concept]]:
    one, two, *others = read_folder(images / "known").concepts
    return {"forget": [one, two], "retain": others, "neutral": list(read_folder(images / "neutral").concepts)}


def test_a_request_that_one_solve_serves_takes_no_step(checkpoint, sets):
    config = ForgetConfig(solve=10, stop=0.95, most_left=0.95)
    one, two = (unsee.forget(load_visual(checkpoint), **sets, config=config) for _ in range(2))
    (look,) = one.history
    assert one.forgotten and all(left == pytest.approx(0.88 * 0.95, abs=0.02) for left in one.left.values())
    assert 0 < look["drift"] <= 10
    assert one.stopped.endswith("after one solve of the last layer")
    assert [n for n, d in one.delta.items() if d.any()] == list(one.delta)[-1:]
    assert all(torch.equal(two.delta[n], d) for n, d in one.delta.items())


def test_where_a_solve_moves_too_much_the_steps_begin_as_if_there_had_been_none(checkpoint, sets, capsys):
    config = ForgetConfig(steps=2, batch=4, stop=0.95, most_left=0.95)
    without, tried = (
        unsee.forget(load_visual(checkpoint), **sets, config=replace(config, solve=solve)) for solve in (0, 1e-12)
    )
    assert "alone, solved in closed form, leaves " in capsys.readouterr().err
    assert len(tried.history) == len(without.history) == 2
    assert all(torch.equal(tried.delta[n], d) for n, d in without.delta.items())


def test_a_later_solve_holds_what_earlier_requests_did(checkpoint, sets):
    """What they did to their own images is undone less than by one that knows nothing of them."""
    visual, (one, two) = load_visual(checkpoint), sets["forget"]
    given = {"neutral": sets["neutral"], "statistics": unsee.statistics(visual, None, sets["retain"])}
    config = ForgetConfig(solve=10, stop=0.95, most_left=0.95)
    weights = {n: visual.model.get_submodule(n).weight for n in given["statistics"].layers}
    base = {n: w.detach().clone() for n, w in weights.items()}
    first = unsee.forget(visual, forget=[one], config=config, **given)
    own = beyond(unsee.statistics(visual, None, [one]), given["statistics"], weights)
    settled = Settled.one(first.delta, own)
    last = list(first.delta)[-1]

    def undone(held: Settled | None) -> float:
        """Share of what the first request did to its images that the second one changes."""
        with torch.no_grad():
            for n, w in weights.items():
                w.copy_(base[n] + first.delta[n])
        result = unsee.forget(visual, forget=[two], config=config, base=base, settled=held, **given)
        assert "drift" in result.history[0] and result.forgotten
        did, again = (d.double() @ own[last] @ d.double().T for d in (first.delta[last], result.delta[last]))
        return float(again.trace() / did.trace())

    assert undone(settled) < 0.7 * undone(None)


def test_a_reference_asks_for_steps_also_where_no_image_tells_what_stays(checkpoint, sets):
    model, visual = load_visual(checkpoint), load_visual(checkpoint)
    with torch.no_grad():
        for name, weight in visual.parameters().items():
            if name.endswith("weight"):
                weight.mul_(0.9)
    given = {"reference": visual, "statistics": unsee.statistics(model, None, sets["retain"])}
    config = ForgetConfig(steps=1, batch=4, region="reference", replay=0, solve=10, most_left=0.95)
    result = unsee.forget(model, forget=sets["forget"], config=config, **given)
    assert len(result.history) == 1 and "forget" in result.history[0]


def test_what_was_drawn_from_statistics_does_not_judge_a_solve(checkpoint, sets):
    config = ForgetConfig(solve=10, stop=0.95, most_left=0.95)
    seen, drawn = (
        unsee.forget(load_visual(checkpoint), **sets, config=replace(config, replay_always=always)).history
        for always in (False, True)
    )
    assert seen == drawn
