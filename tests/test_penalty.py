"""The cumulative penalty: the closed form is the sum over requests, with the right gradient, and its state adds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled, beyond, penalty, settled_penalty

torch.set_num_threads(1)


def requests(count: int, seed: int, d: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a delta [3, d] and a second moment [d, d]."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 7, d, generator=g, dtype=torch.float64)
    return list(zip(torch.randn(count, 3, d, generator=g, dtype=torch.float64), rows.mT @ rows / 7, strict=True))


def settle(pairs: list[tuple[Tensor, Tensor]]) -> Settled:
    return sum((Settled.one({"layer": D}, {"layer": S}) for D, S in pairs), Settled.empty())


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 99), st.floats(0.1, 10))
def test_settled_penalty_is_the_sum_over_requests(count: int, seed: int, scale: float) -> None:
    pairs = requests(count, seed)
    D = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    ours = settled_penalty(D, settle(pairs).layer("layer", D), scale)
    brute = sum(((D - Dt) @ St @ (D - Dt).T).trace() for Dt, St in pairs) / scale
    torch.testing.assert_close(ours, brute, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(loss, D)[0] for loss in (ours, brute)), rtol=1e-10, atol=1e-10)
    if count == 1:
        assert settled_penalty(pairs[0][0], settle(pairs).layer("layer", D), scale).abs() < 1e-10


def test_penalty_and_its_gradient() -> None:
    ((D, C),) = requests(1, 0)
    D.requires_grad_()
    loss = penalty(D, C, 4.0)
    assert loss.item() == pytest.approx((D @ C @ D.T).trace().item() / 4)
    (slope,) = torch.autograd.grad(loss * 3, D)  # a factor outside reaches the closed form
    torch.testing.assert_close(slope, 3 * 2 * D.detach() @ C / 4)


def test_settled_adds_subtracts_and_casts() -> None:
    pairs = requests(3, 1)
    both, back = settle(pairs), settle(pairs) - settle(pairs[2:])
    assert (both.n, back.n, (both - both).n) == (3, 2, 0)
    for part in ("A", "B", "c"):
        torch.testing.assert_close(getattr(back, part), getattr(settle(pairs[:2]), part), rtol=1e-12, atol=1e-12)
    assert both.layer("layer", torch.ones(1)).A.dtype == torch.float32


def test_only_what_retained_images_do_not_share_is_settled() -> None:
    def moments(*scales: float) -> Moments:
        return Moments({"x": 6 * torch.diag(torch.tensor(scales, dtype=torch.float64))}, {"x": 6}, {"q": "x", "k": "x"})

    found = beyond(moments(5, 2, 1), moments(5, 1, 3), ["q", "k"])
    assert torch.equal(found["q"], found["k"])
    torch.testing.assert_close(found["q"], torch.diag(torch.tensor([0, 1, 0], dtype=torch.float64)))


def test_settled_refuses_what_does_not_fit() -> None:
    one = settle(requests(1, 0))
    with pytest.raises(UnseeError, match="out of 1"):
        one - settle(requests(2, 0))
    with pytest.raises(UnseeError, match="different layers"):
        one + settle(requests(1, 0, d=6))
    with pytest.raises(UnseeError, match="'other'"):
        one.layer("other", torch.ones(1))
    for bad in ({"other": torch.eye(5)}, {"layer": torch.eye(4)}):
        with pytest.raises(UnseeError, match="same layers"):
            Settled.one({"layer": torch.ones(3, 5)}, bad)


def test_a_file_comes_back_byte_identical_or_is_refused(tmp_path) -> None:
    state = settle(requests(2, 3))
    state.save(tmp_path / "a")
    again = Settled.load(tmp_path / "a")
    again.save(tmp_path / "b")
    good = (tmp_path / "a").read_bytes()
    assert good == (tmp_path / "b").read_bytes() and again.n == 2
    assert torch.equal(again.B["layer"], state.B["layer"]) and torch.equal(again.c["layer"], state.c["layer"])
    Settled.empty().save(tmp_path / "empty")
    assert Settled.load(tmp_path / "empty").n == 0
    (tmp_path / "a").write_bytes(good[:-1])
    with pytest.raises(UnseeError, match="not a whole file of settled"):
        Settled.load(tmp_path / "a")
    (tmp_path / "a").write_bytes(good.replace(b'\\"n\\": 2', b'\\"m\\": 2'))
    with pytest.raises(UnseeError, match="do not match"):
        Settled.load(tmp_path / "a")
    with pytest.raises(UnseeError, match="of moments"):
        Moments.load(tmp_path / "b")
