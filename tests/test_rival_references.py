"""The controls: nothing at all, and noise as large as unsee's change."""

from __future__ import annotations

import pytest
import torch
from tests.small_job import given_job, given_llava  # noqa: F401  (fixtures: job, llava)

from unsee.config import ForgetConfig
from unsee.rivals import noise, noop, ours

SMALL = ForgetConfig(steps=2, batch=4, stop=0, bf16=False)


def test_noop_leaves_every_byte(job):
    noop.METHOD.forget(job, noop.METHOD.settings())
    assert not job.changed()
    assert list(job.model.state_dict()) == list(job.vanilla)  # adapters are gone
    assert job.trained == 0
    assert not any(p.requires_grad for p in job.model.parameters())


def test_noise_is_as_large_as_unsees_change_in_the_same_layers(llava):
    ours.METHOD.forget(llava, SMALL)
    theirs = llava.changed()
    llava.restore()
    assert not llava.changed()
    found = []
    for _ in range(2):
        noise.METHOD.forget(llava, SMALL)
        found.append(llava.changed())
        llava.restore()
    assert set(found[0]) == set(theirs)
    assert len(theirs) > 2
    for name, delta in theirs.items():
        assert torch.equal(found[0][name], found[1][name])
        assert float(found[0][name].norm()) == pytest.approx(float(delta.norm()), rel=1e-2)
        cosine = torch.nn.functional.cosine_similarity(found[0][name].flatten(), delta.flatten(), 0)
        assert abs(float(cosine)) < 0.05
