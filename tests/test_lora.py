"""A patch as a LoRA adapter: exact, or of low rank with the loss it states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unsee import api
from unsee.concepts import Request
from unsee.config import ForgetConfig
from unsee.data.folder import read_folder
from unsee.errors import UnseeError
from unsee.vision.checkpoint import Checkpoint
from unsee.vision.lora import write_lora
from unsee.vision.module import Visual, load_full, load_visual
from unsee.vision.patch import Patch

CONFIG = ForgetConfig(steps=3, batch=4, most_left=9.0, most_retained=9.0)  # what three steps do is not judged


@pytest.fixture(scope="module")
def request_(images) -> Request:
    first, *others = read_folder(images / "known").concepts
    return Request([first], others, read_folder(images / "neutral").concepts)


@pytest.fixture(scope="module")
def patch(checkpoint, request_, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("patch")
    api.forget(load_visual(checkpoint), **vars(request_), config=CONFIG).patch.save(folder)
    return folder


def changes(checkpoint: Path, patch: Path) -> dict[str, torch.Tensor]:
    """Layer → what the patch adds to its weight."""
    opened, loaded = Checkpoint.open(checkpoint), Patch.load(patch)
    names = opened.visual
    return {
        names[n].removesuffix(".weight"): t.float() - opened.entry(n).read().float() for n, t in loaded.tensors.items()
    }


def products(adapter: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(adapter / "adapter_model.safetensors")
    layers = [n.removesuffix(".lora_A.weight") for n in tensors if n.endswith("lora_A.weight")]
    return {
        n.removeprefix("base_model.model."): tensors[f"{n}.lora_B.weight"] @ tensors[f"{n}.lora_A.weight"]
        for n in layers
    }


def test_the_exact_adapter_is_the_change(checkpoint, patch, tmp_path):
    kept = write_lora(checkpoint, patch, tmp_path / "adapter")
    wanted, got = changes(checkpoint, patch), products(tmp_path / "adapter")
    assert wanted.keys() == got.keys() and kept.error < 1e-5
    for name, change in wanted.items():
        torch.testing.assert_close(got[name], change, rtol=1e-4, atol=1e-6)


def test_what_is_lost_is_what_is_said_and_falls_with_the_rank(checkpoint, patch, tmp_path):
    wanted, errors = changes(checkpoint, patch), []
    for rank in (1, 4, 16, 64):
        kept = write_lora(checkpoint, patch, tmp_path / f"{rank}", rank)
        got = products(tmp_path / f"{rank}")
        lost = sum(float((wanted[n] - got[n]).square().sum()) for n in wanted)
        assert kept.error == pytest.approx(
            (lost / sum(float(w.square().sum()) for w in wanted.values())) ** 0.5, rel=1e-3
        )
        assert kept.rank == rank and kept.error <= kept.worst < 1
        errors.append(kept.error)
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_peft_loads_it(checkpoint, patch, request_, tmp_path):
    from peft import PeftModel

    write_lora(checkpoint, patch, tmp_path / "adapter")
    model, processor = load_full(checkpoint)
    pixels = Visual(model, processor).pixels([request_.forget[0].images[0]])
    with torch.no_grad():
        before = Visual(model, processor).features(pixels)[0]
        adapted = PeftModel.from_pretrained(model, tmp_path / "adapter").base_model.model
        got = Visual(adapted, processor).features(pixels)[0]
        patched, _ = load_full(checkpoint)
        Patch.load(patch).apply(patched)
        wanted = Visual(patched, processor).features(pixels)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(before, wanted, rtol=1e-3, atol=1e-3)


def test_another_model_and_a_rank_below_zero_are_refused(checkpoints, checkpoint, patch, tmp_path):
    other = next(path for path in checkpoints.values() if path != checkpoint)
    with pytest.raises(UnseeError, match="made from another model"):
        write_lora(other, patch, tmp_path / "adapter")
    with pytest.raises(UnseeError, match="--rank is -1"):
        write_lora(checkpoint, patch, tmp_path / "adapter", -1)
    assert not list(tmp_path.iterdir())


def test_the_settings_name_every_layer(checkpoint, patch, tmp_path):
    write_lora(checkpoint, patch, tmp_path / "adapter", 4)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(settings["target_modules"]) == set(changes(checkpoint, patch)) == set(settings["rank_pattern"])
