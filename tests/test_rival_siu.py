"""SIU: the dual masked divergence, the new answers, and what they do to a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_job import given_job  # noqa: F401  (fixture: job)

from unsee.concepts import UNKNOWN
from unsee.errors import UnseeError
from unsee.rivals import siu

METHOD = siu.METHOD
FAST = {"steps": 4, "batch": 3, "lr": 3e-3, "bf16": False}


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_dual_masked_divergence_and_its_gradient_by_hand():
    rng = np.random.default_rng(0)
    x, before = rng.normal(size=(4, 6)), log_softmax(rng.normal(size=(4, 6)))
    tokens, words = np.array([1, 0, 1, 1]), np.array([1, 1, 0, 1, 0, 1])
    logits = torch.tensor(x, requires_grad=True)
    ours = siu.dual_masked_kl(logits, torch.tensor(before), torch.tensor(tokens).bool(), torch.tensor(words).bool())
    p, q = np.exp(before), log_softmax(x)
    np.testing.assert_allclose(ours.detach().numpy(), (p * (before - q) * words).sum(1) * tokens, rtol=1e-9)
    ours.sum().backward()
    kept = (p * words).sum(1, keepdims=True)
    by_hand = (np.exp(q) * kept - p * words) * tokens[:, None]
    np.testing.assert_allclose(logits.grad.numpy(), by_hand, rtol=1e-9, atol=1e-12)
    both = torch.ones(4).bool(), torch.ones(6).bool()
    whole = siu.dual_masked_kl(torch.tensor(x), torch.tensor(before), *both)
    np.testing.assert_allclose(whole.numpy(), (p * (before - q)).sum(1), rtol=1e-9)
    assert (siu.dual_masked_kl(torch.tensor(before), torch.tensor(before), *both).abs() < 1e-12).all()


def test_new_answers_are_unknown_or_anothers(job):
    given = job.material
    retained = {(q.topic, q.answer) for e in given.retain for q in e.questions}
    for old in given.forget:
        new = siu.renewed(old, given.retain, np.random.default_rng(0))
        assert new.image is old.image and len(new.questions) == len(old.questions)
        for a, b in zip(new.questions, old.questions, strict=True):
            assert a.prompt == b.prompt and a.answer != b.answer
            assert (
                a.answer == UNKNOWN if a.kind == "identity" else (a.topic, a.answer) in {*retained, (a.topic, UNKNOWN)}
            )
    facts = [q for e in given.forget for q in siu.renewed(e, given.retain, np.random.default_rng(0)).questions]
    assert any(q.kind == "fact" and q.answer != UNKNOWN for q in facts)


def test_masks_leave_out_names_and_new_words(job):
    words = siu.kept_words(job, job.material.forget)
    names = {q.answer for e in job.material.forget for q in e.questions if q.kind == "identity"}
    masked = {t for name in names for t in job.tutor.answer(name)} - {job.tutor.end}
    assert set((~words).nonzero()[:, 0].tolist()) == masked and masked
    old = job.material.forget[0]
    new = siu.renewed(old, job.material.retain, np.random.default_rng(0))
    kept = siu.kept_tokens(job, new, old)
    answers = [t for q in new.questions for t in job.tutor.answer(q.answer)]
    assert len(kept) == len(answers) == len(job.scores([new]).labels)
    assert kept[[i for i, t in enumerate(answers) if t == job.tutor.end]].all() and not kept.all()
    assert siu.kept_tokens(job, old, old).all()


def test_few_images_of_each_concept(job):
    for most in (1, 2):
        found = siu.few_images(job.material.forget, most, np.random.default_rng(0))
        assert [e.concept for e in found] == [c for c in sorted({e.concept for e in found}) for _ in range(most)]
        assert len({e.image.id for e in found}) == 2 * most


def run(job, **settings):
    METHOD.forget(job, METHOD.settings(**FAST | settings))
    with torch.no_grad():
        loss = job.scores(job.material.forget).loss().item()
    found = {n: d.clone() for n, d in job.changed().items()}
    job.restore()
    assert not job.changed()
    return found, loss


def test_language_model_alone_changes_the_same_each_time(job):
    changed, _ = run(job)
    again, _ = run(job)
    linears = {f"{n}.weight" for n in job.linears("language")}
    assert changed.keys() == linears
    assert all(torch.equal(changed[n], again[n]) for n in changed)


def test_new_answers_become_likelier_than_the_old_and_the_rest_is_held(job):
    old = siu.few_images(job.material.forget, 1, np.random.default_rng([0, 17]))
    new = [siu.renewed(e, job.material.retain, np.random.default_rng(0)) for e in old]
    who = [replace(e, questions=tuple(q for q in e.questions if q.kind == "identity")) for e in [*new, *old]]
    words = siu.kept_words(job, job.material.forget)

    def look() -> tuple[float, torch.Tensor]:
        with torch.no_grad():
            logs = job.scores(who).log_probs()
            rest = job.scores(job.material.retain).logits.log_softmax(-1)
        return float(logs[: len(old)].mean() - logs[len(old) :].mean()), rest

    def drift(**settings) -> tuple[float, float]:
        METHOD.forget(job, METHOD.settings(**FAST | settings))
        prefers, rest = look()
        job.restore()
        return prefers, float(((rest - before[1]) * words).square().mean())

    before = look()
    free, held = drift(hold_weight=1e-6), drift(hold_weight=30.0)
    assert free[0] > before[0] + 0.5
    assert held[1] < 0.9 * free[1]


def test_what_it_needs(job):
    whole = job.material
    for lacking in ("retain", "forget_text"):
        job.material = replace(whole, **{lacking: ()})
        with pytest.raises(UnseeError, match="lacks them"):
            METHOD.forget(job, METHOD.settings(**FAST))
    job.material = whole
    assert not job.changed()
    with pytest.raises(UnseeError, match="at least one"):
        siu.Config(images=0)
