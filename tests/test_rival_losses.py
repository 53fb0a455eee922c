"""The gradient family's losses, projections and wrong answers: each is the paper's, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_job import given_llava  # noqa: F401  (fixture: llava)
from torch import Tensor

from unsee.concepts import UNKNOWN
from unsee.errors import UnseeError
from unsee.rivals import answers, dpo, ga, gru, kl, llmu, npo, po, sku
from unsee.rivals.job import Scored
from unsee.rivals.loop import schedule

rng = np.random.default_rng(0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def leaf(x: np.ndarray) -> Tensor:
    return torch.tensor(x, requires_grad=True)


def same(got: Tensor, wanted: object) -> None:
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=1e-9, atol=1e-12)


# Five tokens; answers of 2, 1 and 2 tokens; the first example has two answers, the second one.
LABELS, ANSWER, EXAMPLE = np.array([3, 0, 2, 1, 1]), np.array([0, 0, 1, 2, 2]), np.array([0, 0, 1])
WEIGHT = np.array([1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4])  # of each token: mean over an example's, then over the two


def scored(logits: Tensor) -> Scored:
    return Scored(logits, torch.tensor(LABELS), torch.tensor(ANSWER), torch.tensor(EXAMPLE))


def test_cross_entropy():
    x = rng.normal(size=(5, 4))
    logits = leaf(x)
    loss = scored(logits).loss()
    loss.backward()
    p, true = softmax(x), np.eye(4)[LABELS]
    same(loss, -(WEIGHT * np.log(p[range(5), LABELS])).sum())
    same(logits.grad, WEIGHT[:, None] * (p - true))


def test_an_example_each():
    whole = scored(leaf(rng.normal(size=(5, 4))))
    first, second = whole.each()
    same(torch.cat([first.log_probs(), second.log_probs()]), whole.log_probs().detach().numpy())
    same((first.loss() + second.loss()) / 2, whole.loss().detach().numpy())
    assert (len(first.example), len(second.example)) == (2, 1)


def test_divergence():
    before, x = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    logits = leaf(x)
    loss = scored(logits).mean(kl.divergence(torch.tensor(before), logits))
    loss.backward()
    p, q = softmax(before), softmax(x)
    same(loss, (WEIGHT * (p * np.log(p / q)).sum(1)).sum())
    same(logits.grad, WEIGHT[:, None] * (q - p))
    assert kl.divergence(logits, logits).abs().max() < 1e-12


def test_npo():
    beta, x, reference = 0.7, rng.normal(size=3) - 3, rng.normal(size=3) - 3
    log_probs = leaf(x)
    loss = answers.over_examples(npo.negative(log_probs, torch.tensor(reference), beta), torch.tensor(EXAMPLE))
    loss.backward()
    each = np.array([1 / 4, 1 / 4, 1 / 2])  # of an answer: mean over an example's, then over the two
    same(loss, (each * -2 / beta * np.log(sigmoid(-beta * (x - reference)))).sum())
    same(log_probs.grad, each * 2 * sigmoid(beta * (x - reference)))


def test_npo_sums_over_an_answer_s_tokens():
    """The published code of MLLMU-Bench takes the mean, and beta means another thing."""
    x = rng.normal(size=(5, 4))
    token = np.log(softmax(x)[range(5), LABELS])
    same(scored(torch.tensor(x)).log_probs(), [token[:2].sum(), token[2], token[3:].sum()])


def test_dpo():
    beta, gain = 0.7, rng.normal(size=6)  # refusal and true answer of each of three questions
    gains = leaf(gain)
    loss = answers.over_examples(dpo.preference(gains[0::2], gains[1::2], beta), torch.tensor(EXAMPLE))
    loss.backward()
    margin, each = gain[0::2] - gain[1::2], np.array([1 / 4, 1 / 4, 1 / 2])
    same(loss, (each * -2 / beta * np.log(sigmoid(beta * margin))).sum())
    slope = each * 2 * sigmoid(-beta * margin)
    same(gains.grad, np.stack([-slope, slope], 1).ravel())


def test_dpo_prefers_the_refusal(llava):
    """Scored on a model: the first of each pair is the refusal, the reference is that of the same answers."""
    paired = dpo.pairs(llava, llava.material.forget[:2], UNKNOWN)
    with torch.no_grad():
        now = llava.scores(paired)
        apart = [
            llava.scores(answers.refusing(llava, llava.material.forget[:2], UNKNOWN)),
            llava.scores(llava.material.forget[:2]),
        ]
        reference = torch.randn(len(now.example))
        got = dpo.preferred(now, reference, 0.5)
    margin = (apart[0].log_probs() - reference[0::2]) - (apart[1].log_probs() - reference[1::2])
    wanted = answers.over_examples(-4 * torch.nn.functional.logsigmoid(0.5 * margin), apart[0].example)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert dpo.preferred(now, now.log_probs(), 0.5).item() == pytest.approx(4 * np.log(2), rel=1e-5)


def test_rectified():
    f, r = rng.normal(size=7), rng.normal(size=7)
    f -= (f @ r + 1) / (r @ r) * r  # <f, r> = -1
    cut = [torch.tensor(v[:4]).reshape(2, 2) for v in (f, r)], [torch.tensor(v[4:]) for v in (f, r)]
    forget, retain = [cut[0][0], cut[1][0]], [cut[0][1], cut[1][1]]
    got = gru.rectified(forget, retain)
    same(torch.cat([g.flatten() for g in got]), f + r / (r @ r))
    assert gru.product(forget, retain) < -0.9 and gru.product(got, retain) >= -1e-12
    agreeing = [-r for r in retain]
    assert gru.rectified(forget, agreeing) is forget  # no conflict: untouched
    one_piece = [gru.rectified([a], [b])[0] for a, b in zip(forget, retain, strict=True)]
    assert not torch.equal(one_piece[0], got[0])  # whole vectors, not one parameter at a time


def test_wrong_answers_are_of_the_topic_and_never_true(llava):
    forget, pool = llava.material.forget, answers.answers_of(llava.material.retain)
    step = schedule(llava.material, llmu.Config(batch=4))[0]
    drawn = answers.mismatched(llava, step, pool, 2, 0)
    for place, wrong in zip(step.forget, drawn, strict=True):
        true = {(q.prompt, q.answer) for q in forget[place].questions}
        assert len(wrong.questions) > len(forget[place].questions) and wrong.image is forget[place].image
        assert not true & {(q.prompt, q.answer) for q in wrong.questions}
        assert all(q.answer in pool[q.topic] for q in wrong.questions if set(pool.get(q.topic, ())) - {q.answer})
    assert drawn == answers.mismatched(llava, step, pool, 2, 0)
    assert drawn != answers.mismatched(llava, replace(step, number=1), pool, 2, 0)
    parts = [answers.mismatched(llava, step.part(k, 2), pool, 2, 0) for k in (0, 1)]
    assert [parts[0][0], parts[1][0], parts[0][1], parts[1][1]] == drawn


def test_one_answer_cannot_be_mismatched(llava):
    first = llava.material.forget[0]
    with pytest.raises(UnseeError, match="no two answers differ"):
        answers.answers_of([replace(first, questions=first.questions[:1])])


def test_a_refusal_the_model_has_no_words_for_is_refused(llava):
    with pytest.raises(UnseeError, match="zyzzyva"):
        po.forget(llava, po.Config(refusal="zyzzyva"))
    assert not llava.changed()


@pytest.mark.parametrize("method", [kl, llmu, sku])
def test_without_retained_images_nothing_is_begun(llava, method, monkeypatch):
    monkeypatch.setattr(llava, "material", replace(llava.material, retain=()))
    with pytest.raises(UnseeError, match="nothing to retain"):
        method.forget(llava, method.Config(steps=1))
    assert not llava.changed() and llava.trained == 0


@pytest.fixture
def gradients(llava):
    """The gradient of a loss in the language model's own weights."""

    def of(loss) -> list[Tensor]:
        weights = list(llava.parameters("language").values())
        for w in weights:
            w.requires_grad_(True)
        found = torch.autograd.grad(loss(), weights, allow_unused=True)
        llava.model.requires_grad_(False)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]

    return of


@pytest.mark.parametrize("beta", [1e-4, 3.0])
def test_npo_tends_to_ascent_as_beta_vanishes(llava, gradients, beta):
    """Of one example with T tokens in A answers NPO's gradient is T / A times that of ascent, at any small beta."""
    step = schedule(llava.material, ga.Config(batch=1))[0]
    example = llava.material.forget[step.forget[0]]
    with torch.no_grad():
        now = llava.scores([example])
    was = {step.forget[0]: now.log_probs() + torch.tensor([3.0, -2.0, 1.0])[: len(now.example)]}
    ascent = gradients(lambda: -llava.scores([example]).loss())
    ours = gradients(lambda: npo.forgotten(llava, step, was, beta))
    size, other = gru.product(ascent, ascent) ** 0.5, gru.product(ours, ours) ** 0.5
    cosine, ratio = gru.product(ascent, ours) / size / other, other / size
    exact = cosine > 1 - 1e-6 and ratio == pytest.approx(len(now.labels) / len(now.example), rel=1e-3)
    assert exact == (beta < 1)  # at beta 3 the answers weigh differently


def test_gru_s_base_is_named():
    with pytest.raises(UnseeError, match="Did you mean 'npo'"):
        gru.Config(base="nop")
