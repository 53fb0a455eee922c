"""What can be wrong with a checkpoint or a patch: one clear line, exit code 2, and every byte stays in place.

All through the command line.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import families
from tests.faults import (  # noqa: F401  (fixtures: base, model, made)
    LANGUAGE,
    LOWER,
    UPPER,
    apply_flags,
    forget_flags,
    given_base,
    given_model,
    given_run,
    refused,
    revert_flags,
    weights,
    write_llava,
    write_shards,
)
from transformers import LlamaConfig, LlavaForConditionalGeneration

from unsee.cli import main
from unsee.vision.folder import INDEX
from unsee.vision.headers import read_header

# A checkpoint that is damaged where visual tensors are.


def rewrite_header(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """What ``change`` returns of the header, or makes of it in place, before the same data."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    changed = change(header)
    text = json.dumps(header if changed is None else changed).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def first(header: dict[str, Any]) -> dict[str, Any]:
    """The tensor whose bytes come first; it is a matrix or a row of many floats."""
    return next(t for n, t in header.items() if n != "__metadata__" and t["data_offsets"][0] == 0)


def overlap(header: dict[str, Any]) -> None:
    second = sorted((t for n, t in header.items() if n != "__metadata__"), key=lambda t: t["data_offsets"])[1]
    second["data_offsets"] = [o - 4 for o in second["data_offsets"]]


def edit(**values: Any) -> Callable[[Path], None]:
    """Entries of the first tensor's header row changed."""
    return lambda file: rewrite_header(file, lambda header: first(header).update(values))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 100)


def start_with(data: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(data + file.read_bytes()[len(data) :])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "lacks 1 of its files"),
    "empty": (lambda f: os.truncate(f, 0), "its header is cut short"),
    "truncated": (cut, "bytes and should have"),
    "longer": (lambda f: f.write_bytes(f.read_bytes() + b"more"), "bytes and should have"),
    "a header longer than the file": (start_with(b"\xff" * 8), "its header is cut short"),
    "a header without an end": (start_with((100).to_bytes(8, "little")), "its header is no table of tensors"),
    "no JSON": (start_with((20).to_bytes(8, "little") + b"{" * 20), "its header is no table of tensors"),
    "no UTF-8": (start_with((20).to_bytes(8, "little") + b'"' + b"\xff" * 19), "its header is no table of tensors"),
    "a list": (lambda f: rewrite_header(f, lambda header: [1, 2]), "its header is no table of tensors"),
    "rows that are none": (lambda f: rewrite_header(f, lambda h: dict.fromkeys(h, 7)), "its header is no table"),
    "a negative start": (edit(data_offsets=[-8, 8]), "has no place or shape that can be"),
    "a start that is no number": (edit(data_offsets=["0", "8"]), "its header is no table of tensors"),
    "three offsets": (edit(data_offsets=[0, 4, 8]), "has no place or shape that can be"),
    "an overlap": (lambda f: rewrite_header(f, overlap), "does not begin where the tensor before it ends"),
    "another shape": (edit(shape=[3, 5]), "which its shape and dtype do not take"),
    "a negative shape": (edit(shape=[-1, -4]), "has no place or shape that can be"),
    "another dtype": (edit(dtype="F64"), "which its shape and dtype do not take"),
    "an unknown dtype": (edit(dtype="F3"), "the dtype F3, which unsee does not know"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_visual_shard(damage, model, images, made, tmp_path, capsys):
    spoil, why = DAMAGE[damage]
    spoil(model / UPPER)
    for flags in (forget_flags(model, images, tmp_path / "run"), apply_flags(model, made / "patch", tmp_path / "new")):
        said = refused(capsys, flags, tmp_path)
        assert why in said and UPPER in said and "ownload" in said


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_language_shard_hinders_apply_alone(damage, model, images, made, tmp_path, capsys):
    """Forgetting never opens it; a checkpoint made of it would be damaged too."""
    spoil, why = DAMAGE[damage]
    spoil(model / LANGUAGE)
    if damage == "missing":  # one is as good as all: forgetting does not look
        assert main(forget_flags(model, images, tmp_path / "run")) == 0
        patch = "patch/patch.safetensors"
        assert (tmp_path / "run" / patch).read_bytes() == (made / patch).read_bytes()
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "new"), tmp_path)
    assert why in said and LANGUAGE in said


def change_json(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        value = json.loads((model / file).read_text())
        changed = change(value)
        (model / file).write_text(json.dumps(value if changed is None else changed))

    return spoil


def place_all(file: Any) -> Callable[[Path], None]:
    return change_json(INDEX, lambda index: {"weight_map": dict.fromkeys(index["weight_map"], file)})


def one_more(index: dict[str, Any]) -> None:
    name = next(n for n in index["weight_map"] if "layers.1.mlp.fc1.weight" in n)
    index["weight_map"] |= {name.replace("layers.1", "layers.2"): LOWER}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (place_all("../x.safetensors"), "names '../x.safetensors', which is no safetensors file beside it"),
        (place_all("/etc/x.safetensors"), "which is no safetensors file beside it"),
        (place_all("sub/x.safetensors"), "which is no safetensors file beside it"),
        (place_all("model.bin"), "which is no safetensors file beside it"),
        (place_all(5), "which is no safetensors file beside it"),
        (change_json(INDEX, one_more), "these are parts of two sets of weights"),
        (change_json(INDEX, lambda index: {"weight_map": {}}), "has no weight_map"),
        (change_json(INDEX, lambda index: {"weight_map": [1]}), "has no weight_map"),
        (change_json(INDEX, lambda index: [1]), "has no weight_map"),
        (lambda model: (model / INDEX).write_text("{"), "is not JSON"),
    ],
)
def test_a_wrong_index(spoil, why, model, images, made, tmp_path, capsys):
    outside = tmp_path / "x.safetensors"
    shutil.copy(model / UPPER, outside)
    spoil(model)
    for flags in (forget_flags(model, images, tmp_path / "run"), apply_flags(model, made / "patch", tmp_path / "new")):
        assert why in refused(capsys, flags, tmp_path)


# A checkpoint of a kind that cannot serve.


def pickled(model: Path) -> None:
    for file in model.glob("model*"):
        file.unlink()
    torch.save({}, model / "pytorch_model.bin")


def text_only(model: Path) -> None:
    LlamaConfig(hidden_size=64, num_hidden_layers=1).save_pretrained(model)


def without_visual(model: Path) -> None:
    tensors = {n: t for n, t in load_file(model / LANGUAGE).items()}
    write_shards(model, tensors, lambda name: LANGUAGE)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (change_json("config.json", lambda c: c.update(quantization_config={"bits": 4})), "holds quantised weights"),
        (pickled, "keeps its weights as pytorch_model.bin, which can run code"),
        (text_only, "is a llama model, which has no vision tower"),
        (without_visual, "has no visual tensor that transformers' llava would read"),
        (
            change_json("config.json", lambda c: c.update(model_type="llava_9")),
            "is a llava_9 model, which transformers",
        ),
        (change_json("config.json", lambda c: c.update(model_type=None)), "names no model_type"),
        (change_json("config.json", lambda c: [c]), "names no model_type"),
        (change_json("config.json", lambda c: c.update(dtype="float33")), "cannot be read: module 'torch' has no"),
        (change_json("config.json", lambda c: c["text_config"].update(hidden_size=48)), "they are of different models"),
        (
            change_json("config.json", lambda c: c["vision_config"].update(num_attention_heads=5)),
            "is not a multiple of",
        ),
    ],
)
def test_a_checkpoint_that_cannot_serve(spoil, why, model, images, tmp_path, capsys):
    spoil(model)
    assert why in refused(capsys, forget_flags(model, images, tmp_path / "run"), tmp_path)


def test_a_family_that_does_not_tell_its_language_model(model, images, tmp_path, capsys, monkeypatch):
    for method in ("get_decoder", "get_output_embeddings"):
        monkeypatch.setattr(LlavaForConditionalGeneration, method, lambda self: None, raising=False)
    said = refused(capsys, forget_flags(model, images, tmp_path / "run"), tmp_path)
    assert "LlavaForConditionalGeneration does not say where its language model ends" in said


def test_a_family_that_needs_another_package(model, images, tmp_path, capsys, monkeypatch):
    def init(*_: object) -> None:
        raise ImportError("\nTimmWrapperModel requires the timm library. Install it.\n")

    monkeypatch.setattr(LlavaForConditionalGeneration, "__init__", init)
    said = refused(capsys, forget_flags(model, images, tmp_path / "run"), tmp_path)
    assert "needs a package that is not installed: TimmWrapperModel requires the timm library" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_visual_weight_that_is_no_number(value, model, images, tmp_path, capsys):
    tensors = load_file(model / LOWER)
    next(t for t in tensors.values() if t.dim() == 2)[0, 0] = value
    save_file(tensors, model / LOWER, {"format": "pt"})
    said = refused(capsys, forget_flags(model, images, tmp_path / "run"), tmp_path)
    assert "1 visual weight(s) of the model hold NaN or Inf" in said


# A patch that does not fit.


def flip(file: Path, name: str) -> None:
    """The last bit of the tensor's first number."""
    start = read_header(file)[name].start
    data = bytearray(file.read_bytes())
    data[start] ^= 1
    file.write_bytes(data)


def test_a_byte_of_the_base_is_another(model, made, tmp_path, capsys):
    flip(model / UPPER, next(iter(load_file(made / "patch" / "patch.safetensors"))))
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "new"), tmp_path)
    assert "made from another model: 1 of 8 tensors are not as they were" in said


def test_a_patch_of_another_model(made, tmp_path, capsys):
    write_llava(tmp_path / "other", seed=1)
    said = refused(capsys, apply_flags(tmp_path / "other", made / "patch", tmp_path / "new"), tmp_path)
    assert "made from another model: 8 of 8 tensors" in said


def test_a_patch_of_another_family(made, tmp_path, capsys):
    model, _ = families.build("qwen2_vl")
    model.save_pretrained(tmp_path / "qwen")
    said = refused(capsys, apply_flags(tmp_path / "qwen", made / "patch", tmp_path / "new"), tmp_path)
    assert "made from another model: 8 of 8 tensors" in said


def test_the_same_patch_twice(base, made, tmp_path, capsys):
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 0
    said = refused(capsys, apply_flags(tmp_path / "new", made / "patch", tmp_path / "newer"), tmp_path)
    assert "lies in the checkpoint already" in said


@pytest.mark.parametrize("what", ["a tensor", "a hash", "the version"])
def test_a_patch_that_was_tampered_with(what, base, made, tmp_path, capsys):
    patch = Path(shutil.copytree(made / "patch", tmp_path / "patch"))
    file = patch / "patch.safetensors"
    name = next(iter(load_file(file)))

    def change(header: dict[str, Any]) -> None:
        mine = json.loads(header["__metadata__"]["unsee"])
        if what == "a hash":
            mine["base"][name] = "0" * 64
        else:
            mine["version"] = 1
        header["__metadata__"]["unsee"] = json.dumps(mine)

    if what == "a tensor":
        flip(file, name)
    else:
        rewrite_header(file, change)
    said = refused(capsys, apply_flags(base, patch, tmp_path / "new"), tmp_path)
    assert ("version 1, this unsee reads" if what == "the version" else "not those it was made with") in said


# Patches on top of one another.


@pytest.fixture(scope="module")
def stack(base, made, images, tmp_path_factory) -> Path:
    """one/: with the first patch; run/: a second request on it; two/: with both."""
    root = tmp_path_factory.mktemp("stack")
    assert main(apply_flags(base, made / "patch", root / "one")) == 0
    assert main(forget_flags(root / "one", images, root / "run", concepts="ben")) == 0
    assert main(apply_flags(root / "one", root / "run" / "patch", root / "two")) == 0
    return root


def recorded(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "unsee.json").read_text())["patches"])


def test_two_patches_are_undone_last_first_to_the_original_bytes(base, made, stack, tmp_path):
    assert weights(stack / "two") != weights(stack / "one") != weights(base)
    assert main(revert_flags(stack / "two", stack / "run" / "undo", tmp_path / "one")) == 0
    assert weights(tmp_path / "one") == weights(stack / "one") and recorded(tmp_path / "one") == recorded(stack / "one")
    assert main(revert_flags(tmp_path / "one", made / "undo", tmp_path / "none")) == 0
    assert weights(tmp_path / "none") == weights(base) and recorded(tmp_path / "none") == []
    assert [len(recorded(stack / n)) for n in ("one", "two")] == [1, 2]


def test_the_first_of_two_patches_is_not_undone_first(made, stack, tmp_path, capsys):
    said = refused(capsys, revert_flags(stack / "two", made / "undo", tmp_path / "no"), tmp_path)
    assert "is not the last patch of" in said and "undo later ones first" in said


def test_the_undo_of_another_run(stack, tmp_path, capsys):
    said = refused(capsys, revert_flags(stack / "one", stack / "run" / "undo", tmp_path / "no"), tmp_path)
    assert "is none of the 1 patch(es) in" in said


def test_nothing_to_undo(base, made, tmp_path, capsys):
    assert "none of the 0 patch(es)" in refused(capsys, revert_flags(base, made / "undo", tmp_path / "no"), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"patches": [1]}', '{"patches": [{}]}'])
def test_a_damaged_record_of_patches(text, model, made, tmp_path, capsys):
    (model / "unsee.json").write_text(text)
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "no"), tmp_path)
    assert "unsee.json' is damaged" in said
