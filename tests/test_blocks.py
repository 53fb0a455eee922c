"""The upper part of a tower alone gives what the whole gives, and is used only where it does."""

from __future__ import annotations

import pytest
import torch

from unsee.data.folder import read_folder
from unsee.vision.blocks import HIDDEN, Upper, upper_layers
from unsee.vision.module import Visual, load_visual


@pytest.fixture
def visual(checkpoint) -> Visual:
    return load_visual(checkpoint)


@pytest.fixture
def shown(visual, images):
    return visual.pixels([c.images[0] for c in read_folder(images / "known").concepts])


def test_depth_takes_the_last_blocks_and_what_runs_after(visual, shown):
    layers = visual.linears(shown[:1])
    sizes = [len(upper_layers(visual, layers, shown[:1], depth)) for depth in (0.01, 0.4, 0.99)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] <= len(layers)
    last = upper_layers(visual, layers, shown[:1], 0.01)
    assert any("projector" in n or "merger" in n for n in last)
    assert len({n.split(".mlp")[0] for n in last if "blocks" in n or "layers" in n}) >= 1


def test_the_upper_part_gives_what_the_whole_gives(visual, shown):
    layers = visual.linears(shown[:1])
    whole = visual.features(shown)
    upper = Upper(visual, layers, upper_layers(visual, layers, shown[:1], 0.3), shown[:2], len(shown), bf16=False)
    looked = upper.look(shown)
    assert all(HIDDEN in p for p in shown)
    with torch.no_grad():
        for a, b, c in zip(upper.features(shown), looked, whole, strict=True):
            assert torch.allclose(a, c, atol=1e-5) and torch.equal(b, c)


def test_it_follows_a_change_of_upper_layers_and_not_of_lower_ones(visual, shown):
    layers = visual.linears(shown[:1])
    trained = upper_layers(visual, layers, shown[:1], 0.3)
    upper = Upper(visual, layers, trained, shown[:2], len(shown), bf16=False)
    upper.look(shown)
    with torch.no_grad():
        before = torch.stack(upper.features(shown))
        lower = next(m for n, m in layers.items() if n not in trained)
        lower.weight.mul_(1.5)
        assert torch.equal(before, torch.stack(upper.features(shown)))
        layers[trained[0]].weight.mul_(1.5)
        assert not torch.allclose(before, torch.stack(upper.features(shown)))


def test_a_tower_that_reads_lower_blocks_runs_whole(visual, shown, monkeypatch):
    layers = visual.linears(shown[:1])
    lower = visual.model.get_submodule(next(iter(layers)).split(".self_attn")[0].split(".attn")[0])
    plain, seen = visual.features, []
    lower.register_forward_hook(lambda _m, _x, out: seen.append(out))

    def features(batch):
        found = plain(batch)
        return [f + seen[-1].mean() for f in found]

    monkeypatch.setattr(visual, "features", features)
    upper = Upper(visual, layers, upper_layers(visual, layers, shown[:1], 0.3), shown[:2], len(shown), bf16=False)
    upper.look(shown)
    assert all(HIDDEN not in p for p in shown)


def test_what_would_not_fit_in_memory_is_not_remembered(visual, shown):
    layers = visual.linears(shown[:1])
    Upper(visual, layers, upper_layers(visual, layers, shown[:1], 0.3), shown[:2], 10**9, bf16=False).look(shown)
    assert all(HIDDEN not in p for p in shown)


def test_the_projector_alone_reruns_one_block_and_an_early_layer_all(visual, shown):
    layers = visual.linears(shown[:1])
    late = [n for n in layers if "projector" in n or "merger" in n]
    early = [next(iter(layers)), *late]
    Upper(visual, layers, early, shown[:2], len(shown), bf16=False).look(shown)
    assert all(HIDDEN not in p for p in shown)
    Upper(visual, layers, late, shown[:2], len(shown), bf16=False).look(shown)
    assert all(HIDDEN in p for p in shown)
