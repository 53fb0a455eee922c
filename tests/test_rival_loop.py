"""What every method trained by a gradient relies on: parts of a batch, adapters, resuming, and errors that are seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.small_job import given_job, given_llava  # noqa: F401  (fixtures: job, llava)
from torch import Tensor

from unsee.errors import UnseeError
from unsee.rivals import ga, graddiff, gru, loop, npo, po
from unsee.rivals.job import Job, Scored
from unsee.rivals.loop import Gradients, schedule, shown, train
from unsee.rivals.method import Training

FAST = {"steps": 3, "batch": 4, "lr": 1e-3, "rank": 4, "bf16": False}


def run(job: Job, method, **settings: object) -> dict[str, Tensor]:
    """The weights after the method, and the job as it was."""
    method.forget(job, method.METHOD.settings(**{**FAST, **settings}))
    found = {n: t.clone() for n, t in job.model.state_dict().items()}
    job.restore()
    return found


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max(float((one[n] - other[n]).abs().max()) for n in one)


@pytest.mark.parametrize("method", [graddiff, npo, gru], ids=lambda m: m.METHOD.name)
def test_a_batch_in_parts_is_the_batch(llava, method):
    """Batch 8 is batch 4 twice, up to rounding; another batch is another result."""
    whole = run(llava, method, batch=8)
    parts = run(llava, method, batch=8, accumulate=2)
    assert apart(whole, parts) < 1e-5 and apart(whole, llava.vanilla) > 1e-4
    assert apart(whole, run(llava, method, batch=4)) > 1e-5  # another batch is seen


def test_unequal_parts_are_refused():
    with pytest.raises(UnseeError, match="4 cannot be cut into 3"):
        Training(batch=4, accumulate=3)


@pytest.mark.parametrize("setting", ["lr", "batch", "accumulate", "rank", "alpha", "clip"])
def test_zero_is_refused(setting):
    with pytest.raises(UnseeError, match=f"{setting} is 0; it must be above 0"):
        Training(**{setting: 0})


def test_all_images_to_forget_are_seen(llava):
    places = [i for step in schedule(llava.material, Training(batch=2)) for i in step.forget]
    assert sorted(places) == list(range(len(llava.material.forget)))
    assert schedule(llava.material, Training(seed=1)) != schedule(llava.material, Training())
    assert [s.number for s in schedule(llava.material, Training(steps=9))] == list(range(9))


@torch.no_grad()
def predictions(job: Job) -> Tensor:
    return job.scores(job.material.retain).logits


def test_merged_adapters_predict_as_unmerged(job):
    before, config = predictions(job), Training(**{**FAST, "lr": 1e-2})
    with job.training(config, "language") as parameters:
        train(job, config, parameters, lambda s: {"forget": -job.scores(shown(job, s, "forget")).loss()})
        unmerged = predictions(job)
    torch.testing.assert_close(predictions(job), unmerged, rtol=1e-5, atol=1e-5)
    assert (unmerged - before).abs().max() > 1e-2
    assert not hasattr(job.model, "peft_config") and not any("lora" in n for n in job.model.state_dict())


@pytest.mark.parametrize(
    ("part", "weights"), [("language", "lora"), ("language", "full"), ("visual", "lora"), ("projector", "full")]
)
def test_what_trains_changes_and_nothing_else(job, part, weights):
    wanted = job.parameters(part) if weights == "full" else {f"{n}.weight" for n in job.linears(part)}
    with job.training(Training(**FAST, weights=weights), part) as parameters:
        train(job, Training(**FAST), parameters, lambda s: {"forget": -job.scores(shown(job, s, "forget")).loss()})
    assert set(job.changed()) == set(wanted) and len(wanted) < len(job.vanilla)
    assert job.trained == sum(p.numel() for p in parameters.values())
    assert not any(p.requires_grad for p in job.model.parameters())
    job.restore()
    assert not job.changed() and job.trained == 0
    assert all(torch.equal(t, job.vanilla[n]) for n, t in job.model.state_dict().items())


def test_what_was_seen_before_does_not_matter(job):
    """Features of images that were made for something else are those that training would make, to the bit."""
    fresh = run(job, ga, bf16=True)
    predictions(job)
    job.features(job.material.forget)
    assert apart(fresh, run(job, ga, bf16=True)) == 0


def test_what_a_model_says_of_many_is_what_it_says_of_each(job):
    asked = [*job.material.forget[:3], *job.material.text[:2], job.material.retain[0]]
    together = job.reference(asked, Scored.log_probs)
    for example, found in zip(asked, together, strict=True):
        (alone,) = job.reference([example], Scored.log_probs)
        assert len(found) == len(example.questions)
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [po, gru], ids=lambda m: m.METHOD.name)
def test_an_interrupted_training_goes_on_to_the_bit(llava, method, tmp_path, monkeypatch):
    settings = {"steps": 5, "batch": 2, "lr": 1e-2}
    whole = run(llava, method, **settings)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(llava, "checkpoint", tmp_path)
    seen = interrupt(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt):
        method.forget(llava, method.METHOD.settings(**{**FAST, **settings}))
    llava.restore()
    assert (tmp_path / "training" / "training.safetensors").is_file()
    seen.clear()
    assert apart(whole, run(llava, method, **settings)) == 0
    assert seen == [2, 3, 4]


def interrupt(monkeypatch, at: int) -> list[int]:
    """The first time that step ``at`` begins it is interrupted. Returns the steps that are begun."""
    seen, plain, waiting = [], loop._backward, [at]

    def backward(job, config, weights, step, *rest):
        seen.append(step.number)
        if waiting == [step.number]:
            raise KeyboardInterrupt(waiting.pop())
        return plain(job, config, weights, step, *rest)

    monkeypatch.setattr(loop, "_backward", backward)
    return seen


def test_what_a_method_remembers_is_resumed_too(llava, tmp_path, monkeypatch):
    """GRU's running average: forgotten at an interruption, the rest of the run would be another."""
    settings = {"steps": 5, "batch": 2, "lr": 1e-2, "smoothing": 0.3}
    whole = run(llava, gru, **settings)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    differences = []
    for kept in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(llava, "checkpoint", tmp_path / str(kept))
            if not kept:
                patch.setattr(gru, "train", lambda *args, state: train(*args))
            interrupt(patch, at=3)
            with pytest.raises(KeyboardInterrupt):
                gru.forget(llava, gru.Config(**{**FAST, **settings}))
            llava.restore()
            differences.append(apart(whole, run(llava, gru, **settings)))
    assert differences[0] == 0 < differences[1]


@pytest.mark.parametrize("what", ["settings", "model", "material"])
def test_the_checkpoint_of_another_run_is_refused(llava, tmp_path, monkeypatch, what):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(llava, "checkpoint", tmp_path)
    run(llava, ga)
    if what == "model":
        name = next(iter(llava.vanilla))
        monkeypatch.setitem(llava.vanilla, name, llava.vanilla[name] + 1)
    if what == "material":
        monkeypatch.setattr(llava, "material", replace(llava.material, forget=llava.material.forget[::-1]))
    with pytest.raises(UnseeError, match="interrupted run"):
        ga.forget(llava, ga.Config(**{**FAST, "lr": 1e-3 if what != "settings" else 1e-4}))


def test_a_loss_that_is_no_number_is_one_clear_error(llava):
    with pytest.raises(UnseeError, match=r"a loss of .*nan.* at step 0. Lower lr \(now 0.001\)"):
        descend(llava, lambda weight: weight.sum() * float("nan"))


def test_a_gradient_that_is_no_number_is_one_too(llava):
    """The square root of 0 is a number and its slope is none: one step later the weights would be lost."""
    with pytest.raises(UnseeError, match="gradient is no number at step 0"):
        descend(llava, lambda weight: (weight - weight.detach()).sum().sqrt())
    assert all(torch.isfinite(t).all() for t in llava.model.state_dict().values())


@pytest.mark.parametrize("combine", [None, lambda gradients: gradients["forget"]], ids=["sum", "combined"])
def test_a_loss_that_reaches_no_parameter_is_an_error(llava, combine):
    with pytest.raises(UnseeError, match="reaches any of the"):
        descend(llava, lambda weight: torch.ones(()), combine)


def descend(job: Job, loss: Callable[[Tensor], Tensor], combine: Any = None) -> None:
    """Train on a loss of the first parameter alone."""
    config = Training(**FAST)
    with job.training(config, "language") as parameters:
        weight = next(iter(parameters.values()))
        train(job, config, parameters, lambda step: {"forget": loss(weight)}, combine)


@pytest.mark.parametrize("method", [graddiff, npo, po, gru], ids=lambda m: m.METHOD.name)
def test_a_missing_set_is_named(llava, method, monkeypatch):
    monkeypatch.setattr(llava, "material", replace(llava.material, retain=()))
    with pytest.raises(UnseeError, match="trains on 'retain' examples, and none were given"):
        method.forget(llava, method.METHOD.settings(**FAST))
    assert not any(p.requires_grad for p in llava.model.parameters())


def test_losses_and_combinations_agree(llava):
    """The sum of the losses' gradients by ``combine`` is the gradient of their sum."""

    def summed(gradients: Mapping[str, Gradients]) -> Gradients:
        return [a + b for a, b in zip(gradients["forget"], gradients["retain"], strict=True)]

    def trained(combine) -> dict[str, Tensor]:
        config = Training(**FAST)
        with llava.training(config, "language") as parameters:
            train(llava, config, parameters, losses, combine)
        found = {n: t.clone() for n, t in llava.model.state_dict().items()}
        llava.restore()
        return found

    def losses(step: loop.Step) -> dict[str, Tensor]:
        return {n: job_loss(llava, step, n) for n in ("forget", "retain")}

    assert apart(trained(None), trained(summed)) < 1e-5


def job_loss(job: Job, step: loop.Step, name: str) -> Tensor:
    return job.scores(shown(job, step, name)).loss()
