"""The contrast: where features go, and the space in which they are compared."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from unsee.errors import UnseeError
from unsee.forgetting import contrast


def test_loss_equals_the_formula_by_hand():
    torch.manual_seed(0)
    u, own, aims, crowd, centroids = (normalize(torch.randn(n, 8), dim=-1) for n in (3, 3, 3, 4, 2))
    for region in (crowd, None):
        got = contrast.loss(u, aims, own, centroids, 0.1, region)
        for i in range(3):
            positives = [aims[i], *([] if region is None else region)]
            pos = sum(torch.exp(u[i] @ p / 0.1) for p in positives)
            neg = torch.exp(u[i] @ own[i] / 0.1) + sum(torch.exp(u[i] @ c / 0.1) for c in centroids)
            assert got[i].item() == pytest.approx(-torch.log(pos / (pos + neg)).item(), rel=1e-4)


def test_loss_falls_as_a_feature_leaves_itself_for_the_region():
    own, region = normalize(torch.randn(1, 16), dim=-1), normalize(torch.randn(3, 16), dim=-1)
    path = [normalize((1 - t) * own + t * region[:1], dim=-1) for t in (0.0, 0.3, 0.6, 1.0)]
    losses = [contrast.loss(u, region[:1], own, own, 0.1, region[1:]).item() for u in path]
    assert losses == sorted(losses, reverse=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(4, 24))
def test_whitening_makes_views_vary_by_about_one_where_they_vary_most(seed, width):
    torch.manual_seed(seed)
    concepts = [str(i) for i in range(20) for _ in range(10)]
    identity = torch.randn(20, width).repeat_interleave(10, 0)
    pooled = identity + torch.randn(200, width) * torch.linspace(0.1, 5, width)
    space = contrast.fit_space(pooled, concepts)
    white = space.white(pooled)
    within = torch.cat([white[i * 10 : i * 10 + 10] - white[i * 10 : i * 10 + 10].mean(0) for i in range(20)])
    assert (within.square().sum(0) / 180).max().item() < 1.3


def test_whitened_cosine_tells_identity_where_the_plain_one_does_not():
    torch.manual_seed(0)
    width, concepts = 32, [str(i) for i in range(10) for _ in range(20)]
    gain = torch.cat([torch.full((4,), 20.0), torch.full((28,), 0.1)])  # four loud directions of views
    pooled = torch.randn(10, width).repeat_interleave(20, 0) + torch.randn(200, width) * gain
    space = contrast.fit_space(pooled, concepts)

    def right(u: torch.Tensor) -> float:
        centroid = torch.stack([u[i * 20 : i * 20 + 20].mean(0) for i in range(10)])
        return (
            ((u @ normalize(centroid, dim=-1).T).argmax(1) == torch.arange(10).repeat_interleave(20))
            .float()
            .mean()
            .item()
        )

    plain = normalize(pooled - pooled.mean(0), dim=-1)
    assert right(space.unit(space.identity(space.white(pooled)))) > 0.95 > right(plain) + 0.2


def test_what_many_views_tell_is_believed_more_than_what_one_does():
    torch.manual_seed(0)
    identity = torch.randn(40, 8)
    pooled = identity.repeat_interleave(10, 0) + 2 * torch.randn(400, 8)
    space = contrast.fit_space(pooled, [str(i) for i in range(40) for _ in range(10)])
    one, ten = (space.identity(space.white(identity), n) for n in (1, 10))
    assert (ten.norm(dim=1) > 1.5 * one.norm(dim=1)).all()


def test_rows_that_are_made_when_asked_for_give_the_same_as_a_tensor():
    torch.manual_seed(0)
    features = [torch.randn(3 + i % 2, 5) for i in range(150)]  # more than are taken at once
    whole, rows = contrast.flat(features, 3), contrast.Flat(features, 3)
    concepts = [str(i // 5) for i in range(150)]
    assert torch.allclose(contrast.mean(rows), whole.mean(0), atol=1e-6)
    assert contrast.variance(rows) == pytest.approx(float(whole.var(0).mean()), rel=1e-5)
    one, other = (contrast.fit_space(given, concepts) for given in (whole, rows))
    assert torch.equal(one.white(whole), other.white(rows))
    assert torch.allclose(one.white(whole), (whole - one.centre) @ one.read, atol=1e-5)


def test_directions_lead_out_of_the_space_and_back():
    torch.manual_seed(0)
    pooled = torch.randn(60, 12)
    space = contrast.fit_space(pooled, [str(i // 3) for i in range(60)])
    assert torch.allclose(space.white(pooled) @ space.write.T + space.centre, pooled, atol=1e-4)


def test_one_image_a_concept_is_refused():
    with pytest.raises(UnseeError, match="two images"):
        contrast.fit_space(torch.randn(3, 4), ["a", "b", "c"])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, contrast.PLACES), st.integers(1, 5))
def test_stretches_of_tokens_keep_the_mean_and_whole_features_stay_whole(places, tokens, width):
    torch.manual_seed(places + tokens)
    feature = torch.randn(tokens, width)
    assert torch.equal(contrast.flat([feature], tokens)[0], feature.flatten())
    if tokens % places == 0:
        flat = contrast.flat([feature], places)[0].unflatten(0, (places, width))
        assert torch.allclose(flat.mean(0), feature.mean(0), atol=1e-5)
