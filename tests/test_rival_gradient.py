"""The gradient family: what each method does to a small model is what it is for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from tests.small_job import SHAPES, lent, small_job
from torch import Tensor

from unsee.concepts import UNKNOWN
from unsee.rivals import answers, dpo, ga, graddiff, gru, kl, llmu, npo, po, sku
from unsee.rivals.job import Job
from unsee.rivals.loop import Step, schedule, shown, train
from unsee.rivals.material import Example
from unsee.rivals.method import Method, Training

FAMILY = (ga, graddiff, kl, npo, dpo, po, gru, llmu, sku)
FAST = {"steps": 3, "batch": 2, "lr": 1e-2, "rank": 4, "bf16": False}


@cache
def taught(shape: str) -> Job:
    """A model that knows what it is to forget and to retain: ascent on an untaught one shows nothing."""
    job = small_job(shape)
    config = Training(steps=25, batch=3, lr=3e-3, weights="full", bf16=False)

    def losses(step: Step) -> dict[str, Tensor]:
        return {name: job.scores(shown(job, step, name)).loss() for name in ("forget", "retain")}

    with job.training(config, "language") as parameters:
        train(job, config, parameters, losses)
    return Job(job.model, job.processor, job.material)


@pytest.fixture(params=SHAPES)
def job(request):
    yield from lent(taught(request.param))


@pytest.fixture
def llava():
    yield from lent(taught("llava"))


def run(job: Job, method: object, **settings: object) -> dict[str, Tensor]:
    """The weights that the method changed."""
    m: Method = method.METHOD
    m.forget(job, m.settings(**{**FAST, **settings}))
    return {n: job.model.state_dict()[n].clone() for n in job.changed()}


@torch.no_grad()
def loss(job: Job, examples: list[Example]) -> float:
    return job.scores(examples).loss().item()


@pytest.mark.parametrize("method", FAMILY, ids=lambda m: m.METHOD.name)
def test_every_method(job, method):
    """Adapters change the language model's linear layers, all of them, and no other byte; the same again, and back."""
    first = run(job, method)
    assert set(first) == {f"{n}.weight" for n in job.linears("language")}
    assert job.trained > 0 and all(torch.isfinite(w).all() for w in first.values())
    forgotten = loss(job, job.material.forget)
    job.restore()
    assert not job.changed() and forgotten > loss(job, job.material.forget)
    again = run(job, method)
    assert again.keys() == first.keys() and all(torch.equal(first[n], again[n]) for n in first)


def test_po_trains_towards_the_refusal(llava):
    """The published code trained the true answers in its place: then the refusal would not be learned."""
    refused = answers.refusing(llava, llava.material.forget, UNKNOWN)
    assert {q.answer for e in refused for q in e.questions} == {UNKNOWN}
    before = loss(llava, refused), loss(llava, llava.material.forget)
    run(llava, po, steps=12)
    assert loss(llava, refused) < before[0] - 1 and loss(llava, llava.material.forget) > before[1] + 1


def test_dpo_prefers_by_training(llava):
    refused = answers.refusing(llava, llava.material.forget, UNKNOWN)
    before = loss(llava, refused) - loss(llava, llava.material.forget)
    run(llava, dpo, retain_weight=0)
    assert loss(llava, refused) - loss(llava, llava.material.forget) < before - 1


def test_kl_holds_what_is_to_stay(llava):
    """With a large weight the retained predictions move less than under ascent alone."""
    kept = llava.material.retain
    with torch.no_grad():
        before = llava.scores(kept).logits

    def moved(**settings: float) -> float:
        run(llava, kl, **settings)
        with torch.no_grad():
            found = kl.divergence(before, llava.scores(kept).logits).mean().item()
        llava.restore()
        return found

    assert moved(retain_weight=30.0) < 0.5 * moved(retain_weight=1e-6)


def test_llmu_learns_answers_of_others(llava):
    pool = answers.answers_of(llava.material.retain)
    steps = schedule(llava.material, llmu.Config(**FAST))
    wrong = [e for s in steps for e in answers.mismatched(llava, s, pool, 5, 0)]
    before = loss(llava, wrong)
    run(llava, llmu)
    assert loss(llava, wrong) < before


def test_sku_subtracts_what_it_learned(llava):
    sku.learn(llava, sku.Config(**FAST, disassociation_weight=1e-3, divergence_weight=1e-3))
    learned = {n: d.clone() for n, d in llava.changed().items()}
    assert loss(llava, llava.material.forget) < loss_of_vanilla(llava)
    sku.negate(llava, 2.0)
    for name, delta in learned.items():
        torch.testing.assert_close(llava.model.state_dict()[name], llava.vanilla[name] - 2 * delta)
    assert llava.changed().keys() == learned.keys()
    assert loss(llava, llava.material.forget) > loss_of_vanilla(llava)


def loss_of_vanilla(job: Job) -> float:
    now = {n: t.clone() for n, t in job.model.state_dict().items()}
    job.model.load_state_dict(job.vanilla)
    found = loss(job, job.material.forget)
    job.model.load_state_dict(now)
    return found


def test_graddiff_without_retain_is_ascent(llava):
    alone = run(llava, ga)
    llava.restore()
    both = run(llava, graddiff, retain_weight=0.0)
    assert both.keys() == alone.keys() and all(torch.equal(both[n], alone[n]) for n in alone)
    llava.restore()
    other = run(llava, graddiff, retain_weight=1.0)
    assert not all(torch.equal(other[n], alone[n]) for n in alone)


@pytest.mark.parametrize(("job", "base"), [("llava", npo), ("qwen2_vl", ga)], indirect=["job"])
def test_gru_without_conflict_is_its_base(job, base, monkeypatch):
    monkeypatch.setattr(job, "material", replace(job.material, retain=job.material.forget))  # a conflict is certain
    alone = run(job, base, retain_weight=0.0)
    job.restore()
    conflicting = run(job, gru, base=base.METHOD.name)
    assert not all(torch.equal(conflicting[n], alone[n]) for n in alone)
    job.restore()
    monkeypatch.setattr(gru, "product", lambda a, b: 1.0)  # as if no two gradients conflicted
    free = run(job, gru, base=base.METHOD.name)
    assert free.keys() == alone.keys() and all(torch.equal(free[n], alone[n]) for n in alone)


def test_gru_averages_the_retained_gradient(llava, monkeypatch):
    newest, averages, plain = [], [], gru.train

    def train(job, config, parameters, losses, combine, steps, state):
        def spied(gradients):
            newest.append(gradients["retain"])
            return combine(gradients)

        return plain(job, config, parameters, losses, spied, steps, state=state)

    def rectified(forget, retain):
        averages.append([r.clone() for r in retain])
        return forget

    monkeypatch.setattr(gru, "train", train)
    monkeypatch.setattr(gru, "rectified", rectified)
    run(llava, gru)
    wanted = [torch.zeros_like(g) for g in newest[0]]
    for new, got in zip(newest, averages, strict=True):
        wanted = [0.8 * n + 0.2 * w for n, w in zip(new, wanted, strict=True)]
        torch.testing.assert_close(got, wanted)
    assert len(averages) == FAST["steps"]
