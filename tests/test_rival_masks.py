"""MMUnlearner and VKD: whose weights climb the forgotten answers' loss, and that no other moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_job import given_job, given_llava  # noqa: F401  (fixtures: job, llava)
from torch import nn

from unsee.errors import UnseeError
from unsee.rivals import mmunlearner, vkd
from unsee.rivals.saliency import saliency, top_share

FAST = {"steps": 2, "batch": 3, "lr": 1e-3, "bf16": False}


def loss(job) -> float:
    with torch.no_grad():
        return job.scores(job.material.forget).loss().item()


def run(job, method, **settings):
    """The change of each weight that changed, and the loss of the forgotten answers; then as it was."""
    method.forget(job, method.settings(**FAST | settings))
    found = {n: d.clone() for n, d in job.changed().items()}, loss(job)
    job.restore()
    assert not job.changed()
    return found


def test_ratio_mask_and_masked_step_by_hand():
    rng = np.random.default_rng(0)
    gone, kept = rng.random((2, 4, 5))
    kept[0, 0] = gone[0, 0] = 0.0  # matters to nobody: a ratio of one
    for threshold in (0.5, 1.0, 2.0):
        ours = mmunlearner.ratio_mask(torch.tensor(gone), torch.tensor(kept), threshold).numpy()
        assert (ours == ((gone + 1e-15) / (kept + 1e-15) >= threshold)).all()
        assert ours[0, 0] == (threshold <= 1)
    mask = ours.astype(float)
    f, r = rng.normal(size=(2, 4, 5))
    step = mmunlearner.combined({"forget": [torch.tensor(f)], "retain": [torch.tensor(r)]}, [torch.tensor(mask)])
    np.testing.assert_allclose(step[0].numpy(), f * mask + r)
    masked = vkd.masked({"forget": [torch.tensor(f)], "retain": [torch.tensor(r)]}, [torch.tensor(mask)])
    np.testing.assert_allclose(masked[0].numpy(), (f + r) * mask)


def test_feature_distance_and_its_gradient_by_hand():
    rng = np.random.default_rng(1)
    now = [[rng.normal(size=(2, 3)), rng.normal(size=(4, 5))], [rng.normal(size=(6, 3)), rng.normal(size=(1, 5))]]
    then = [[rng.normal(size=v.shape) for v in views] for views in now]
    ours = [[torch.tensor(v, requires_grad=True) for v in views] for views in now]
    value = vkd.distance(ours, [[torch.tensor(v) for v in views] for views in then])
    flat = [[v for views in image for v in views] for image in (now, then)]
    by_hand = np.mean([((a - b) ** 2).mean() for a, b in zip(*flat, strict=True)])
    assert value.item() == pytest.approx(by_hand, rel=1e-5)
    value.backward()
    expected = 2 * (now[1][0] - then[1][0]) / now[1][0].size / 4
    np.testing.assert_allclose(ours[1][0].grad.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("job", "weights"), [("qwen2_vl", "lora"), ("llava", "full")], indirect=["job"])
def test_mmunlearner_moves_what_its_mask_lets(job, weights, monkeypatch):
    """With no retained gradient, a weight whose mask is zero keeps its bytes; those with a one move."""
    method, seen = mmunlearner.METHOD, {}
    real = mmunlearner.checked

    def spy(parameters, masks):
        seen.update(parameters=parameters, masks=masks, before={n: p.detach().clone() for n, p in parameters.items()})
        seen["order"] = real(parameters, masks)
        return seen["order"]

    def train(job, config, parameters, losses, combine):
        def only_forget(found):
            return combine({**found, "retain": [torch.zeros_like(g) for g in found["retain"]]})

        history = TRAIN(job, config, parameters, losses, only_forget)
        seen["after"] = {n: p.detach().clone() for n, p in parameters.items()}
        return history

    monkeypatch.setattr(mmunlearner, "checked", spy)
    monkeypatch.setattr(mmunlearner, "train", train)
    method.forget(job, method.settings(**FAST | {"steps": 1, "weights": weights, "fisher_examples": 3}))
    assert set(seen["masks"]) == set(seen["parameters"])
    if weights == "lora":
        assert all("lora_" in n for n in seen["masks"])
        closed = [n for n in seen["masks"] if "lora_B" in n]
        assert closed and all(not seen["before"][n].any() for n in closed), "second factors are zero again"
        first = torch.cat([m.flatten() for n, m in seen["masks"].items() if "lora_A" in n])
        assert 0 < first.float().mean() < 1, "first factors are told apart too"
    for name, mask in seen["masks"].items():
        moved = seen["after"][name] != seen["before"][name]
        assert not moved[~mask].any(), name
    assert any((seen["after"][n] != seen["before"][n]).any() for n in seen["masks"])


TRAIN = mmunlearner.train


@pytest.mark.parametrize(("job", "weights"), [("llava", "lora"), ("qwen2_vl", "full")], indirect=["job"])
def test_mmunlearner_forgets_in_both_parts_the_same_each_time(job, weights):
    before = loss(job)
    changed, after = run(job, mmunlearner.METHOD, weights=weights, fisher_examples=2, forget_weight=3.0)
    again, _ = run(job, mmunlearner.METHOD, weights=weights, fisher_examples=2, forget_weight=3.0)
    assert after > before
    assert all(torch.equal(changed[n], again[n]) for n in changed) and changed.keys() == again.keys()
    for part in ("language", "visual"):
        assert changed.keys() & job.parameters(part).keys()


def test_mmunlearner_preserves_text_in_the_language_model_only(job):
    """Without text to preserve its language masks differ, its visual ones do not."""
    config = mmunlearner.Config(weights="full", fisher_examples=2)
    with job.training(config, "all") as parameters:
        masks = mmunlearner.fisher_masks(job, parameters, config)
        whole = job.material
        job.material = replace(whole, text=whole.text[:1], forget_text=())
        other = mmunlearner.fisher_masks(job, parameters, config)
        job.material = whole
    inner = job.parameters("language").keys()
    assert all(torch.equal(masks[n], other[n]) for n in masks.keys() - inner)
    assert any(not torch.equal(masks[n], other[n]) for n in inner)


def test_masks_that_fit_nothing_or_select_nothing_are_errors(job):
    parameters = {"a": nn.Parameter(torch.zeros(2, 2)), "b": nn.Parameter(torch.zeros(3))}
    some = {"a": torch.eye(2).bool(), "b": torch.zeros(3).bool()}
    assert [m.shape for m in mmunlearner.checked(parameters, some)] == [(2, 2), (3,)]
    for wrong in ({"a": some["a"]}, {**some, "b": torch.ones(4).bool()}, {**some, "base_model.c": some["b"]}):
        with pytest.raises(UnseeError, match="do not match"):
            mmunlearner.checked(parameters, wrong)
    for value, word in ((True, "all ones"), (False, "all zeros")):
        with pytest.raises(UnseeError, match=word):
            mmunlearner.checked(parameters, {n: torch.full(p.shape, value) for n, p in parameters.items()})
    with pytest.raises(UnseeError, match="all zeros"):
        run(job, mmunlearner.METHOD, threshold=1e30, fisher_examples=1)
    assert not job.changed()
    job.material = replace(job.material, text=(), forget_text=())
    with pytest.raises(UnseeError, match="by name"):
        run(job, mmunlearner.METHOD)


def test_vkd_trains_a_share_of_the_visual_weights_and_no_other(job):
    before, visual = loss(job), job.parameters("visual")
    share = 0.25
    masks = top_share(saliency(job, visual, job.material.forget), share)
    changed, after = run(job, vkd.METHOD, share=share)
    assert after > before
    assert changed.keys() <= visual.keys()
    for name, mask in masks.items():
        moved = changed.get(name, torch.zeros_like(mask)) != 0
        assert not moved[~mask].any(), name
    total = sum(int((d != 0).sum()) for d in changed.values())
    assert total == pytest.approx(sum(int(m.sum()) for m in masks.values()), rel=0.05)
    everything, _ = run(job, vkd.METHOD, share=1.0)  # control: it is the mask that holds them
    assert sum(int((d != 0).sum()) for d in everything.values()) > 2 * total
    again, _ = run(job, vkd.METHOD, share=share)
    assert all(torch.equal(changed[n], again[n]) for n in changed)


def test_vkd_holds_retained_features_at_the_teacher(llava):
    """The heavier the teacher, the nearer; both views of an image are compared."""
    projector = dict(list(llava.linears("projector").items())[:1])
    examples = llava.material.retain

    def drift(weight: float) -> float:
        vkd.METHOD.forget(llava, vkd.METHOD.settings(**FAST | {"steps": 4, "retain_weight": weight}))
        with torch.no_grad():
            far = vkd.distance(vkd.views(llava, projector, examples), then).item()
        llava.restore()
        return far

    with torch.no_grad():
        then = vkd.views(llava, projector, examples)
        one = vkd.views(llava, projector, examples[:1])[0]
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, then[0], strict=True)), "batched as alone"
        assert len(one) == 2 and torch.allclose(one[1], llava.features(examples[:1])[0], atol=1e-4)
    assert drift(1000.0) < 0.7 * drift(1e-6)


def test_vkd_refuses_adapters():
    with pytest.raises(UnseeError, match="'full'"):
        vkd.Config(weights="lora")
