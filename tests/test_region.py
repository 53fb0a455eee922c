"""Where forgotten images are sent, and how it is told that they have left."""

from __future__ import annotations

import pytest
import torch

from unsee.forgetting.region import Images, Region

TOKENS, WIDTH = 6, 8


def images(prefix: str, concepts: int, views: int, seed: int) -> Images:
    """Features = what the concept adds + what the view adds."""
    generator = torch.Generator().manual_seed(seed)
    who = torch.randn(concepts, TOKENS, WIDTH, generator=generator)
    before, names = [], []
    for c in range(concepts):
        for _ in range(views):
            before.append(who[c] + 0.3 * torch.randn(TOKENS, WIDTH, generator=generator))
            names.append(f"{prefix}{c}")
    return Images([None] * len(names), names, before)


@pytest.fixture
def sets() -> tuple[Images, Images, Images]:
    return images("f", 3, 6, 0), images("n", 20, 2, 1), images("r", 10, 2, 2)


def test_the_neutral_target_is_the_same_picture_with_a_neutral_concept_in_it(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    moved = torch.stack([region.aim(i) for i in range(6)]).mean(0)
    means = {c: torch.stack([f for f, g in zip(neutral.before, neutral.concepts, strict=True) if g == c]).mean(0)
             for c in neutral.concepts}  # fmt: skip
    assert min((moved - m).abs().max().item() for m in means.values()) < 1e-5
    view = region.aim(0) - torch.stack([region.aim(i) for i in range(6)]).mean(0)
    old = forget.before[0] - torch.stack(forget.before[:6]).mean(0)
    assert torch.allclose(view, old, atol=1e-5)  # what the view adds is untouched


def test_the_mean_target_hits_no_single_retained_concept(sets):
    forget, neutral, retain = sets
    region = Region("mean", forget, Images([], []), retain)
    moved = torch.stack([region.aim(i) for i in range(6)]).mean(0)
    assert torch.allclose(moved, torch.stack(retain.before).mean(0), atol=1e-5)


def test_the_reference_target_is_the_reference(sets):
    forget, neutral, retain = sets
    reference = [torch.randn(TOKENS, WIDTH) for _ in forget.before]
    region = Region("reference", forget, neutral, retain, reference)
    assert all(torch.equal(region.aim(i), reference[i]) for i in range(len(forget)))


def test_likeness_is_one_before_and_falls_on_the_way(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    check = images("f", 3, 6, 0)
    assert region.likeness(check, check.before) == pytest.approx(1.0)
    aims = [region.aim(i) for i in range(len(forget))]
    half = [(a + b) / 2 for a, b in zip(aims, forget.before, strict=True)]
    assert 1.0 > region.likeness(check, half) > region.likeness(check, aims)
    assert region.likeness(check, aims) < 0.6  # the nearest neutral concept is the most alike


def test_loss_is_nothing_under_the_floor_and_high_before(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    every = list(range(len(forget)))
    aims = [region.aim(i) for i in every]
    assert region.loss(forget.before, every, 0.1, 0.0).item() > 1.0
    assert region.loss(aims, every, 0.1, 1.0).item() == 0.0


def test_drift_is_nothing_for_the_same_and_about_one_for_another_image(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    assert region.drift(neutral.before, neutral.before).item() == 0.0
    assert 0.5 < region.drift(neutral.before[:20], neutral.before[20:]).item() < 4.0
