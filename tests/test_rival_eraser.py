"""VL-Eraser: adapters that retained images do not reach are taught what is to be forgotten, and subtracted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_job import given_job  # noqa: F401  (fixture: job)

from unsee.errors import UnseeError
from unsee.rivals import vl_eraser
from unsee.rivals.feedforward import feed_forward, watched

METHOD = vl_eraser.METHOD
FAST = {"steps": 5, "batch": 4, "lr": 1e-2, "tolerance": 0.1, "bf16": False}


def layers(job):
    return {n: m for block in feed_forward(job, "language").values() for n, m in block.items()}


def test_basis_and_projection_by_hand():
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.normal(size=(6, 6)))[0], np.linalg.qr(rng.normal(size=(5, 5)))[0]
    pooled = left[:, :5] * [10, 3, 1.01, 0.99, 0] @ right.T  # singular values, known
    basis = vl_eraser.used_directions(torch.tensor(pooled), 0.1).numpy()
    np.testing.assert_allclose(basis @ basis.T, right[:, :3] @ right[:, :3].T, atol=1e-12)
    x = rng.normal(size=(4, 5))
    spared = vl_eraser.projected(torch.tensor(x), torch.tensor(basis)).numpy()
    np.testing.assert_allclose(spared, x @ (np.eye(5) - right[:, :3] @ right[:, :3].T), atol=1e-12)
    exact = vl_eraser.used_directions(torch.tensor(pooled), 1e-9).numpy()
    np.testing.assert_allclose(pooled @ (np.eye(5) - exact @ exact.T), 0, atol=1e-12)


def test_unlikeness_and_its_gradient_by_hand():
    rng = np.random.default_rng(1)
    t, s = rng.normal(size=(2, 3, 4)).astype(np.float32)
    student = torch.tensor(s, requires_grad=True)
    value = vl_eraser.unlikeness(torch.tensor(t), student)
    norm_t, norm_s = (np.linalg.norm(x, axis=1, keepdims=True) for x in (t, s))
    cosine = (t * s).sum(1, keepdims=True) / (norm_t * norm_s)
    assert value.item() == pytest.approx(1 - cosine.mean(), rel=1e-5)
    value.backward()
    by_hand = -(t / (norm_t * norm_s) - cosine * s / norm_s**2) / len(s)
    np.testing.assert_allclose(student.grad.numpy(), by_hand, rtol=1e-4, atol=1e-6)


def test_retained_images_use_what_their_tokens_average_to(job):
    """By hand: the input of the first layer at the image's positions, an image at a time."""
    config = vl_eraser.Config(**FAST)
    name, layer = next(iter(layers(job).items()))
    rows = []
    for example in job.material.retain:
        seen: list[torch.Tensor] = []
        row = job.tutor.row(example.questions, len(job.features([example])[0]))
        where = torch.tensor(row.prefix) == job.tutor.image_token
        with torch.no_grad(), watched({name: layer}, lambda n, x, seen=seen: seen.append(x)):
            job.scores([example])
        rows.append(seen[0][0, : len(where)][where].mean(0))
    expected = vl_eraser.used_directions(torch.stack(rows), config.tolerance)
    found = vl_eraser.spared(job, layers(job), config)[name]
    torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=1e-3, rtol=0)


def test_adapter_is_beside_its_layer_then_subtracted(job):
    config = vl_eraser.Config(**FAST)
    found = layers(job)
    adapters = vl_eraser.Adapters(found, vl_eraser.spared(job, found, config), vl_eraser.fresh(found, config), 2.0)
    examples = job.material.forget
    real = vl_eraser.places(job, examples)[1]
    with torch.no_grad():
        before = job.scores(examples).logits
        with vl_eraser.beside(adapters, real) as unlike:
            learned = job.scores(examples).logits
        assert len(unlike) == len(found) and all(0 < u < 2 for u in unlike)
        adapters.subtract(-1.0)  # added: as if it stood beside
        torch.testing.assert_close(job.scores(examples).logits, learned, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(before, learned, atol=1e-4)
    for name, change in job.changed().items():
        basis = adapters.bases[name.removesuffix(".weight")]
        assert (change @ basis).norm() < 1e-4 * change.norm(), "retained images do not reach it"
        assert torch.linalg.matrix_rank(change) <= config.rank


def test_only_feed_forward_layers_change_and_the_answers_are_lost(job):
    def run(**settings):
        METHOD.forget(job, METHOD.settings(**FAST | settings))
        with torch.no_grad():
            loss = job.scores(job.material.forget).loss().item()
        found = {n: d.clone() for n, d in job.changed().items()}
        job.restore()
        assert not job.changed()
        return found, loss

    with torch.no_grad():
        before = job.scores(job.material.forget).loss().item()
    job.restore()  # features too: of another batch they differ in their last bits
    changed, after = run(balance=0.0, strength=3.0)  # an untaught model: what is learned is the answers
    assert after > before
    assert changed.keys() == {f"{n}.weight" for n in layers(job)}
    again, _ = run(balance=0.0, strength=3.0)
    assert all(torch.equal(changed[n], again[n]) for n in changed)
    _, same = run(balance=0.0, strength=1e-9)  # control: it is the subtraction that forgets
    assert same == pytest.approx(before, abs=1e-4)


def test_distillation_makes_adapters_like_their_layers(job, monkeypatch):
    kept: list = []
    train = vl_eraser.train
    monkeypatch.setattr(vl_eraser, "train", lambda *args, **kwargs: kept.extend(train(*args, **kwargs)))
    METHOD.forget(job, METHOD.settings(**FAST | {"steps": 8, "balance": 1.0}))
    assert kept[-1]["distil"] < 0.97 * kept[0]["distil"] and kept[-1]["answers"] == 0


def test_no_room_and_no_retained_images_are_errors(job, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UnseeError, match="Raise tolerance"):
        patch.setattr(vl_eraser, "used_directions", lambda rows, tolerance: torch.eye(rows.shape[1]))
        METHOD.forget(job, METHOD.settings(**FAST))
    crowded, free = [n for n in layers(job) if "down" not in n], [f"{n}.weight" for n in layers(job) if "down" in n]
    with monkeypatch.context() as patch:  # layers without room keep their bytes
        width = job.model.get_submodule(crowded[0]).in_features
        real = vl_eraser.used_directions
        patch.setattr(
            vl_eraser, "used_directions", lambda r, t: torch.eye(width) if r.shape[1] == width else real(r, t)
        )
        METHOD.forget(job, METHOD.settings(**FAST | {"steps": 1}))
    assert crowded and sorted(job.changed()) == sorted(free)
    job.restore()
    job.material = replace(job.material, retain=())
    with pytest.raises(UnseeError, match="has none"):
        METHOD.forget(job, METHOD.settings(**FAST))
    for wrong in ({"weights": "full"}, {"balance": 1.5}, {"tolerance": 1.0}, {"strength": 0.0}):
        with pytest.raises(UnseeError):
            vl_eraser.Config(**wrong)
    assert not job.changed()
