"""The state of a ledger: what adds and subtracts, what is kept in constant size, and the closed form of a replay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unsee.concepts import Concept
from unsee.config import LedgerConfig
from unsee.data.images import FileImage
from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled
from unsee.ledger import gate
from unsee.ledger.measure import split
from unsee.ledger.refit import solve
from unsee.ledger.state import Share, State, age, earlier_drift, retained_drift
from unsee.vision.patch import Patch

torch.set_num_threads(1)
D = 6


def moments(seed: int, rows: int = 9, scale: float = 1.0) -> Moments:
    """Of ``rows`` random rows, of two layers that share an input and one that does not."""
    g = torch.Generator().manual_seed(seed)
    matrices = {}
    for key in ("q", "out"):
        x = scale * torch.randn(rows, D, generator=g, dtype=torch.float64)
        matrices[key] = x.T @ x
    layers = {"q": "q", "k": "q", "out": "out"}
    return Moments(matrices, dict.fromkeys(matrices, rows), layers, rows, {"model": "base"})


def close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-10, atol=1e-10)


def delta(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(4, D, generator=g) for n in ("q", "k", "out")}


def turn(seed: int, weight: dict[str, Tensor]) -> tuple[Patch, dict[str, Tensor], Moments]:
    """A patch that makes the layers' deltas ``weight``."""
    return Patch(dict(weight), dict.fromkeys(weight, "0"), {"seed": seed}), weight, moments(100 + seed)


shares = st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True)


@settings(max_examples=20, deadline=None)
@given(shares, st.permutations(range(4)))
def test_moments_add_subtract_and_commute(seeds: list[int], order: list[int]) -> None:
    parts = [moments(s) for s in seeds]
    shuffled = [parts[i] for i in order if i < len(parts)]
    total = sum(parts[1:], start=parts[0])
    close(dict(total.matrices), dict(sum(shuffled[1:], start=shuffled[0]).matrices))
    rest = moments(99)
    back = (rest + total) - total
    close(dict(back.matrices), dict(rest.matrices))
    assert back.counts == rest.counts and back.images == rest.images


@settings(max_examples=20, deadline=None)
@given(shares, st.permutations(range(4)))
def test_settled_requests_add_subtract_and_commute(seeds: list[int], order: list[int]) -> None:
    parts = [Settled.one(delta(s), {n: moments(s).mean(n) for n in delta(s)}) for s in seeds]
    shuffled = [parts[i] for i in order if i < len(parts)]
    total = sum(parts, start=Settled.empty())
    other = Settled.one(delta(77), {n: moments(77).mean(n) for n in delta(77)})
    back = (other + total) - total
    for part in ("A", "B", "c"):
        close(getattr(total, part), getattr(sum(shuffled, start=Settled.empty()), part))
        close(getattr(back, part), getattr(other, part))
    assert (total.n, back.n) == (len(seeds), 1)


def after(count: int) -> State:
    state = State(moments(1, rows=400), Settled.empty(), {})
    for k in range(count):
        patch, changed, seen = turn(k, delta(k))
        state = state.without(moments(1 + k, rows=2)).settle(patch, changed, Share(seen))
    return state


def test_a_state_comes_back_and_does_not_grow(tmp_path):
    state = after(2)
    state.save(tmp_path / "a")
    again = State.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert again.turns == state.turns and again.base == "base" and (again.settled.n, again.settled.concepts) == (2, 2)
    assert again.retained.images == 400 - 4 and torch.equal(again.weights["q"], delta(1)["q"])
    after(12).save(tmp_path / "c")
    ids = 10 * 80  # what the list of ten more patches takes
    assert (tmp_path / "c").stat().st_size < (tmp_path / "a").stat().st_size + ids


@pytest.mark.parametrize("taken", [None, moments(3)])
def test_a_share_comes_back(taken, tmp_path):
    Share(moments(2), taken, 3).save(tmp_path / "a")
    again = Share.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (again.taken is None, again.concepts) == (taken is None, 3)
    close(dict(again.after.matrices), dict(moments(2).matrices))


def test_each_concept_of_a_request_is_held_alike():
    one, both = (Share(moments(2), concepts=n).settled(delta(3), moments(1)) for n in (1, 2))
    for part in ("A", "B", "c"):
        close({n: 2 * t for n, t in getattr(one, part).items()}, getattr(both, part))
    assert (one.n, both.n) == (1, 1) and all(float(c) > 0 for c in one.c.values())
    assert ((one + both).concepts, (one + both - one).concepts) == (3, 2)


def test_all_settled_concepts_together_weigh_no_more_than_is_said():
    bound = LedgerConfig(settled=50, settled_most=2000)
    assert [bound.hold(n) for n in (0, 1, 40, 80, 100)] == [50, 50, 50, 25, 20]
    assert LedgerConfig(settled=50, settled_most=0).hold(1000) == 50


def test_what_is_no_state_is_refused(tmp_path):
    after(1).save(tmp_path / "state")
    good = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(good[:-8])
    with pytest.raises(UnseeError, match="not a whole file of ledger state"):
        State.load(tmp_path / "state")
    (tmp_path / "state").write_bytes(good.replace(b'\\"retained\\"', b'\\"detained\\"'))
    with pytest.raises(UnseeError, match="lacks its part 'retained'"):
        State.load(tmp_path / "state")
    Share(moments(2)).save(tmp_path / "share")
    with pytest.raises(UnseeError, match="of ledger state"):
        State.load(tmp_path / "share")


def test_drifts_are_what_they_say():
    base, now = delta(5), delta(6)
    state = State(moments(1), Settled.empty(), {})
    C = state.retained.mean("k")
    moved, whole = ((w["k"].double() @ C @ w["k"].double().T).trace() for w in (now, base))
    assert retained_drift(state, base, now)["k"] == pytest.approx(float(moved / whole))
    assert earlier_drift(state.settled, now) == 0
    settled = Settled.one(now, {n: moments(2).mean(n) for n in now})
    assert earlier_drift(settled, now) == pytest.approx(0, abs=1e-9)
    nothing = {n: torch.zeros_like(t) for n, t in now.items()}
    assert earlier_drift(settled, nothing) == pytest.approx(1)
    assert earlier_drift(settled, {n: t / 2 for n, t in now.items()}) == pytest.approx(0.25)
    assert set(age(moments(1), moments(1)).values()) == {0.0}
    assert age(moments(1), moments(1, scale=2))["q"] == pytest.approx(3)


def test_a_refit_does_to_its_moments_what_was_done_to_the_images():
    """Directions of its own it has to itself; those it shares with what stays are weighed against it."""
    gap = delta(1)["q"].double()
    own, kept = torch.zeros(D, D, dtype=torch.float64), torch.zeros(D, D, dtype=torch.float64)
    own[:3, :3], kept[3:, 3:] = torch.eye(3), 5 * torch.eye(3)
    found = solve(gap, own, kept)
    torch.testing.assert_close(found[:, :3], gap[:, :3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 3:], torch.zeros(4, 3, dtype=torch.float64), atol=1e-4, rtol=0)
    x = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    own, kept = moments(1).mean("q"), moments(2).mean("q")
    found = solve(gap, own, kept)
    loss = ((x - gap) @ own @ (x - gap).T).trace() + (x @ kept @ x.T).trace()
    (slope,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
        x.copy_(found)
    loss = ((x - gap) @ own @ (x - gap).T).trace() + (x @ kept @ x.T).trace()
    (least,) = torch.autograd.grad(loss, x)
    assert least.norm() < 1e-3 * slope.norm()


GOOD = {"left": 0.1, "retained": 0.1, "heldout": 0.1, "earlier": 0.0, "age": 0.5}


@pytest.mark.parametrize(
    ("figures", "wrong"),
    [({}, []), ({"left": 0.5}, ["left"]), ({"earlier": float("nan")}, ["earlier"]), ({"age": 9}, []),
     ({"retained": 1, "heldout": 1}, ["retained", "heldout"])],
)  # fmt: skip
def test_the_gate(figures, wrong):
    assert gate.failed(GOOD | figures, LedgerConfig()) == wrong


def test_a_figure_that_is_missing_does_not_pass():
    assert gate.failed({k: v for k, v in GOOD.items() if k != "left"}, LedgerConfig()) == ["left"]


def test_another_attempt_goes_the_other_way():
    config = LedgerConfig()
    milder = gate.again(config, GOOD | {"left": 0.9})
    stricter = gate.again(config, GOOD | {"earlier": 0.9})
    assert milder and milder.penalty < config.penalty and milder.steps > config.steps and milder.keep < config.keep
    assert stricter and stricter.penalty > config.penalty and stricter.settled > config.settled
    assert gate.again(config, GOOD | {"left": 0.9, "heldout": 0.9}) is None


def test_held_out_images_are_shown_to_no_request(tmp_path):
    neutral = [Concept(c, tuple(FileImage(f"{c}/{k}", tmp_path / f"{c}{k}") for k in range(7))) for c in "abc"]
    shown, heldout = split(neutral)
    ids = [i.id for c in shown for i in c.images]
    assert [i.id for i in heldout] == ["a/4", "b/2", "c/0", "c/5"]
    assert sorted([*ids, *(i.id for i in heldout)]) == sorted(i.id for c in neutral for i in c.images)
