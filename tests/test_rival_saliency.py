"""Which weights matter: squared gradients by example, summed gradients, and the share that scores highest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.small_job import given_job  # noqa: F401  (fixture: job)

from unsee.errors import UnseeError
from unsee.rivals.saliency import fisher, saliency, top_share

PART = ("lm_head.weight", "norm.weight", "q_proj.weight", "fc1.weight", "mlp.0.weight")


def some(job):
    return {n: p for n, p in job.parameters().items() if n.endswith(PART)}


def gradient(job, parameters, example):
    """By backward, one example at a time."""
    for p in parameters.values():
        p.requires_grad_(True)
    job.scores([example]).loss().backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
        p.requires_grad_(False)
    return found


def test_fisher_squares_each_example_and_saliency_sums_before_its_absolute_value(job):
    parameters = some(job)
    examples = [*job.material.forget[:2], job.material.retain[0], job.material.text[0]]
    each = [gradient(job, parameters, e) for e in examples]
    squares, sums = fisher(job, parameters, examples), saliency(job, parameters, examples)
    for name in parameters:
        stacked = torch.stack([g[name] for g in each])
        torch.testing.assert_close(squares[name], stacked.square().mean(0), rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(sums[name], stacked.sum(0).abs(), rtol=1e-3, atol=1e-6)
        if name == "lm_head.weight":  # of batch means: another thing
            assert not torch.allclose(squares[name], stacked.mean(0).square(), rtol=0.1, atol=1e-9)
    assert not any(p.requires_grad for p in job.model.parameters())
    assert all(p.grad is None for p in job.model.parameters())


def test_top_share_counts_over_all_weights_together():
    scores = {"a": torch.tensor([[5.0, 1.0], [4.0, 0.0]]), "b": torch.tensor([3.0, 2.0, 0.5, 0.1])}
    chosen = top_share(scores, 0.375)
    assert chosen["a"].tolist() == [[True, False], [True, False]]
    assert chosen["b"].tolist() == [True, False, False, False]
    ties = top_share({"a": torch.zeros(10)}, 0.3)["a"]
    assert int(ties.sum()) == 3
    assert all(bool(m.all()) for m in top_share(scores, 1.0).values())
    with pytest.raises(UnseeError, match="above 0"):
        top_share(scores, 0.0)
    with pytest.raises(UnseeError, match="no numbers"):
        top_share({**scores, "c": torch.tensor([float("nan")])}, 0.5)


def test_nothing_to_score_is_an_error(job):
    job.material = replace(job.material, text=())
    with pytest.raises(UnseeError, match="no examples"):
        fisher(job, some(job), job.material.text)
