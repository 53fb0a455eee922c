"""MANU: which neurons are told apart by their activity, and that they are cut and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_job import given_job  # noqa: F401  (fixture: job)

from unsee.errors import UnseeError
from unsee.rivals import manu
from unsee.rivals.feedforward import feed_forward, watched

METHOD = manu.METHOD


def test_importance_and_score_by_hand():
    rng = np.random.default_rng(0)
    m, t = rng.random((5, 3)), rng.random((4, 3)) * 0.3
    eps, tau = 1e-6, 0.1

    def apart(a, b):
        return np.abs(a - b) / (a + b + eps)

    by_hand = (
        apart(m.mean(0), t.mean(0))
        + apart((m > tau).sum(0), (t > tau).sum(0))
        + np.sqrt(m.var(0) + t.var(0))
        + np.sqrt(apart((m**2).sum(0), (t**2).sum(0)))
    )
    ours = manu.importance(torch.tensor(m), torch.tensor(t), tau)
    np.testing.assert_allclose(ours.numpy(), by_hand, rtol=1e-9)
    ratio = manu.score(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0]))
    np.testing.assert_allclose(ratio.numpy(), [2 / (1 + eps), 1 / (2 + eps)], rtol=1e-6)


def test_activity_is_that_of_the_neurons_of_one_example(job):
    """By hand, of the last layer's inputs; the vision encoder does not run on text."""
    for part in ("visual", "language"):
        name = [list(block)[-1] for block in feed_forward(job, part).values()][-1]
        module = job.model.get_submodule(name)
        assert name.endswith(("down_proj", "fc2"))
        examples = job.material.forget[:2]
        seen: list[torch.Tensor] = []
        with torch.no_grad(), watched({name: module}, lambda n, x, seen=seen: seen.append(x)):
            job.visual.features(job.pixels(examples[:1])) if part == "visual" else job.scores(examples[:1])
        found = manu.activity(job, part, [name], examples)[name]
        torch.testing.assert_close(found[0], seen[0].abs().reshape(-1, module.in_features).mean(0))
        assert found.shape == (2, module.in_features) and not torch.equal(found[0], found[1])
        text = manu.activity(job, part, [name], job.material.text)[name]
        assert bool(text.any()) == (part == "language")


def test_cut_neurons_give_nothing_and_all_else_keeps_its_bytes(job):
    METHOD.forget(job, METHOD.settings(share=0.05, examples=4))
    changed = {n: d.clone() for n, d in job.changed().items()}
    trained = job.trained
    now = {n: p.detach().clone() for n, p in job.parameters().items()}
    job.restore()
    assert not job.changed()
    assert trained == sum(int((d != 0).any(0).sum()) * len(d) for d in changed.values()) > 0
    for part in ("visual", "language"):
        closing = {f"{list(block)[-1]}.weight" for block in feed_forward(job, part).values()}
        hit = changed.keys() & job.parameters(part).keys()
        assert hit and hit <= closing
        cut = sum(int((now[n] == 0).all(0).sum()) for n in closing)
        neurons = sum(now[n].shape[1] for n in closing)
        assert cut == round(0.05 * neurons)
        for name in hit:
            columns = (changed[name] != 0).any(0)
            assert not now[name][:, columns].any() and not changed[name][:, ~columns].any()
    METHOD.forget(job, METHOD.settings(share=0.05, examples=4))
    assert all(torch.equal(changed[n], d) for n, d in job.changed().items())


def test_those_that_fire_for_the_forgotten_are_cut(job, monkeypatch):
    """A neuron made to matter to the forgotten images alone is the first to go."""
    name = [list(block)[-1] for block in feed_forward(job, "language").values()][0]
    real = manu.activity

    def activity(job, part, names, examples):
        found = real(job, part, names, examples)
        if part == "language" and examples[0].image and examples[0].concept == job.material.forget[0].concept:
            found[name][:, 7] = 100 * torch.arange(len(examples)).float()
        return found

    monkeypatch.setattr(manu, "activity", activity)
    METHOD.forget(job, METHOD.settings(share=1 / 512, examples=6))
    assert not job.model.get_submodule(name).weight[:, 7].any()
    job.restore()
    monkeypatch.setattr(manu, "activity", real)
    METHOD.forget(job, METHOD.settings(share=1 / 512, examples=6))
    assert job.model.get_submodule(name).weight[:, 7].any()


def test_only_the_last_layers_where_asked(job):
    METHOD.forget(job, METHOD.settings(share=0.05, layers=1, examples=2))
    assert len(job.changed()) == 2


def test_what_it_cannot_do_is_said_before_anything_changes(job):
    whole, job.material = job.material, replace(job.material, forget_text=())
    with pytest.raises(UnseeError, match="by name alone"):
        METHOD.forget(job, METHOD.settings())
    job.material = whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unsee.rivals.feedforward.NAMES", ("elsewhere",))
        with pytest.raises(UnseeError, match="no feed-forward layers"):
            METHOD.forget(job, METHOD.settings())
    assert not job.changed()
    for wrong in ({"share": 0.0}, {"share": 1.0}, {"layers": -1}, {"examples": 0}):
        with pytest.raises(UnseeError):
            manu.Config(**wrong)
