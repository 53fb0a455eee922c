"""Replay: what is drawn has the mean and covariance of what was seen, and what was seen adds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unsee.errors import UnseeError
from unsee.forgetting import replay
from unsee.forgetting.replay import Replay

SHAPE = (3, 4)


def concepts(sizes: list[int], seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(1, *SHAPE, generator=rng) + torch.randn(n, *SHAPE, generator=rng) for n in sizes]


def scatters(groups: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    means = torch.stack([g.flatten(1).mean(0) for g in groups])
    within = torch.cat([g.flatten(1) - g.flatten(1).mean(0) for g in groups])
    centred = means - means.mean(0)
    return means.mean(0), centred.T @ centred, within.T @ within


def same(one: Replay, other: Replay, tolerance: float = 1e-4) -> None:
    assert (one.concepts, one.images, one.shape, one.block) == (other.concepts, other.images, other.shape, other.block)
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=tolerance)
    for part in ("between", "within"):
        a, b = getattr(one, part), getattr(other, part)
        torch.testing.assert_close(a.T @ a, b.T @ b, rtol=0, atol=tolerance)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 99))
def test_factors_are_those_of_the_two_scatters(sizes: list[int], seed: int) -> None:
    groups = concepts(sizes, seed)
    fitted = Replay.fit(groups, "block")
    mean, between, within = scatters(groups)
    torch.testing.assert_close(fitted.mean, mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(fitted.between.T @ fitted.between, between, rtol=0, atol=1e-3)
    torch.testing.assert_close(fitted.within.T @ fitted.within, within, rtol=0, atol=1e-3)
    assert (fitted.concepts, fitted.images) == (len(sizes), sum(sizes))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=3, max_size=7), st.integers(1, 2), st.integers(0, 99))
def test_they_add_in_any_order_and_subtract(sizes: list[int], cut: int, seed: int) -> None:
    groups = concepts(sizes, seed)
    whole, one, two = (Replay.fit(g, "block") for g in (groups, groups[:cut], groups[cut:]))
    same(one + two, whole, 1e-3)
    same(two + one, whole, 1e-3)
    same(whole - one, two, 2e-3)


def test_of_many_directions_the_largest_are_kept(monkeypatch) -> None:
    monkeypatch.setattr(replay, "RANK", 3)
    scale = torch.tensor([9.0, 7.0, 5.0, *[0.01] * 9]).reshape(SHAPE)
    fitted = Replay.fit([g * scale for g in concepts([3] * 30)], "block")
    assert len(fitted.between) <= 6 and len(fitted.within) <= 6
    _, between, within = scatters([g * scale for g in concepts([3] * 30)])
    for factor, scatter in ((fitted.between, between), (fitted.within, within)):
        assert torch.dist(factor.T @ factor, scatter) < 0.001 * scatter.norm()


def test_what_is_drawn_varies_as_what_was_seen() -> None:
    fitted = Replay.fit(concepts([5] * 200), "block")
    drawn = fitted.draw(4000, 3, seed=1).reshape(4000, 3, -1)
    truth = Replay.fit(drawn.reshape(4000, 3, *SHAPE), "block")
    within, between = (f.T @ f for f in (fitted.within / 800**0.5, fitted.between / 199**0.5))
    assert torch.dist(truth.within.T @ truth.within / 8000, within) < 0.1 * within.norm()
    # the mean of three views keeps a third of what varies within
    assert torch.dist(truth.between.T @ truth.between / 3999, between + within / 3) < 0.1 * between.norm()
    torch.testing.assert_close(drawn.mean((0, 1)), fitted.mean, rtol=0, atol=0.2)
    assert torch.equal(fitted.draw(5, 2, 7), fitted.draw(5, 2, 7))
    assert not torch.equal(fitted.draw(5, 2, 7), fitted.draw(5, 2, 8))
    assert fitted.draw(5, 2).shape == (10, *SHAPE)


def test_lookalikes_are_as_near_as_they_should_be_and_vary_beside_that() -> None:
    fitted = Replay.fit(concepts([5] * 200), "block")
    away = torch.zeros(fitted.mean.shape)
    away[0] = 1000.0
    near = torch.stack([fitted.mean + away, fitted.mean - away]).reshape(2, *SHAPE)
    drawn = fitted.draw(4000, 3, 1, near).reshape(4000, 3, -1).mean(1) - fitted.mean
    share = drawn[:, 0] / 1000
    assert ((share.abs() > 0.48) & (share.abs() < 0.77)).all()  # what varies by chance is small beside 1000
    assert 0.45 < (share > 0).float().mean() < 0.55 and abs(share.abs().mean() - 0.625) < 0.01
    plain = fitted.draw(4000, 3, 1).reshape(4000, 3, -1).mean(1) - fitted.mean
    assert 0.6 < (drawn[:, 1:].var(0) / plain[:, 1:].var(0)).mean() < 0.9
    assert fitted.draw(5, 2, 7, near).shape == (10, *SHAPE)


def test_views_lie_around_the_concepts_that_were_seen() -> None:
    groups = concepts([40] * 6)
    fitted = Replay.fit(groups, "block")
    drawn, whose = fitted.views(3000, seed=1)
    assert drawn.shape == (3000, *SHAPE) and sorted(set(whose)) == list(range(6))
    for number, group in enumerate(groups):
        mine = drawn[[i for i, of in enumerate(whose) if of == number]]
        assert len(mine) == 500
        torch.testing.assert_close(mine.mean(0), group.mean(0), rtol=0, atol=0.25)
        assert 0.8 < mine.std(0).mean() < 1.2
    assert torch.equal(fitted.views(12, 7)[0], fitted.views(12, 7)[0])
    few, whose = fitted.views(8)
    assert len(few) == 8 and len(set(whose)) == 2  # four views each, of as many as there is room for


def test_means_add_and_the_nearest_leaves(monkeypatch) -> None:
    groups = concepts([3, 2, 4, 2])
    whole, one, two = (Replay.fit(g, "block") for g in (groups, groups[:1], groups[1:]))
    torch.testing.assert_close((one + two).means, whole.means)
    torch.testing.assert_close((whole - one).means, two.means)
    some = Replay.fit([groups[2][:2]], "block")  # not all of its images
    torch.testing.assert_close((whole - some).means, whole.means[[0, 1, 3]])
    older = replace(two, means=torch.empty(0, 0))
    assert not len((one + older).means) and not len((older + one).means) and not len((older - one).means)
    monkeypatch.setattr(replay, "RANK", 2)
    assert (one + two).means.shape == whole.means.shape == (4, 12) and len((whole + whole).means) == 4


def test_of_one_concept_only_views_vary() -> None:
    drawn = Replay.fit(concepts([6]), "block").draw(3, 50).reshape(3, 50, -1)
    assert torch.isfinite(drawn).all() and drawn.std(1).min() > 0.1
    single = Replay.fit(concepts([1]), "block")
    assert torch.equal(single.draw(2, 2), single.mean.reshape(1, *SHAPE).expand(4, *SHAPE))


def test_what_does_not_fit_is_refused() -> None:
    one, two = Replay.fit(concepts([2, 2]), "block"), Replay.fit(concepts([2]), "block")
    with pytest.raises(UnseeError, match="do not add"):
        one + replace(two, block="another")
    with pytest.raises(UnseeError, match="at least one must be left"):
        two - one
    with pytest.raises(UnseeError, match="nothing to replay"):
        Replay.fit([], "block")


def test_it_is_restored_whole_or_not_at_all() -> None:
    fitted = Replay.fit(concepts([2, 3]), "block")
    tensors, info = fitted.state()
    same(Replay.restored(tensors, info), fitted, 0)
    assert torch.equal(Replay.restored(tensors, info).means, fitted.means)
    older = {name: part for name, part in tensors.items() if name != "means"}
    assert not len(Replay.restored(older, info).means)
    for broken in ({**info, "shape": [5]}, {k: v for k, v in info.items() if k != "images"}):
        with pytest.raises((KeyError, ValueError)):
            Replay.restored(tensors, broken)
