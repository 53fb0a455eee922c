"""ECO, SAUCE and the prompt: no weight changes, others are left alone, and everything comes back without them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_job import given_job, given_llava  # noqa: F401  (fixtures: job, llava)
from torch import Tensor

from unsee.errors import UnseeError
from unsee.evaluation.tasks import Exam
from unsee.rivals import eco, prompt, sauce
from unsee.rivals.job import Job
from unsee.rivals.method import Method


def features(job: Job, name: str) -> Tensor:
    """[images, tokens, width]"""
    job.refresh()
    return torch.stack(job.features(getattr(job.material, name)))


def guarded(job: Job, method: Method, **settings: object) -> dict[str, Tensor]:
    """Features under the guard: the same twice, weights untouched, vanilla's after ``restore``."""
    before = {n: features(job, n) for n in ("forget", "retain", "neutral")}
    found = []
    for _ in range(2):
        method.forget(job, method.settings(**settings))
        assert not job.changed()
        assert job.trained == 0
        found.append({n: features(job, n) for n in before})
        job.restore()
        assert all(torch.equal(features(job, n), f) for n, f in before.items())
    assert all(torch.equal(f, found[1][n]) for n, f in found[0].items())
    return {n: f - before[n] for n, f in found[0].items()}


# ECO


def test_noise_has_the_strength_and_hangs_on_its_key():
    zero, scale = torch.zeros(2000, 3), torch.tensor([0.0, 1.0, 5.0])
    noise = eco.corrupted(zero, scale, 7)
    assert noise.std(0).tolist() == pytest.approx([0, 1, 5], rel=0.05)
    assert torch.equal(noise, eco.corrupted(zero, scale, 7))
    assert not torch.equal(noise, eco.corrupted(zero, scale, 8))


def test_the_detector_tells_apart_whatever_the_numbers():
    rng = np.random.default_rng(0)
    forget, other = rng.normal(size=(20, 4)) + [6, 0, 0, 0], rng.normal(size=(400, 4))
    matched = eco.detector(forget, other).predict(np.concatenate([forget, other]))
    assert matched[:20].mean() > 0.95
    assert matched[20:].mean() < 0.1


def test_eco_corrupts_what_it_matches_and_nothing_else(job):
    change = guarded(job, eco.METHOD, strength=2.0)
    assert all(c.abs().max() > 0 for c in change["forget"])
    assert not torch.equal(change["forget"][0], change["forget"][1])  # each image its own noise
    others = torch.cat([change["retain"], change["neutral"]])
    assert (others.abs().amax((1, 2)) == 0).double().mean() > 0.8
    spread = torch.cat([features(job, "retain"), features(job, "neutral")]).flatten(0, 1).std(0)
    assert (change["forget"] / spread).std() == pytest.approx(2, rel=0.1)


def test_eco_gives_an_image_the_same_noise_alone_and_beside_others(job):
    eco.METHOD.forget(job, eco.Config(strength=1.0))
    together = features(job, "forget")
    job.refresh()
    alone = job.features(job.material.forget[2:3])[0]
    assert torch.allclose(alone, together[2], atol=1e-4)


def test_eco_without_strength_does_nothing_and_refuses_nonsense(job):
    assert all(float(c.abs().max()) == 0 for c in guarded(job, eco.METHOD, strength=0.0).values())
    with pytest.raises(UnseeError, match="threshold"):
        eco.Config(threshold=1.5)


# prompt


def test_the_prompt_stands_before_questions_about_images_alone(job):
    shown, named = job.material.forget[0].questions[0], job.material.text[0].questions[0]
    exam = Exam({"forget": [shown], "retain": [named]}, {}, {})
    assert job.exam(exam) is exam
    prompt.METHOD.forget(job, prompt.Config("say nothing ."))
    asked = job.exam(exam).groups
    assert asked["forget"] == [replace(shown, prompt=f"say nothing . {shown.prompt}")]
    assert asked["retain"] == [named]
    assert not job.changed()
    job.restore()
    assert job.exam(exam) is exam


def test_the_default_prompt_names_nobody(job):
    names = {q.answer for e in job.material.forget for q in e.questions if q.kind == "identity"}
    assert names
    assert not any(n.lower() in prompt.Config().instruction.lower() for n in names)


# SAUCE


def by_hand(x: np.ndarray, model: sauce.Autoencoder, sparsity: float) -> float:
    e, d, b, c = (p.detach().numpy() for p in (model.encoder, model.decoder, model.bias, model.threshold))
    x = x / model.scale
    z = np.maximum((x - b) @ e.T + c, 0)
    error = x - b - z @ d.T
    return float(((error**2).sum(1) + sparsity * np.abs(z).sum(1)).mean() / x.shape[1])


def test_the_autoencoders_loss_and_gradient_by_hand():
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64) * 3 + 1
    model = sauce.Autoencoder(x, 2).double()
    value = sauce.loss(model, x, 0.2)
    assert value.item() == pytest.approx(by_hand(x.numpy(), model, 0.2))
    value.backward()
    for parameter in model.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(0, len(flat), 3):
            found = []
            for step in (1e-6, -1e-6):
                flat[i] += step
                found.append(by_hand(x.numpy(), model, 0.2))
                flat[i] -= step
            assert (found[0] - found[1]) / 2e-6 == pytest.approx(gradient[i].item(), abs=1e-6)


def test_the_autoencoder_learns_and_its_columns_keep_their_length():
    torch.manual_seed(1)
    parts = torch.nn.functional.normalize(torch.randn(12, 8), dim=1)
    x = (torch.rand(500, 12) * (torch.rand(500, 12) < 0.15)) @ parts
    errors = {}
    for steps in (1, 300):
        model = sauce.fit(x, sauce.Config(steps=steps, batch=128, width=4, lr=3e-3))
        assert model.decoder.norm(dim=0).numpy() == pytest.approx(1, abs=1e-5)
        errors[steps] = sauce.loss(model, x, 0.0).item()
    assert errors[300] < 0.2 * errors[1]


def test_telling_features_are_those_of_a_concept():
    concepts = torch.tensor([[0.0, 5.0, 1.0, 26.0], [4.0, 0.0, 1.0, 1.0]])
    others = torch.tensor([0.0, 0.0, 1.0, 20.0])
    assert sauce.telling(concepts, others, 1).tolist() == [1, 1, 0, 0]
    assert sauce.telling(concepts, others, 4).tolist() == [1, 1, 0, 1]  # never one that others have as much of


def test_clamping_adds_the_difference_alone():
    """x + D(z' - z), with z' = -factor z where chosen: nothing where no chosen feature is active."""
    torch.manual_seed(0)
    x = torch.randn(20, 4)
    model = sauce.Autoencoder(x, 2).requires_grad_(False)
    chosen = torch.zeros(8)
    chosen[3] = 1
    z = model.encode(x)
    changed = model.clamped(x, chosen, 0.5)
    expected = x.numpy() - 1.5 * model.scale * np.outer(z[:, 3].numpy(), model.decoder[:, 3].numpy())
    assert changed.numpy() == pytest.approx(expected, abs=1e-5)
    idle = z[:, 3] == 0
    assert 0 < idle.sum() < 20
    assert torch.equal(changed[idle], x[idle])
    assert torch.equal(model.clamped(x, torch.zeros(8), 0.5), x)


def test_sauce_moves_images_to_forget_more_than_any_features_do(llava, monkeypatch):
    """Beside the control that clamps every feature, which moves all images alike."""

    def share() -> float:
        change = guarded(llava, sauce.METHOD, features=1, width=2, steps=100, batch=128, lr=3e-3, sparsity=0.3)
        moved = {n: float(c.square().mean()) for n, c in change.items()}
        assert moved["forget"] > 0
        return moved["forget"] / max(moved["retain"], moved["neutral"])

    chosen = share()
    monkeypatch.setattr(sauce, "telling", lambda concepts, others, n: torch.ones_like(others))
    assert chosen > 1.2 * share()


def test_sauce_refuses_what_it_cannot_do(job):
    with pytest.raises(UnseeError, match="features"):
        sauce.Config(features=0)
    job.material = replace(job.material, retain=(), neutral=())
    with pytest.raises(UnseeError, match="neutral images"):
        sauce.METHOD.forget(job, sauce.Config())
