"""Projectors: each rule keeps what it says, soft is a minimiser, and the certificate is a measurement."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unsee.errors import UnseeError
from unsee.forgetting.nullspace import RULES, certificate, drift, fit, whitening

torch.set_num_threads(1)
EXAMPLE = {"absolute": 0.5, "ratio": 20.0, "tail": 0.1, "cumulative": 0.9, "soft": 0.05, "none": 0.0}
HARD = ("absolute", "ratio", "tail", "cumulative")


def matrix(d: int, rank: int, seed: int, rows: int = 60) -> tuple[Tensor, Tensor]:
    """A second moment of the given rank, and the rows that it is the mean of."""
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, rank, generator=g, dtype=torch.float64) * torch.logspace(0, -1.5, rank, dtype=torch.float64)
    X = X @ torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0][:rank]
    return X.T @ X / rows, X


cases = st.tuples(st.integers(2, 12), st.integers(0, 99)).flatmap(
    lambda ds: st.tuples(st.just(ds[0]), st.integers(1, ds[0]), st.just(ds[1]))
)


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from(HARD), st.floats(0.01, 0.99))
def test_hard_projectors_are_projectors_and_keep_what_the_rule_says(case, rule: str, share: float) -> None:
    C, _ = matrix(*case)
    value = 1 + 50 * share if rule == "ratio" else share
    P = fit(C, rule, value)
    M = P.dense()
    torch.testing.assert_close(M @ M, M, atol=1e-12, rtol=0)
    torch.testing.assert_close(M, M.T, atol=1e-12, rtol=0)
    k, s = int(P.rank), torch.linalg.eigvalsh(C).clamp(min=0)
    assert k == P.rank == pytest.approx(M.trace().item(), abs=1e-9)
    assert P.leak == pytest.approx(((M @ C).trace() / C.trace()).item(), abs=1e-12)
    kept, total, null = s[:k].sum(), s.sum(), case[0] - case[1]
    if rule == "absolute":
        assert k == int((s < value).sum())
    elif rule == "ratio":
        assert k >= null and (k == null if null else k == int((s <= value * s[0]).sum()))
    elif rule == "tail":
        assert kept / total <= value + 1e-12 and k >= null
        assert k == len(s) or s[: k + 1].sum() / total > value - 1e-12
    else:
        assert s[k:].sum() / total >= value - 1e-12
        assert s[k + 1 :].sum() / total < value + 1e-12
    assert P.basis is None or P.basis.shape[1] <= case[0] / 2  # the smaller of the two bases is stored


@settings(max_examples=30, deadline=None)
@given(cases, st.floats(0.001, 10), st.floats(0.01, 100))
def test_in_white_coordinates_no_direction_moves_outputs_more_than_the_mean_one(case, damping: float, loud: float):
    C, _ = matrix(*case)
    s = torch.linalg.eigvalsh(C).clamp(min=0)
    mean = s[:-1].mean()
    S = whitening(C, damping)
    if mean < 1e-12 * s[-1]:  # one direction alone is retained
        assert torch.equal(S, torch.eye(case[0], dtype=torch.float64))
        return
    torch.testing.assert_close(S, S.T)
    moved = torch.linalg.eigvalsh(S @ C @ S)  # what a step of length 1 moves, squared
    assert moved.max() <= mean * (1 + 1e-9)
    torch.testing.assert_close(torch.linalg.inv(S @ S), C / mean + damping * torch.eye(len(C), dtype=torch.float64))
    torch.testing.assert_close(whitening(loud * C, damping), S)  # free of scale
    vector = torch.linalg.eigh(C)[1][:, -1:]
    torch.testing.assert_close(whitening(C + loud * vector @ vector.T, damping) @ _rest(vector), S @ _rest(vector))


def _rest(vector: Tensor) -> Tensor:
    """All directions but that of ``vector`` [d, 1]."""
    return torch.eye(len(vector), dtype=torch.float64) - vector @ vector.T


def test_whitening_refuses_what_it_cannot_take():
    with pytest.raises(UnseeError, match="damping is 0; it must be above 0"):
        whitening(torch.eye(2), 0)
    with pytest.raises(UnseeError, match="second moment"):
        whitening(-torch.eye(2), 0.1)


@settings(max_examples=15, deadline=None)
@given(cases, st.floats(0.001, 10))
def test_soft_is_the_update_closest_to_the_wanted_one_with_drift_penalised(case, value: float) -> None:
    C, X = matrix(*case)
    g = torch.Generator().manual_seed(case[2])
    G, nudge = torch.randn(2, 3, case[0], generator=g, dtype=torch.float64)
    lam = value * C.trace() / case[0]

    def cost(D: Tensor) -> Tensor:
        return (D - G).square().sum() + (X @ D.T).square().sum(1).mean() / lam

    best = fit(C, "soft", value).apply(G).requires_grad_()
    (slope,) = torch.autograd.grad(cost(best), best)
    assert slope.abs().max() < 1e-8
    assert cost(best) < cost(best.detach() + 1e-3 * nudge)


def test_soft_goes_to_hard_and_to_nothing() -> None:
    C, _ = matrix(10, 6, 0)
    hard = fit(C, "tail", 0.0)
    assert hard.rank == 4 and hard.leak < 1e-15
    torch.testing.assert_close(fit(C, "soft", 1e-9).dense(), hard.dense(), atol=1e-5, rtol=0)
    torch.testing.assert_close(fit(C, "soft", 1e9).dense(), torch.eye(10, dtype=torch.float64), atol=1e-6, rtol=0)
    soft = fit(C, "soft", 0.1)
    M = soft.dense()
    assert soft.rank == pytest.approx(M.trace().item())
    assert soft.leak == pytest.approx(((M @ C @ M).trace() / C.trace()).item())


def test_none_and_nothing_retained_are_the_identity() -> None:
    step = torch.randn(3, 5)
    assert torch.equal(fit(torch.eye(5), "none").apply(step), step)
    for rule, value in EXAMPLE.items():
        P = fit(torch.zeros(5, 5), rule, value)
        assert P.rank == 5 and torch.equal(P.apply(step), step)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_apply_is_a_product_in_the_dtype_of_the_step(rule: str) -> None:
    C, _ = matrix(8, 6, 1)
    P, step = fit(C, rule, EXAMPLE[rule]), torch.randn(3, 8)
    out = P.apply(step)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), step.double() @ P.dense(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(P.to("cpu", torch.float32).apply(step), out)


def test_eigh_that_fails_once_gets_a_jitter(monkeypatch) -> None:
    C, _ = matrix(10, 6, 0)
    want, real, calls = fit(C, "tail", 0.0).dense(), torch.linalg.eigh, []

    def failing(A: Tensor):
        calls.append(A)
        if len(calls) == 1:
            raise torch.linalg.LinAlgError("did not converge")
        return real(A)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    torch.testing.assert_close(fit(C, "tail", 0.0).dense(), want, atol=1e-9, rtol=0)
    assert len(calls) == 2


def test_bad_matrices_rules_and_values_are_refused() -> None:
    good = torch.eye(4)
    for bad in (torch.ones(3, 4), torch.ones(4), torch.zeros(0, 0), good * float("nan"), good * float("inf")):
        with pytest.raises(UnseeError, match="C "):
            fit(bad, "soft", 0.1)
    with pytest.raises(UnseeError, match="not a second moment"):
        fit(torch.diag(torch.tensor([1.0, -0.1])), "soft", 0.1)
    fit(torch.diag(torch.tensor([1.0, -1e-8])), "soft", 0.1)  # what rounding leaves after a subtraction
    with pytest.raises(UnseeError, match="Did you mean 'soft'"):
        fit(good, "sofft", 0.1)
    nan = float("nan")
    for rule, value in [("absolute", 0), ("ratio", 0.9), ("tail", 1), ("tail", -0.1), ("cumulative", 0), ("soft", 0)]:
        for given_value in (value, nan):
            with pytest.raises(UnseeError, match="Allowed"):
                fit(good, rule, given_value)
    with pytest.raises(UnseeError, match="cannot take an update"):
        fit(good, "soft", 0.1).apply(torch.ones(2, 5))


@settings(max_examples=20, deadline=None)
@given(cases)
def test_certificate_is_the_measured_drift(case) -> None:
    C, X = matrix(*case)
    g = torch.Generator().manual_seed(case[2] + 1)
    W, dW = torch.randn(2, 3, case[0], generator=g)
    brute = sum((dW.double() @ x).square().sum() for x in X) / sum((W.double() @ x).square().sum() for x in X)
    assert certificate(dW, W, C) == pytest.approx(brute.item(), rel=1e-9)
    assert drift(dW, W, X.reshape(2, 30, -1)) == pytest.approx(brute.item(), rel=1e-9)
    with pytest.raises(UnseeError, match="all zero"):
        certificate(dW, W * 0, C)
