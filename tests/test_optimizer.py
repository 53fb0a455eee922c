"""ProjectedAdam: the guarantee holds in float32, the tempting alternative breaks it, a resumed run is the same run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from unsee.errors import UnseeError
from unsee.forgetting.nullspace import Projector, certificate, drift, fit, whitening
from unsee.forgetting.optimizer import ProjectedAdam

torch.set_num_threads(1)
Change = Callable[[Tensor], Tensor]


def world(d: int = 256, rank: int = 160) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A weight, retained inputs of deficient rank, and inputs whose outputs are to move to given places."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(400, rank, generator=g) @ torch.randn(rank, d, generator=g) / rank**0.5
    W = torch.randn(128, d, generator=g) / d**0.5
    return W, X, torch.randn(32, d, generator=g), torch.randn(32, 128, generator=g)


def train(
    W: Tensor, F: Tensor, Y: Tensor, P: Projector | None, steps: int = 200, grad: Change | None = None
) -> tuple[Tensor, ProjectedAdam]:
    weight = Parameter(W.clone())
    optimizer = ProjectedAdam([(weight, P)], lr=1e-3)
    for _ in range(steps):
        advance(optimizer, weight, F, Y, grad)
    return weight.detach(), optimizer


def advance(
    optimizer: torch.optim.Optimizer, weight: Parameter, F: Tensor, Y: Tensor, grad: Change | None = None
) -> None:
    optimizer.zero_grad()
    (F @ weight.T - Y).square().mean().backward()
    if grad is not None:
        weight.grad = grad(weight.grad)
    optimizer.step()


def loud_world() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A weight, the one to reach, inputs of which one direction is a thousand times louder than those that tell, and
    what whitens them."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(400, 8, generator=g) + 30
    told, W = torch.randn(4, 8, generator=g), torch.randn(4, 8, generator=g)
    told -= told.mean(1, keepdim=True)  # nothing of it along the loud direction
    return W, W + told, X, whitening(X.T.double() @ X.double() / len(X), 0.05).float()


def test_whitened_steps_learn_what_is_faint():
    W, there, X, S = loud_world()
    left = {}
    for name, white in (("plain", None), ("white", S)):
        weight = Parameter(W.clone())
        optimizer = ProjectedAdam([(weight, None)], lr=1e-2, whitened={} if white is None else {weight: white})
        for _ in range(200):
            advance(optimizer, weight, X, X @ there.T)
        left[name] = (X @ (weight.detach() - there).T).square().mean().item()
    assert left["white"] < 0.2 * left["plain"]


def test_a_whitened_step_goes_along_the_gradient_of_other_coordinates():
    """And a row whose gradient is a thousandth of another's moves a thousandth as far, where Adam moves both alike."""
    W, there, X, S = loud_world()
    weight = Parameter(W.clone())
    scale = torch.tensor([1.0, 1e-3, 1.0, 1.0])[:, None]
    optimizer = ProjectedAdam([(weight, None)], lr=1e-2, whitened={weight: S})
    advance(optimizer, weight, X, X @ there.T, lambda grad: grad * scale)
    along = (X @ (W - there).T).T @ X * scale @ S
    U = (weight.detach() - W) @ torch.linalg.inv(S)  # of W = U S
    torch.testing.assert_close(U, -1e-2 * along / along.square().mean().sqrt(), rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("rank", [60, 160])  # the complement's basis, the null space's basis
def test_retained_outputs_stay_and_projecting_the_gradient_instead_does_not_keep_them(rank: int) -> None:
    W, X, F, Y = world(rank=rank)
    C = X.T.double() @ X.double() / len(X)
    P = fit(C, "tail", 0.0)
    assert P.rank == 256 - rank and P.form == ("removed" if rank == 60 else "kept")
    new, _ = train(W, F, Y, P)
    # In norm, not squared. Measured 4e-7 to 5e-7: the rounding of 200 float32 additions to W.
    assert drift(new - W, W, X) ** 0.5 <= 1e-6
    assert certificate(new - W, W, C) ** 0.5 <= 1e-6
    control, _ = train(W, F, Y, None, grad=P.apply)
    assert drift(control - W, W, X) >= 1e-2  # measured .19 to .51, squared
    assert (F @ new.T - Y).square().mean() < 0.2 * (F @ W.T - Y).square().mean()  # and it still learns


def test_soft_lies_between() -> None:
    W, X, F, Y = world()
    C = X.T.double() @ X.double() / len(X)
    free, soft = (drift(train(W, F, Y, P)[0] - W, W, X) for P in (None, fit(C, "soft", 0.01)))
    assert 1e-6 < soft < 0.05 * free


def test_without_a_projector_it_is_adam() -> None:
    W, _, F, Y = world(32, 16)
    ours, _ = train(W, F, Y, None, 30)
    weight = Parameter(W.clone())
    theirs = torch.optim.Adam([weight], lr=1e-3)
    for _ in range(30):
        advance(theirs, weight, F, Y)
    torch.testing.assert_close(ours, weight.detach(), rtol=1e-6, atol=1e-7)


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path) -> None:
    W, X, F, Y = world(32, 16)
    P = fit(X.T @ X / len(X), "soft", 0.1)
    whole, _ = train(W, F, Y, P, 20)
    half, optimizer = train(W, F, Y, P, 10)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    weight = Parameter(half.clone())
    again = ProjectedAdam([(weight, P)], lr=9.0)  # lr comes back with the state
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in range(10):
        advance(again, weight, F, Y)
    assert weight.detach().numpy().tobytes() == whole.numpy().tobytes()


def test_schedulers_closures_and_parameters_without_a_gradient() -> None:
    W = torch.randn(3, 4)
    weight, idle = Parameter(W.clone()), Parameter(torch.ones(2))
    optimizer = ProjectedAdam([(weight, fit(torch.eye(4), "none")), (idle, None)], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 if n == 0 else 0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(W.square().sum().item())
    scheduler.step()
    moved = weight.detach().clone()
    torch.testing.assert_close((W - moved).abs(), torch.full_like(W, 1e-2))  # Adam's first step is lr · sign
    optimizer.step(closure)
    assert torch.equal(weight.detach(), moved) and torch.equal(idle.detach(), torch.ones(2))


def test_what_does_not_fit_is_refused() -> None:
    P = fit(torch.eye(4), "soft", 0.1)
    with pytest.raises(UnseeError, match="projector is for"):
        ProjectedAdam([(Parameter(torch.ones(4, 5)), P)])
    with pytest.raises(UnseeError, match="projector is for"):
        ProjectedAdam([(Parameter(torch.ones(4)), P)])
    with pytest.raises(UnseeError, match="float32"):
        ProjectedAdam([(Parameter(torch.ones(4, 4, dtype=torch.bfloat16)), P)])
    with pytest.raises(UnseeError, match="nothing to train"):
        ProjectedAdam([])
