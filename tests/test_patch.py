"""A patch changes the tensors it names, in the model it was made from, and nothing else."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from unsee import api
from unsee.concepts import Request
from unsee.config import ForgetConfig
from unsee.data.folder import read_folder
from unsee.errors import UnseeError
from unsee.finetune import chat
from unsee.prepare import prepare
from unsee.vision.module import Visual, load_full, load_visual
from unsee.vision.patch import Patch, apply_patch, tensor_hash

CONFIG = ForgetConfig(steps=2, batch=4, most_left=9.0, most_retained=9.0)  # what two steps do is not judged


@pytest.fixture(scope="module")
def request_(images) -> Request:
    first, *others = read_folder(images / "known").concepts
    return Request([first], others, read_folder(images / "neutral").concepts)


@pytest.fixture(scope="module")
def patch(checkpoint, request_) -> Patch:
    visual = load_visual(checkpoint)
    return api.forget(visual, **vars(request_), config=CONFIG).patch


def text_logits(model, processor) -> torch.Tensor:
    ids = processor.tokenizer(chat(processor, "who is this ?", image=False), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_a_patch_survives_its_file(patch, tmp_path):
    patch.save(tmp_path / "patch")
    loaded = Patch.load(tmp_path / "patch")
    assert loaded.base == patch.base and loaded.info == patch.info
    assert all(torch.equal(loaded.tensors[n], t) for n, t in patch.tensors.items())


def test_applying_changes_the_patched_tensors_alone(checkpoint, patch, tmp_path):
    patch.save(tmp_path / "patch")
    apply_patch(checkpoint, tmp_path / "patch", tmp_path / "new")
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "new"))
    assert before.keys() == after.keys()
    changed = {n for n in before if before[n].numpy().tobytes() != after[n].numpy().tobytes()}
    hashes = {tensor_hash(t) for t in patch.tensors.values()}
    assert len(changed) == len(patch.tensors) and {tensor_hash(after[n]) for n in changed} == hashes


def test_text_is_answered_with_the_same_bits(checkpoint, patch, images):
    model, processor = load_full(checkpoint)
    shown = Visual(model, processor).pixels([read_folder(images / "known").concepts[0].images[0]])
    with torch.no_grad():
        text, seen = text_logits(model, processor), Visual(model, processor).features(shown)[0]
        patch.apply(model)
        assert torch.equal(text_logits(model, processor), text)
        assert not torch.equal(Visual(model, processor).features(shown)[0], seen)


def test_another_model_is_refused_and_stays_as_it_is(checkpoints, checkpoint, patch):
    other = next(path for path in checkpoints.values() if path != checkpoint)
    model, _ = load_full(other)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(UnseeError, match="made from another model"):
        patch.apply(model)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_the_same_patch_twice_is_refused(checkpoint, patch):
    model, _ = load_full(checkpoint)
    patch.apply(model)
    with pytest.raises(UnseeError, match="lies in the checkpoint already"):
        patch.apply(model)


def test_a_request_that_changes_nothing_is_an_empty_patch(checkpoint, request_):
    visual = load_visual(checkpoint)
    job = prepare(visual, request_, None, CONFIG)
    assert api.make_patch(visual, job, CONFIG, ["ab"])[0].tensors == {}


def test_a_half_precision_checkpoint_keeps_its_dtype(checkpoint, request_, tmp_path):
    model, processor = load_full(checkpoint)
    model.half().save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    visual = load_visual(tmp_path / "half")
    result = api.forget(visual, **vars(request_), config=CONFIG)
    result.patch.save(tmp_path / "patch")
    apply_patch(tmp_path / "half", tmp_path / "patch", tmp_path / "new")
    after = load_file(tmp_path / "new" / "model.safetensors")
    assert {t.dtype for t in after.values()} == {torch.float16}


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"no patch at all", lambda data: b""]
)
def test_a_damaged_patch_is_refused(damage, patch, tmp_path):
    patch.save(tmp_path)
    file = tmp_path / "patch.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UnseeError, match="not a patch of unsee, or is damaged"):
        Patch.load(tmp_path)


def test_a_folder_without_a_patch_is_refused(tmp_path):
    with pytest.raises(UnseeError, match="holds no patch"):
        Patch.load(tmp_path)
