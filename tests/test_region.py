"""Where forgotten images are sent, and how it is told that they have left."""

from __future__ import annotations

import pytest
import torch

from unsee.config import ForgetConfig
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


@pytest.mark.parametrize("kind", ["neutral", "mean"])
def test_the_target_is_the_same_picture_of_nobody(sets, kind):
    forget, neutral, retain = sets
    region = Region(kind, forget, neutral, retain)
    nobody = torch.stack((neutral if kind == "neutral" else retain).before).mean(0)
    old = torch.stack(forget.before[:6])
    new = region.aim(range(6)).unflatten(1, old.shape[1:])
    assert torch.allclose(new - new.mean(0), old - old.mean(0), atol=1e-5)  # what the view adds is untouched
    assert (new.mean(0) - nobody).norm() < 0.25 * (old.mean(0) - nobody).norm()


def test_the_reference_target_is_the_reference(sets):
    forget, neutral, retain = sets
    reference = [torch.randn(TOKENS, WIDTH) for _ in forget.before]
    region = Region("reference", forget, neutral, retain, reference)
    assert torch.equal(region.aim(range(len(forget))), torch.stack(reference).flatten(1))


def test_nothing_is_left_of_an_identity_at_its_target_and_half_on_the_way(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    aims = list(region.aim(range(len(forget))).unflatten(1, (TOKENS, WIDTH)))
    half = [(a + b) / 2 for a, b in zip(aims, forget.before, strict=True)]
    for share, now in ((1.0, forget.before), (0.5, half), (0.0, aims)):
        assert torch.allclose(region.left(forget, now), torch.tensor(share), atol=1e-4)


def test_a_concept_shows_itself_and_others_do_not(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    own = region.shown(forget)[range(len(forget)), [region.index[c] for c in forget.concepts]]
    assert (own - 1).abs().max() < 0.3
    assert region.shown(neutral).amax() < 0.7


@pytest.mark.parametrize("bf16", [False, True])
def test_forgetting_costs_nothing_at_the_target_and_much_before(sets, bf16):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    every = list(range(len(forget)))
    config = ForgetConfig(floor=1.0, bf16=bf16)
    there = region.losses(list(region.aim(every).unflatten(1, (TOKENS, WIDTH))), every, [], [], config, (len(every), 0))
    assert {k: v.item() for k, v in there.items()} == {"forget": 0.0, "anchor": 0.0}
    before = region.losses(forget.before, every, [], [], config, (len(every), 0))
    assert before["forget"].item() > 0.1 and before["anchor"].item() > 0.1


def test_drift_is_nothing_for_the_same_and_about_one_for_another_image(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)

    def keep(stay, old):
        return region.losses(forget.before[:1], [0], stay, old, ForgetConfig(), (1, len(old)))["keep"].item()

    assert keep(neutral.before, neutral.before) == 0.0
    assert 0.5 < keep(neutral.before[:20], neutral.before[20:]) < 4.0


def test_bfloat16_changes_the_terms_by_less_than_a_hundredth(sets):
    forget, neutral, retain = sets
    region = Region("neutral", forget, neutral, retain)
    given = (forget.before[:6], list(range(6)), neutral.before[:20], neutral.before[20:])
    fast, exact = (region.losses(*given, ForgetConfig(bf16=b), (6, 20)) for b in (True, False))
    for name, value in exact.items():
        assert fast[name].item() == pytest.approx(value.item(), rel=0.01), name


def test_a_batch_in_parts_has_the_loss_of_the_whole(sets):
    forget, neutral, retain = sets
    region, config = Region("neutral", forget, neutral, retain), ForgetConfig(bf16=False)
    stay, old = neutral.before[:9], neutral.before[9:18]
    whole = region.losses(forget.before[:5], list(range(5)), stay, old, config, (5, 9))
    parts = [
        region.losses(forget.before[:3], [0, 1, 2], [], [], config, (5, 9)),
        region.losses(forget.before[3:5], [3, 4], stay[:2], old[:2], config, (5, 9)),
        region.losses([], [], stay[2:], old[2:], config, (5, 9)),
    ]
    for name, value in whole.items():
        assert sum(p[name].item() for p in parts if name in p) == pytest.approx(value.item(), rel=1e-4), name
