"""The controls: nothing at all, and noise as large as unsee's change."""

from __future__ import annotations

import pytest
import torch
from tests.small_job import SHAPES, small_job

from unsee.config import ForgetConfig
from unsee.rivals import noise, noop, ours
from unsee.rivals.job import Job

SMALL = ForgetConfig(steps=2, batch=4, stop=0, bf16=False)


@pytest.fixture(scope="module", params=SHAPES)
def job(request) -> Job:
    return small_job(request.param)


def test_noop_leaves_every_byte(job):
    noop.METHOD.forget(job, noop.METHOD.settings())
    assert not job.changed()
    assert list(job.model.state_dict()) == list(job.vanilla)  # adapters are gone
    assert job.trained == 0
    assert not any(p.requires_grad for p in job.model.parameters())


def test_noise_is_as_large_as_unsees_change_in_the_same_layers(job):
    ours.METHOD.forget(job, SMALL)
    theirs = job.changed()
    job.restore()
    assert not job.changed()
    found = []
    for _ in range(2):
        noise.METHOD.forget(job, SMALL)
        found.append(job.changed())
        job.restore()
    assert set(found[0]) == set(theirs)
    assert len(theirs) > 2
    for name, delta in theirs.items():
        assert torch.equal(found[0][name], found[1][name])
        assert float(found[0][name].norm()) == pytest.approx(float(delta.norm()), rel=1e-2)
        cosine = torch.nn.functional.cosine_similarity(found[0][name].flatten(), delta.flatten(), 0)
        assert abs(float(cosine)) < 0.05
