"""A patch from a stranger changes visual tensors, as the model has them and to finite values, or it is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.faults import (  # noqa: F401  (fixtures: base, model, made)
    apply_flags,
    given_base,
    given_model,
    given_run,
    refused,
    revert_flags,
    tree,
)
from torch import Tensor

from unsee.cli import main
from unsee.errors import UnseeError
from unsee.vision.checkpoint import Checkpoint
from unsee.vision.headers import HEADER_CAP
from unsee.vision.patch import FILE, VERSION, Patch, tensor_hash

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors(base) -> Tensors:
    """All of the base model."""
    return {n: t for f in sorted(base.glob("*.safetensors")) for n, t in load_file(f).items()}


@pytest.fixture(scope="module")
def patch(made) -> Patch:
    return Patch.load(made / "patch")


def write(folder: Path, after: Tensors, before: Tensors, **info: Any) -> Path:
    """A patch whose hashes all fit."""
    base = {n: tensor_hash(before[n]) if n in before else "0" * 64 for n in after}
    Patch(after, base, {"method": "cvf", "forgotten": [], **info}).save(folder)
    return folder


def lora_flags(model: Path, patch: Path, out: Path) -> list[str]:
    return ["lora", "--model", str(model), "--patch", str(patch), "--out", str(out)]


def language(t: Tensors) -> str:
    return next(n for n in t if "language_model" in n and t[n].dim() == 2)


def visual(t: Tensors) -> str:
    return next(n for n in sorted(t) if "fc1.weight" in n)


def one(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda t: {visual(t): change(t[visual(t)]).contiguous()}


def spoilt(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[-1, -1] = value
        return tensor

    return change


STRANGE: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "language": (lambda t: {language(t): t[language(t)] * 0 + 7}, "1 tensor(s) that are not visual"),
    "both": (lambda t: {n: t[n] + 1 for n in (language(t), visual(t))}, "1 tensor(s) that are not visual"),
    "output layer": (lambda t: {n: t[n] + 1 for n in t if "lm_head" in n}, "1 tensor(s) that are not visual"),
    "NaN": (one(spoilt(float("nan"))), "holds NaN or Inf"),
    "Inf": (one(spoilt(-float("inf"))), "holds NaN or Inf"),
    "no tensor": (lambda t: {}, "holds no tensor"),
    "float64": (one(lambda w: w.double() * 1.000001), "is float64"),
    "bfloat16": (one(lambda w: w.bfloat16()), "is bfloat16"),
    "whole numbers": (one(lambda w: (w * 100).to(torch.int8)), "is int8"),
    "truths": (one(lambda w: w > 0), "is bool"),
    "complex": (one(lambda w: w.to(torch.complex64) * 1j), "is complex64"),
    "flat": (one(lambda w: w.flatten()), "in the patch and"),
    "turned": (one(lambda w: w.reshape(w.shape[1], -1)), "in the patch and"),
    "one number": (one(lambda w: torch.tensor(1.0)), "in the patch and"),
    "none at all": (one(lambda w: w[:0]), "in the patch and"),
    "a path": (lambda t: {"../../../etc/x": torch.ones(2)}, "made from another model"),
    "a long name": (lambda t: {"a" * 1_000_000: torch.ones(1)}, "made from another model"),
    "a thousand": (lambda t: {f"evil.{i}": torch.ones(1) for i in range(1000)}, "1000 of 1000"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_patch_that_changes_what_none_should(kind, base, tensors, tmp_path, capsys):
    change, why = STRANGE[kind]
    place = write(tmp_path / "patch", change(tensors), tensors)
    for flags in (apply_flags(base, place, tmp_path / "new"), lora_flags(base, place, tmp_path / "new")):
        said = refused(capsys, flags, tmp_path)
        assert why in said or "is no matrix" in said
        assert len(said) < 1000


@pytest.mark.parametrize("kind", ["NaN", "Inf", "no tensor", "float64", "flat", "language"])
def test_the_flag_allows_language_tensors_and_nothing_else(kind, base, tensors, tmp_path, capsys):
    change, why = STRANGE[kind]
    place = write(tmp_path / "patch", change(tensors), tensors)
    flags = [*apply_flags(base, place, tmp_path / "new"), "--allow-language-tensors"]
    if kind != "language":
        assert why in refused(capsys, flags, tmp_path)
        return
    assert main(flags) == 0
    changed = {n: t for f in (tmp_path / "new").glob("*.safetensors") for n, t in load_file(f).items()}
    assert {n for n in tensors if not torch.equal(tensors[n], changed[n])} == {language(tensors)}
    undo = write(
        tmp_path / "undo", {language(tensors): tensors[language(tensors)]}, changed, undoes=Patch.load(place).id
    )
    back = revert_flags(tmp_path / "new", undo, tmp_path / "old")
    assert "not visual" in refused(capsys, back, tmp_path)
    assert main([*back, "--allow-language-tensors"]) == 0


@pytest.mark.parametrize("kind", ["language", "NaN", "no tensor", "flat", "turned", "one number"])
def test_in_python_too(kind, base, tensors, tmp_path):
    change, why = STRANGE[kind]
    place = write(tmp_path / "patch", change(tensors), tensors)
    model = Checkpoint.open(base).model_class.from_pretrained(base)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    with pytest.raises(UnseeError) as error:
        Patch.load(place).apply(model)
    assert why in str(error.value)
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    if kind == "language":
        Patch.load(place).apply(model, allow_language=True)
        assert not all(torch.equal(before[n], p) for n, p in model.state_dict().items())


def rewritten(made: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The run's patch with another header."""
    loaded = Patch.load(made / "patch")
    header = {"version": VERSION, "id": loaded.id, "base": dict(loaded.base), "info": dict(loaded.info)}
    changed = change(header)
    text = changed if isinstance(changed, str) else json.dumps(header if changed is None else changed)
    folder.mkdir()
    save_file(loaded.tensors, folder / FILE, {"unsee": text})
    return folder


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "deep": lambda h: "[" * 100_000,
    "deep within": lambda h: json.dumps(h)[:-1] + ', "x":' + "[" * 900 + "]" * 900 + "}",
    "a list": lambda h: "[]",
    "nothing": lambda h: "null",
    "no JSON": lambda h: "{",
    "no id": lambda h: h.pop("id") and None,
    "an id of another type": lambda h: h.update(id=["x"]),
    "another id": lambda h: h.update(id="0" * 64),
    "a later version": lambda h: h.update(version=99),
    "an older version": lambda h: h.update(version=2),
    "a version of another type": lambda h: h.update(version="4"),
    "true for a version": lambda h: h.update(version=True),
    "hashes in a list": lambda h: h.update(base=[]),
    "numbers for hashes": lambda h: h.update(base=dict.fromkeys(h["base"], 5)),
    "lists for hashes": lambda h: h.update(base={n: [] for n in h["base"]}),
    "hashes of others": lambda h: h.update(base={f"x{n}": v for n, v in h["base"].items()}),
    "one hash too few": lambda h: h["base"].popitem() and None,
    "info that is none": lambda h: h.update(info=5),
    "info in pairs": lambda h: h.update(info=[["model", "evil/evil"], ["revision", "main"]]),
    "a branch": lambda h: h["info"].update(model="ada/x", revision="refs/pr/3"),
    "a path for a commit": lambda h: h["info"].update(revision="../../x"),
    "undoes a list": lambda h: h["info"].update(undoes=["x"]),
    "forgets a table": lambda h: h["info"].update(forgotten={"a": [1]}),
    "forgets a text": lambda h: h["info"].update(forgotten="<script>"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_no_patch_has(kind, base, made, tmp_path, capsys):
    place = rewritten(made, tmp_path / "patch", HEADERS[kind])
    said = refused(capsys, apply_flags(base, place, tmp_path / "new"), tmp_path)
    assert "is not a patch of unsee, or is damaged" in said and len(said) < 1000


def raw(file: Path, header: bytes, data: bytes = b"") -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)


def entry(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


FILES: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda f: f.symlink_to("/dev/zero"),
    "a link to itself": lambda f: f.symlink_to(f.name),
    "a pickle": lambda f: torch.save({"x": 1}, f),
    "a tensor named twice": lambda f: raw(
        f, f'{{"a": {json.dumps(entry(0, 8))}, "a": {json.dumps(entry(0, 8))}}}'.encode(), b"\0" * 8
    ),
    "metadata that is a list": lambda f: raw(f, b'{"__metadata__": []}'),
    "metadata of numbers": lambda f: raw(f, b'{"__metadata__": {"unsee": 5}}'),
    "a shape of a million": lambda f: raw(
        f, json.dumps({"a": {"dtype": "F32", "shape": [2**61] * 1_000_000, "data_offsets": [0, 8]}}).encode(), b"\0" * 8
    ),
    "a huge header": lambda f: (raw(f, b"{}"), os.truncate(f, 8)) and f.write_bytes(
        (HEADER_CAP + 1).to_bytes(8, "little") + b"{"
    ) and os.truncate(f, HEADER_CAP + 100),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_patch(kind, base, tmp_path, capsys):
    (tmp_path / "patch").mkdir()
    FILES[kind](tmp_path / "patch" / FILE)
    assert main(apply_flags(base, tmp_path / "patch", tmp_path / "new")) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and len(said.splitlines()) == 1 and not (tmp_path / "new").exists()


def test_tensors_that_do_not_fit_are_not_read(base, tmp_path, capsys, monkeypatch):
    """A file that asks for a terabyte, of which nothing was written."""
    header = {"a.weight": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}
    info = {"version": VERSION, "id": "", "base": {"a.weight": "0" * 64}, "info": {}}
    (tmp_path / "patch").mkdir()
    file = tmp_path / "patch" / FILE
    raw(file, json.dumps({"__metadata__": {"unsee": json.dumps(info)}, **header}).encode())
    os.truncate(file, file.stat().st_size + 2**40)
    assert main(apply_flags(base, tmp_path / "patch", tmp_path / "new")) == 2
    assert "most of it was never written" in capsys.readouterr().err
    monkeypatch.setattr("unsee.vision.fitting.refuse_hollow", lambda file: None)  # where a system does not tell
    assert main(apply_flags(base, tmp_path / "patch", tmp_path / "new")) == 2
    assert "made from another model: 1 of 1 tensors" in capsys.readouterr().err


def test_an_id_tells_dtypes_shapes_and_low_bits_apart(patch):
    name = next(iter(patch.tensors))
    wide = patch.tensors[name].double()
    others = [patch.tensors[name], wide, wide + wide.abs() * 1e-14, patch.tensors[name].flatten()]
    made = [Patch({name: t}, {name: patch.base[name]}, {}) for t in others]
    assert len({p.id for p in made}) == 4 and len({p.id for p in (Patch(p.tensors, p.base, {}, 3) for p in made)}) == 1


def test_a_patch_of_version_3_is_read_and_keeps_its_id(base, patch, made, tmp_path):
    old = Patch(patch.tensors, patch.base, patch.info, 3)
    old.save(tmp_path / "old")
    assert Patch.load(tmp_path / "old").id == old.id != patch.id
    assert main(apply_flags(base, tmp_path / "old", tmp_path / "new")) == 0
    assert main(apply_flags(base, made / "patch", tmp_path / "same")) == 0
    one, two = (tree(tmp_path / f) for f in ("new", "same"))
    assert {n for n in one if one[n] != two[n]} == {"unsee.json"}


@pytest.fixture(scope="module")
def scratch(made, tmp_path_factory) -> tuple[Path, bytes]:
    """Where to write a patch to, and the bytes of one."""
    return tmp_path_factory.mktemp("scratch") / FILE, (made / "patch" / FILE).read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_are_a_patch_or_refused(scratch, data):
    file, good = scratch
    size = int.from_bytes(good[:8], "little") + 8
    spoilt = bytearray(good[: data.draw(st.sampled_from([len(good), size, 7, size + 9]))])
    for _ in range(data.draw(st.integers(0, 4))):
        if spoilt:
            spoilt[data.draw(st.integers(0, min(len(spoilt) - 1, size + 20)))] = data.draw(st.integers(0, 255))
    file.write_bytes(spoilt)
    try:
        loaded = Patch.load(file)
    except UnseeError as error:
        assert "\n" not in str(error)
    else:
        assert loaded.id == Patch.load(file).id


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_read_or_refused(scratch, header):
    file, _ = scratch
    raw(file, header)
    with pytest.raises(UnseeError):
        Patch.load(file)


def test_two_sets_of_a_run_are_not_mixed_up(base, made, tmp_path, capsys):
    """Undo for patch, and patch for undo."""
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 0
    shutil.copytree(made / "undo", tmp_path / "undo")
    assert "none of the 0 patch(es)" in refused(capsys, apply_flags(base, made / "undo", tmp_path / "x"), tmp_path)
    said = refused(capsys, revert_flags(tmp_path / "new", made / "patch", tmp_path / "x"), tmp_path)
    assert "lies in the checkpoint already" in said


def test_a_tensor_that_the_model_lacks_is_said_so(base):
    with pytest.raises(UnseeError, match="has no tensor nobody.weight"):
        Checkpoint.stored(base).entry("nobody.weight")
