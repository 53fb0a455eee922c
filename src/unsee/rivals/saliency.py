"""How much each weight matters to the answers of some examples, by gradients of their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.rivals.job import Job
from unsee.rivals.material import Example

BATCH = 8  # examples whose gradients are summed at once

Scores = dict[str, Tensor]  # of each weight, by its parameter's name


def fisher(job: Job, parameters: Mapping[str, nn.Parameter], examples: Sequence[Example]) -> Scores:
    """Diagonal of the empirical Fisher information: the squared gradient of each example's loss, mean over examples."""
    found = _total(job, parameters, [[e] for e in examples], lambda gradient, n: gradient.square())
    return {name: total / len(examples) for name, total in found.items()}


def saliency(job: Job, parameters: Mapping[str, nn.Parameter], examples: Sequence[Example]) -> Scores:
    """Absolute value of the gradients of the examples' losses, summed (SalUn, arXiv 2310.12508)."""
    found = _total(job, parameters, _batches(examples), lambda gradient, n: gradient * n)
    return {name: total.abs() for name, total in found.items()}


def top_share(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """True for that share of all weights together which scores highest: at least one, exactly so many."""
    if not 0 < share <= 1:
        raise UnseeError(f"a share of {share}; it must be above 0 and at most 1.")
    flat = torch.cat([s.flatten() for s in scores.values()])
    if not flat.isfinite().all():
        raise UnseeError("scores that are no numbers: the model's loss or its gradients overflow on these examples.")
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(max(1, round(share * len(flat)))).indices] = True
    parts = chosen.split([s.numel() for s in scores.values()])
    return {name: part.view(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


def sample(examples: Sequence[Example], most: int, rng: np.random.Generator) -> list[Example]:
    """At most so many, drawn by chance, in their order."""
    return [examples[i] for i in sorted(rng.permutation(len(examples))[:most].tolist())]


def _batches(examples: Sequence[Example]) -> list[list[Example]]:
    """A few examples each, with images or without: the two are scored apart."""
    shown, named = [e for e in examples if e.image], [e for e in examples if not e.image]
    return [group[i : i + BATCH] for group in (shown, named) for i in range(0, len(group), BATCH)]


def _total(
    job: Job,
    parameters: Mapping[str, nn.Parameter],
    batches: Sequence[Sequence[Example]],
    of: Callable[[Tensor, int], Tensor],
) -> Scores:
    """``of`` the gradient of each batch's mean loss and the batch's size, summed over batches."""
    if not batches:
        raise UnseeError("no examples to tell how much each weight matters: the material has none of this kind.")
    found = {name: torch.zeros_like(p.detach()) for name, p in parameters.items()}
    with _asked(parameters.values()):
        for batch in batches:
            loss = job.scores(batch).loss()
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for total, gradient in zip(found.values(), gradients, strict=True):
                if gradient is not None:
                    total += of(gradient, len(batch))
    return found


@contextmanager
def _asked(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within: these parameters ask for gradients."""
    given = list(parameters)
    before = [p.requires_grad for p in given]
    try:
        for p in given:
            p.requires_grad_(True)
        yield
    finally:
        for p, asked in zip(given, before, strict=True):
            p.requires_grad_(asked)
