"""Null-space constrained updates: a projector that keeps a layer's outputs on retained inputs.

See docs/method.md, section 6. With C = E[x xᵀ] over retained inputs, an update D of W changes the retained outputs by
E|D x|² = tr(D C Dᵀ). A projector P on the right, D P, makes that zero (hard rules, exact null space) or small (soft
rule). It must be the last thing done to the update: Adam's element-wise division and weight decay lead out of the
subspace again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unsee.errors import UnseeError, nearest


class Rule(NamedTuple):
    """What a rule keeps, and the values it takes: low < or <= value < or <= high."""

    meaning: str
    low: float
    high: float
    closed: str  # which ends are allowed: "[)", "(]" …


RULES = {
    "absolute": Rule("eigenvalues below value (AlphaEdit, 2e-2)", 0, math.inf, "()"),
    "ratio": Rule("eigenvalues up to value times the smallest (Adam-NSCL, 10 to 50)", 1, math.inf, "[)"),
    "tail": Rule("the smallest eigenvalues that hold at most this share of the energy (GNSP, .15)", 0, 1, "[)"),
    "cumulative": Rule("all but the leading eigenvectors that hold this share of the energy (GPM, .97)", 0, 1, "(]"),
    "soft": Rule("P = lam (C + lam I)⁻¹ with lam = value times the mean eigenvalue", 0, math.inf, "()"),
    "none": Rule("everything: no constraint (value is not used)", -math.inf, math.inf, "[]"),
}


@dataclass(frozen=True)
class Projector:
    """The matrix P [d, d], applied on the right of an update [out, d]. Made by ``fit``.

    ``form``: ``kept`` P = U Uᵀ, ``removed`` P = I − U Uᵀ (whichever basis U [d, r] is the smaller), ``dense`` P = U,
    ``identity``. ``rank``: tr P, the number of free directions (hard rules: whole). ``leak``: tr(P C P) / tr C, the
    share of retained energy that passes.
    """

    dim: int
    rank: float
    leak: float
    form: Literal["kept", "removed", "dense", "identity"]
    basis: Tensor | None = None

    def apply(self, step: Tensor) -> Tensor:
        """``step @ P``, [out, d] → [out, d], in the step's dtype and on its device. UnseeError: another width."""
        if step.dim() != 2 or step.shape[1] != self.dim:
            raise UnseeError(f"a projector of width {self.dim} cannot take an update {list(step.shape)}.")
        if self.basis is None:
            return step
        basis = self.basis.to(step.device, step.dtype)
        if self.form == "dense":
            return step @ basis
        inside = (step @ basis) @ basis.T
        return inside if self.form == "kept" else step - inside

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Projector:
        """The same projector stored elsewhere, so that ``apply`` need not convert it each time."""
        return self if self.basis is None else replace(self, basis=self.basis.to(device, dtype))

    def dense(self) -> Tensor:
        """P itself, [d, d] float64, on the CPU."""
        return self.to("cpu", torch.float64).apply(torch.eye(self.dim, dtype=torch.float64))


def fit(C: Tensor, rule: str = "soft", value: float = 0.01) -> Projector:
    """The projector for retained second moments C [d, d] under a rule of ``RULES``; computed in float64 on C's device.

    Soft is the minimiser over D of |D − G|² + E|D x|² / lam, D = G P; hard is its limit. Eigenvalues within rounding of
    zero count as zero; where all are zero nothing is retained and P is the identity. UnseeError: an unknown rule, a
    value out of its range, a C that is not square, finite and positive semidefinite.
    """
    _check_rule(rule, value)
    _check_matrix(C)
    d = len(C)
    if rule == "none":
        return Projector(d, float(d), 1.0, "identity")
    energies, vectors = _eigh(C.detach().to(torch.float64))
    total = energies.sum().item()
    if total == 0:
        return Projector(d, float(d), 0.0, "identity")
    if rule == "soft":
        lam = value * total / d
        pass_ = lam / (energies + lam)
        leak = (pass_.square() * energies).sum().item() / total
        return Projector(d, pass_.sum().item(), leak, "dense", (vectors * pass_) @ vectors.T)
    k = _kept(energies, rule, value)
    leak = energies[:k].sum().item() / total
    if 2 * k <= d:
        return Projector(d, float(k), leak, "kept", vectors[:, :k].clone())
    return Projector(d, float(k), leak, "removed", vectors[:, k:].clone())


def whitening(C: Tensor, damping: float) -> Tensor:
    """S = (C / e + damping I)^(-1/2) [d, d], float64 on C's device; e: the mean eigenvalue, the largest left out.

    Steps D = U S, taken in U, move retained outputs by E|D x|² = tr(U S C S Uᵀ), in which all directions count about
    alike. Plain steps are taken along weights, and there one direction of a pretrained tower's inputs, their mean, has
    a thousand times the energy of any other: it bounds the rate, and what tells concepts apart is hardly learned.
    Where nothing is retained S is the identity. UnseeError: damping is not above 0; a C as ``fit`` refuses it.
    """
    if not damping > 0:
        raise UnseeError(f"the damping is {damping}; it must be above 0.")
    _check_matrix(C)
    energies, vectors = _eigh(C.detach().to(torch.float64))
    mean = energies[:-1].mean() if len(C) > 1 else energies[0]
    if not mean > 0:
        return torch.eye(len(C), dtype=torch.float64, device=C.device)
    return (vectors * (energies / mean + damping).rsqrt()) @ vectors.T


def certificate(dW: Tensor, W: Tensor, C: Tensor) -> float:
    """Relative drift of the retained outputs from the statistics alone: tr(dW C dWᵀ) / tr(W C Wᵀ), in float64.

    ``dW``, ``W``: [out, d]; ``C``: [d, d]. UnseeError: W gives no output on the retained inputs.
    """
    C = C.to(torch.float64)

    def energy(weight: Tensor) -> float:
        weight = weight.detach().to(C.device, torch.float64)
        return float(((weight @ C) * weight).sum())

    return _share(energy(dW), energy(W))


def drift(dW: Tensor, W: Tensor, X: Tensor) -> float:
    """The same as ``certificate``, measured on inputs X [..., d]: sum |dW x|² / sum |W x|², in float64."""
    X = X.detach().to(torch.float64).reshape(-1, X.shape[-1])

    def energy(weight: Tensor) -> float:
        return float((X @ weight.detach().to(X.device, torch.float64).T).square().sum())

    return _share(energy(dW), energy(W))


def _share(changed: float, whole: float) -> float:
    if not whole > 0:
        raise UnseeError("the layer's outputs on the retained inputs are all zero, so a relative drift has no meaning.")
    return max(changed, 0.0) / whole


def _kept(energies: Tensor, rule: str, value: float) -> int:
    """How many of the smallest eigenvectors are free; ``energies`` [d] ascend and are not all zero."""
    if rule == "absolute":
        return int((energies < value).sum())
    if rule == "ratio":  # of a singular C the smallest is rounding, so at least what rounding is
        return int((energies <= value * max(energies[0].item(), _rounding(energies))).sum())
    if rule == "tail":
        share = energies.cumsum(0) / energies.sum()
        return int((share <= value).sum())
    share = energies.flip(0).cumsum(0)
    dropped = int((share < value * share[-1]).sum()) + 1
    return max(len(energies) - dropped, 0)


def _rounding(energies: Tensor) -> float:
    return len(energies) * torch.finfo(torch.float64).eps * float(energies.abs().max())


def _eigh(C: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues [d], rounding set to zero, and eigenvectors [d, d] of the symmetrised C."""
    C = (C + C.T) / 2
    try:
        energies, vectors = torch.linalg.eigh(C)
    except torch.linalg.LinAlgError:  # seen on zero and ill-conditioned matrices (pytorch 94772, 105359)
        jitter = 1e-10 * C.diagonal().mean()
        energies, vectors = torch.linalg.eigh(C + jitter * torch.eye(len(C), dtype=C.dtype, device=C.device))
        energies = energies - jitter
    # Taking images out of sums leaves negative rounding, relative to what was there before: hence 1e-6 and not eps.
    least, most = float(energies[0]), float(energies[-1])
    if least < -1e-6 * max(-least, abs(most)):
        raise UnseeError(
            f"C is not a second moment: its smallest eigenvalue is {least:.3g}, its largest {most:.3g}. "
            f"Was more subtracted from the retained moments than they held? Record them again."
        )
    return torch.where(energies <= _rounding(energies), 0.0, energies), vectors


def _check_rule(rule: str, value: float) -> None:
    if rule not in RULES:
        raise UnseeError(f"null space rule '{rule}'. {nearest(rule, RULES)}")
    meaning, low, high, ends = RULES[rule]
    if rule == "none":
        return
    above = value >= low if ends[0] == "[" else value > low
    below = value <= high if ends[1] == "]" else value < high
    if not (above and below):
        raise UnseeError(
            f"null space value {value} for rule '{rule}' ({meaning}). Allowed: {ends[0]}{low:g}, {high:g}{ends[1]}."
        )


def _check_matrix(C: Tensor) -> None:
    if C.dim() != 2 or C.shape[0] != C.shape[1] or not len(C):
        raise UnseeError(f"C is {list(C.shape)}: a second moment is square, [d, d] (Moments.mean(layer)).")
    if not torch.isfinite(C).all():
        raise UnseeError("C holds NaN or Inf: record the moments again, in float32 or bfloat16.")
