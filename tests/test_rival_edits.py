"""AlphaEdit and SLUG: their algebra by hand, and what they change of small models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_job import given_job, given_llava  # noqa: F401  (fixtures: job, llava)

from unsee.errors import UnseeError
from unsee.rivals import alphaedit, slug
from unsee.rivals.job import Job
from unsee.rivals.method import Method


def bytes_of(job: Job) -> dict[str, bytes]:
    return {n: t.numpy().tobytes() for n, t in job.model.state_dict().items()}


def twice(job: Job, method: Method, **settings: object) -> set[str]:
    """Names of what changed; the same bytes both times."""
    found = []
    for _ in range(2):
        method.forget(job, method.settings(**settings))
        found.append((bytes_of(job), set(job.changed())))
        job.restore()
    assert found[0] == found[1]
    return found[0][1]


def loss(job: Job, name: str = "forget") -> float:
    job.refresh()
    with torch.no_grad():
        return float(job.scores(getattr(job.material, name)).loss())


# AlphaEdit


def test_the_solve_is_alphaedits():
    """W (1 - M) x = W x + Delta x, with Delta = R K1ᵀ P (K1 K1ᵀ P + L2 I)⁻¹ and R = -W A, by NumPy."""
    d, n, rng = 5, 40, np.random.default_rng(0)
    K1, A, U = rng.normal(size=(d, n)), rng.normal(size=(d, n)), np.linalg.qr(rng.normal(size=(d, 3)))[0]
    W, P = rng.normal(size=(4, d)), U @ U.T
    second = K1 @ K1.T / n
    L2 = 0.3 * np.trace(second) / d
    delta = (-W @ A) @ (K1.T / n) @ P @ np.linalg.inv(second @ P + L2 * np.eye(d))
    M = alphaedit.solve(*map(torch.tensor, (second, A @ K1.T / n, P)), 0.3).numpy()
    assert np.allclose(-W @ M, delta)
    assert np.abs(delta).max() > 0.1
    assert np.abs(delta @ (np.eye(d) - P)).max() < 1e-12  # nothing happens outside the null space
    free = alphaedit.solve(*map(torch.tensor, (second, A @ K1.T / n, np.eye(d))), 0.3).numpy()
    assert np.abs(W @ free @ (np.eye(d) - P)).max() > 0.1  # without the projector it does


def test_what_is_lacking_is_a_concepts_way_to_nobody():
    """The mean of a xᵀ over all rows, summed row by row in NumPy."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 2, 3))  # images, places, width
    whose, nobody = np.array([0, 0, 1, 1, 1, 0]), rng.normal(size=(1, 2, 3))
    expected = np.zeros((3, 3))
    for i in range(6):
        for p in range(2):
            away = x[whose == whose[i], p].mean(0) - nobody[0, p]
            expected += np.outer(away, x[i, p]) / 12
    sums = torch.tensor(np.stack([x[whose == c].sum(0) for c in (0, 1)]))
    known = alphaedit.Inputs(torch.eye(3), sums, torch.full((2, 2), 3.0))
    other = alphaedit.Inputs(torch.eye(3), torch.tensor(4 * nobody), torch.full((1, 2), 4.0))
    assert np.allclose(alphaedit.lacking(known, other), expected)


def features(job: Job, name: str) -> dict[str, torch.Tensor]:
    """Mean features of each concept, [tokens, width]."""
    job.refresh()
    examples = getattr(job.material, name)
    found: dict[str, list[torch.Tensor]] = {}
    for e, f in zip(examples, job.features(examples), strict=True):
        found.setdefault(e.concept, []).append(f)
    return {c: torch.stack(fs).mean(0) for c, fs in found.items()}


@pytest.mark.parametrize(("job", "depth"), [("llava", 0.0), ("qwen2_vl", 0.2)], indirect=["job"])
def test_alphaedit_brings_concepts_to_nobody(job, depth):
    def apart() -> float:
        nobody = torch.stack(list(features(job, "neutral").values())).mean(0)
        return sum(float((f - nobody).norm() / nobody.norm()) for f in features(job, "forget").values())

    before = apart()
    alphaedit.METHOD.forget(job, alphaedit.Config(depth=depth, rule="soft", value=0.01, ridge=0.03))
    assert apart() < 0.75 * before
    layers = job.linears("visual")
    edited = {n.removesuffix(".weight") for n in job.changed()}
    assert edited <= set(layers)
    assert set(job.linears("projector")) <= edited
    assert (edited == set(job.linears("projector"))) == (depth == 0)
    assert job.trained == sum(layers[n].weight.numel() for n in edited)


def test_places_of_images_of_several_sizes_count_as_one(job):
    """What a layer is given, place by place and summed up, is what a hook sees."""
    probe, (name, layer) = job.pixels(job.material.forget[:2]), next(iter(job.linears("projector").items()))
    upper = alphaedit.Upper(job.visual, alphaedit.trace(job.visual, probe[0]).linears, [name], probe, bf16=False)
    shown = alphaedit._shown(job, upper, job.material.forget, 100)
    apart, whole = (alphaedit._inputs(upper, layer, shown, one) for one in (False, True))
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    job.visual.features(job.pixels(job.material.forget))
    hook.remove()
    x = seen[0].double().reshape(6, -1, layer.in_features)  # three views each of two people
    assert torch.allclose(apart.sums, torch.stack([x[:3].sum(0), x[3:].sum(0)]), atol=1e-3)
    assert apart.counts.tolist() == [[3.0] * x.shape[1]] * 2
    assert torch.allclose(whole.sums, apart.sums.sum(1, keepdim=True))
    assert whole.counts.tolist() == [[3.0 * x.shape[1]]] * 2
    rows = x.flatten(0, 1)
    assert torch.allclose(apart.second, rows.T @ rows / len(rows), atol=1e-3)


def test_alphaedits_null_space_holds_what_stays(llava):
    """Retained features move less than without a projector, in proportion to what is forgotten."""
    stay, moved = features(llava, "retain"), {}
    for rule in ("none", "tail"):
        alphaedit.METHOD.forget(llava, alphaedit.Config(depth=0, rule=rule, value=0.01, ridge=1e-3))
        moved[rule] = sum(float((f - stay[c]).norm()) for c, f in features(llava, "retain").items())
        llava.restore()
    assert 0 < moved["tail"] < 0.5 * moved["none"]


def test_alphaedit_is_deterministic_and_refuses(llava):
    twice(llava, alphaedit.METHOD)
    llava.material = replace(llava.material, neutral=())
    with pytest.raises(UnseeError, match="neutral"):
        alphaedit.METHOD.forget(llava, alphaedit.Config())
    with pytest.raises(UnseeError, match="ridge"):
        alphaedit.Config(ridge=0)
    with pytest.raises(UnseeError, match="rule"):
        alphaedit.Config(rule="smallest")


# SLUG


def test_the_front_holds_what_no_other_beats():
    importance, alignment = [1.0, 3.0, 2.0, 0.5], [0.1, 0.5, 0.6, 0.05]
    assert slug.front(importance, alignment) == [1, 0, 3]  # 2 is less important and more aligned than 1
    assert slug.front([1.0, 2.0], [0.2, 0.1]) == [1]


def test_the_search_finds_where_forgetting_ends():
    """Right answers about images to forget end at 0.35; retained ones suffer from 0.5 on."""
    tried = []

    def judge(step: float) -> tuple[float, float]:
        tried.append(step)
        return float(step < 0.35), 1 - max(0.0, step - 0.5)

    score, step = slug.search(judge, slug.Config(gone=0.05, start=0.1, searches=8))
    assert tried[:4] == pytest.approx([0.1, 0.2, 0.4, 0.3])
    assert 0.35 <= step < 0.36
    assert score == pytest.approx(0.95)


@pytest.mark.parametrize(("job", "part"), [("llava", "tower"), ("qwen2_vl", "visual")], indirect=["job"])
def test_slug_steps_along_the_forget_gradient_in_one_layer(job, part):
    config = slug.Config(part=part, searches=3, layers=1)
    before, weights = loss(job), slug._layers(job, config)
    gradient = slug._gradient(job, weights, slug._halves(job.material.forget, config)[0])
    assert not any(p.requires_grad for p in job.model.parameters())
    slug.METHOD.forget(job, config)
    ((name, delta),) = job.changed().items()
    name = name.removesuffix(".weight")
    assert name in weights
    cosine = torch.nn.functional.cosine_similarity(delta.flatten(), gradient[name].flatten(), 0)
    assert cosine == pytest.approx(1, abs=1e-3)
    assert job.trained == delta.numel()
    assert loss(job) > before


def test_slugs_gradient_is_that_of_the_mean_loss(job):
    """By finite differences along it, and the retained half differs."""
    config = slug.Config()
    weights, examples = slug._layers(job, config), job.material.forget
    gradient = slug._gradient(job, weights, examples)
    name = max(gradient, key=lambda n: float(gradient[n].norm()))
    way, old = gradient[name] / gradient[name].norm(), weights[name].detach().clone()
    found = []
    for step in (0.01, -0.01):
        slug._put(job, weights[name], old + step * way)
        found.append(loss(job))
    assert (found[0] - found[1]) / 0.02 == pytest.approx(float(gradient[name].norm()), rel=0.05)


def test_slug_is_deterministic(llava):
    assert len(twice(llava, slug.METHOD, searches=2, layers=2)) == 1
