"""The visual module is loaded without its language model, and is the same module."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from unsee.data.folder import read_folder
from unsee.errors import UnseeError
from unsee.vision.module import Visual, load_full, load_visual
from unsee.vision.trace import follow, trace


@pytest.fixture(scope="module")
def shown(images):
    return [c.images[0] for c in read_folder(images / "known").concepts]


def features(visual: Visual, shown) -> list[torch.Tensor]:
    with torch.no_grad():
        return visual.features(visual.pixels(shown))


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def is_language(name: str) -> bool:
    return (
        "language_model" in name or "lm_head" in name or name.startswith(("model.layers", "model.embed", "model.norm"))
    )


def poison(file: Path, which) -> int:
    """Overwrite the bytes of tensors by name with 0xFF (NaN in every float format); returns how many."""
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = {n: t for n, t in json.loads(data[8 : 8 + size]).items() if n != "__metadata__" and which(n)}
    for tensor in header.values():
        start, end = (8 + size + offset for offset in tensor["data_offsets"])
        data[start:end] = b"\xff" * (end - start)
    file.write_bytes(data)
    return len(header)


def test_features_are_those_of_the_whole_model(checkpoint, shown):
    whole = Visual(*load_full(checkpoint))
    alone = load_visual(checkpoint)
    assert same(features(whole, shown), features(alone, shown))
    assert {n: p.shape for n, p in whole.parameters().items()} == {n: p.shape for n, p in alone.parameters().items()}


def test_features_do_not_depend_on_the_batch(checkpoint, shown):
    visual = load_visual(checkpoint)
    alone = [features(visual, [image])[0] for image in shown]
    for one, two in zip(features(visual, shown), alone, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_no_language_tensor_is_read(checkpoint, shown, tmp_path):
    poisoned = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    assert poison(poisoned / "model.safetensors", is_language) >= 10
    assert same(features(load_visual(poisoned), shown), features(load_visual(checkpoint), shown))


def test_the_poison_works(checkpoint, shown, tmp_path):
    poisoned = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    poison(poisoned / "model.safetensors", lambda name: not is_language(name))
    assert any(f.isnan().any() for f in features(load_visual(poisoned), shown))


def test_no_language_parameter_is_allocated(checkpoint):
    visual = load_visual(checkpoint)
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        stored = {n for n in file.keys() if not is_language(n)}  # noqa: SIM118 (safe_open is no dict)
    assert len(list(visual.model.parameters())) == len(stored) == len(visual.parameters())


def test_what_trains_is_what_reaches_the_features(checkpoints, shown):
    llava = load_visual(checkpoints["llava"])
    found = trace(llava, llava.pixels(shown[:1])[0])
    assert "model.vision_tower.encoder.layers.4.mlp.fc2" in found.linears  # features are read off the last but one
    assert not any("layers.5." in name for name in found.linears)
    assert found.frozen["model.vision_tower.encoder.layers.5.mlp.fc1.weight"] == "does not reach the features"
    assert len(found.linears) == 5 * 6 + 2
    qwen = load_visual(checkpoints["qwen2_vl"])
    assert len(trace(qwen, qwen.pixels(shown[:1])[0]).linears) == 5 * 4 + 2


def test_tracing_agrees_with_a_backward_pass(checkpoint, shown):
    visual = load_visual(checkpoint)
    asked = [p.requires_grad for p in visual.parameters().values()]
    pixels = visual.pixels(shown[:1])
    linears = trace(visual, pixels[0]).linears
    assert linears == follow(visual, pixels[0]).linears
    weights = {n: p for n, p in visual.parameters().items() if n.removesuffix(".weight") in linears or p.dim() == 2}
    total = torch.stack([f.square().sum() for f in visual.features(pixels)]).sum()
    grads = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    linear = {n for n, m in visual.model.named_modules() if isinstance(m, torch.nn.Linear)}
    reached = {n.removesuffix(".weight") for n, g in zip(weights, grads, strict=True) if g is not None} & linear
    assert reached == set(linears)
    assert [p.requires_grad for p in visual.parameters().values()] == asked
    assert all(p.grad is None for p in visual.parameters().values())


def test_a_missing_visual_tensor_is_refused(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    tensors.pop(next(n for n in tensors if not is_language(n)))
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnseeError, match="lacks 1 visual tensor"):
        load_visual(model)
