"""SalUn: the mask by hand, and that nothing outside it changes."""

from __future__ import annotations

import pytest
import torch
from tests.small_job import given_job  # noqa: F401  (fixture: job)

from unsee.errors import UnseeError
from unsee.rivals import salun
from unsee.rivals.job import Job


def loss(job: Job, name: str) -> float:
    with torch.no_grad():
        return float(job.scores(getattr(job.material, name)).loss())


def test_the_mask_is_on_the_sum_of_gradients():
    one, two = [torch.tensor([1.0, -2.0, 3.0])], [torch.tensor([10.0, 20.0, 30.0])]
    mask = [torch.tensor([True, False, True])]
    assert salun.masked({"random": one, "retain": two}, mask)[0].tolist() == [11, 0, 33]


def test_salun_trains_the_mask_and_nothing_else(job):
    seen: dict[str, torch.Tensor] = {}
    chosen = salun.top_share

    def kept(scores, share):
        seen.update(chosen(scores, share))
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(salun, "top_share", kept)
        salun.METHOD.forget(job, salun.Config(lr=1e-3, steps=3, batch=2, share=0.3))
    changed = job.changed()
    assert set(changed) <= set(seen) == set(job.parameters("language"))
    for name, mask in seen.items():
        moved = changed[name] != 0 if name in changed else torch.zeros_like(mask)
        assert not moved[~mask].any(), name  # bytes of what is outside are the same
        if mask.any() and "embed" not in name:  # words that no example has get no gradient
            assert moved[mask].double().mean() > 0.5, name
    assert job.trained == sum(int(m.sum()) for m in seen.values())
    total = sum(m.numel() for m in seen.values())
    assert job.trained == pytest.approx(0.3 * total, abs=1)


def test_without_a_mask_what_is_outside_moves(job):
    """The control of the test above: the same steps with every weight chosen."""
    salun.METHOD.forget(job, salun.Config(lr=1e-3, steps=3, batch=2, share=1.0))
    moved = sum(int((d != 0).sum()) for d in job.changed().values())
    assert moved > 0.6 * job.trained


def test_salun_makes_true_answers_less_likely(job):
    def gap() -> float:
        return loss(job, "forget") - loss(job, "retain")

    before = gap()
    salun.METHOD.forget(job, salun.Config(lr=3e-3, steps=12, batch=3))
    assert gap() > before


def test_salun_is_deterministic_and_refuses_adapters(job):
    found = []
    for _ in range(2):
        salun.METHOD.forget(job, salun.Config(lr=1e-3, steps=2, batch=2))
        found.append({n: t.numpy().tobytes() for n, t in job.model.state_dict().items()})
        job.restore()
    assert found[0] == found[1]
    with pytest.raises(UnseeError, match="full"):
        salun.METHOD.forget(job, salun.Config(weights="lora"))
