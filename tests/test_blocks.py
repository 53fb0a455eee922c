"""The upper part of a tower alone gives what the whole gives, and is used only where it does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unsee.data.folder import read_folder
from unsee.errors import UnseeError
from unsee.vision import blocks
from unsee.vision.blocks import HIDDEN, Upper, upper_layers
from unsee.vision.module import Visual, load_visual
from unsee.vision.trace import Linear, trace


@pytest.fixture
def visual(checkpoint) -> Visual:
    return load_visual(checkpoint)


@pytest.fixture
def shown(visual, images):
    return visual.pixels([c.images[0] for c in read_folder(images / "known").concepts])


@pytest.fixture
def layers(visual, shown) -> dict[str, Linear]:
    return trace(visual, shown[0]).linears


def upper_of(visual: Visual, layers: dict[str, Linear], shown, depth: float = 0.3, **settings) -> Upper:
    return Upper(visual, layers, upper_layers(layers, depth), shown[:2], bf16=False, **settings)


def close(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, two, strict=True))


def test_depth_takes_the_last_blocks_and_what_runs_after(layers):
    sizes = [len(upper_layers(layers, depth)) for depth in (0, 0.01, 0.4, 0.99)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] and sizes[1] < sizes[-1] <= len(layers)
    assert all("projector" in n or "merger" in n for n in upper_layers(layers, 0))
    last = upper_layers(layers, 0.01)
    assert any("projector" in n or "merger" in n for n in last)
    assert len({n.split(".mlp")[0] for n in last if "blocks" in n or "layers" in n}) >= 1


def test_depth_0_is_refused_where_nothing_runs_after_the_blocks(layers):
    with pytest.raises(UnseeError, match="nothing trains with --depth 0"):
        upper_layers({n: linear for n, linear in layers.items() if n not in upper_layers(layers, 0)}, 0)


def test_the_upper_part_gives_what_the_whole_gives(visual, layers, shown):
    whole = visual.features(shown)
    upper = upper_of(visual, layers, shown)
    looked = upper.look(shown)
    assert all(HIDDEN in p for p in shown)
    with torch.no_grad():
        assert close(upper.features(shown), whole) and close(upper.now(shown), whole)
    assert all(torch.equal(a, b) for a, b in zip(looked, whole, strict=True))


def test_it_follows_a_change_of_upper_layers_and_not_of_lower_ones(visual, layers, shown):
    upper = upper_of(visual, layers, shown)
    upper.look(shown)
    with torch.no_grad():
        before = torch.stack(upper.features(shown))
        lower = next(n for n in layers if n not in upper_layers(layers, 0.3))
        visual.model.get_submodule(lower).weight.mul_(1.5)
        assert torch.equal(before, torch.stack(upper.features(shown)))
        visual.model.get_submodule(upper_layers(layers, 0.3)[0]).weight.mul_(1.5)
        assert not torch.allclose(before, torch.stack(upper.features(shown)))


def test_a_tower_that_reads_lower_blocks_runs_whole(visual, layers, shown, monkeypatch):
    lower = visual.model.get_submodule(next(iter(layers)).split(".self_attn")[0].split(".attn")[0])
    plain, seen = visual.features, []
    lower.register_forward_hook(lambda _m, _x, out: seen.append(out))

    def features(batch):
        found = plain(batch)
        return [f + seen[-1].mean() for f in found]

    monkeypatch.setattr(visual, "features", features)
    upper_of(visual, layers, shown).look(shown)
    assert all(HIDDEN not in p for p in shown)


def test_what_does_not_fit_in_memory_goes_to_disk_and_comes_back(visual, layers, shown, monkeypatch, tmp_path):
    again = [dict(p) for p in shown]
    upper = upper_of(visual, layers, shown)
    upper.look(shown)
    monkeypatch.setattr(blocks, "ROOM", 1)
    on_disk = upper_of(visual, layers, again, folder=tmp_path)
    on_disk.look(again)
    assert on_disk.store.file is not None and not list(tmp_path.iterdir())  # a file without a name
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(upper.features(shown), on_disk.features(again), strict=True))


def test_recomputed_blocks_give_the_same_gradients_and_keep_less(visual, layers, shown):
    weight = visual.model.get_submodule(upper_layers(layers, 0.3)[0]).weight
    found = {}
    for checkpointing in (False, True):
        entered = [dict(p) for p in shown]
        upper = upper_of(visual, layers, entered, checkpointing=checkpointing)
        upper.look(entered)
        total = torch.stack([f.square().mean() for f in upper.features(entered)]).sum()
        found[checkpointing] = (torch.autograd.grad(total, weight)[0], upper._saved(shown[:1]))
    assert torch.allclose(found[True][0], found[False][0], rtol=1e-4, atol=1e-7)
    assert found[True][1] < 0.7 * found[False][1]


def test_the_projector_alone_reruns_no_block_and_an_early_layer_all(visual, layers, shown):
    late = upper_layers(layers, 0)
    Upper(visual, layers, [next(iter(layers)), *late], shown[:2], bf16=False).look(shown)
    assert all(HIDDEN not in p for p in shown)
    whole = visual.features(shown)
    upper = Upper(visual, layers, late, shown[:2], bf16=False)
    upper.look(shown)
    assert all(HIDDEN in p for p in shown) and not upper.blocks
    with torch.no_grad():
        for block in upper.lower:
            for weight in block.parameters():
                weight.zero_()
        assert close(upper.features(shown), whole)


def test_what_is_below_makes_room_and_comes_back(visual, layers, shown, tmp_path):
    upper = upper_of(visual, layers, shown, folder=tmp_path)
    upper.look(shown)
    before = {n: t.clone() for n, t in visual.tensors().items()}
    with torch.no_grad():
        whole = upper.features(shown)
        with upper.alone():
            assert sum(p.numel() == 0 for p in visual.parameters().values()) >= 8
            assert all(torch.equal(a, b) for a, b in zip(upper.features(shown), whole, strict=True))
    assert all(torch.equal(t, before[n]) for n, t in visual.tensors().items())
