"""Two sets of weights in a folder: what transformers loads is what is read, patched and written out; no other is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import families
from tests.faults import (  # noqa: F401  (fixtures: base, made)
    LANGUAGE,
    UPPER,
    apply_flags,
    forget_flags,
    given_base,
    given_run,
    refused,
    tree,
    weights,
    write_llava,
)
from tests.hub_server import serve, use

from unsee.cli import main
from unsee.vision.checkpoint import Checkpoint
from unsee.vision.folder import CONFIG, INDEX, SINGLE
from unsee.vision.module import load_visual

NAME = "ada/two"


@pytest.fixture(scope="module")
def both(base, tmp_path_factory) -> Path:
    """model.safetensors, newer, beside an older set in shards. Nobody may write into it."""
    folder = tmp_path_factory.mktemp("both") / "model"
    shutil.copytree(base, folder)
    newer, _ = families.build("llava_clip", seed=1)
    save_file({n: t.contiguous() for n, t in newer.state_dict().items()}, folder / SINGLE, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def newer(both, tmp_path_factory) -> Path:
    """The newer set alone."""
    folder = tmp_path_factory.mktemp("newer") / "model"
    shutil.copytree(both, folder, ignore=shutil.ignore_patterns("model-*", INDEX))
    return folder


@pytest.fixture(scope="module")
def run(newer, images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(forget_flags(newer, images, out)) == 0
    return out


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """As transformers itself reads the folder."""
    return dict(Checkpoint.open(folder).model_class.from_pretrained(folder).state_dict())


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(t, two[n]) for n, t in one.items())


def test_what_serves_is_read(both, newer):
    assert same(loaded(both), loaded(newer))
    assert same(load_visual(both).tensors(), load_visual(newer).tensors())
    assert Checkpoint.stored(both).shards == Checkpoint.stored(newer).shards


def test_what_serves_is_patched_and_the_other_set_is_left_out(both, newer, run, images, tmp_path, capsys):
    assert main(forget_flags(both, images, tmp_path / "run")) == 0
    assert tree(tmp_path / "run" / "patch") == tree(run / "patch")
    capsys.readouterr()
    assert main(apply_flags(both, run / "patch", tmp_path / "new")) == 0
    said = capsys.readouterr().err
    assert main(apply_flags(newer, run / "patch", tmp_path / "same")) == 0
    assert tree(tmp_path / "new") == tree(tmp_path / "same")
    assert f"left out {UPPER}: weights beside those that are loaded" in said
    assert f"left out {INDEX}: an index of weights that are left out" in said and "another format" not in said
    assert same(load_visual(tmp_path / "new").tensors(), load_visual(tmp_path / "same").tensors())


def test_a_patch_of_the_other_set_does_not_fit(both, made, tmp_path, capsys):
    said = refused(capsys, apply_flags(both, made / "patch", tmp_path / "new"), tmp_path)
    assert "made from another model" in said


def test_an_index_without_its_shards_hides_nothing(newer, base, run, images, tmp_path):
    stale = Path(shutil.copytree(newer, tmp_path / "stale"))
    shutil.copy(base / INDEX, stale)
    for flags in (["inspect", "--model", str(stale)], forget_flags(stale, images, tmp_path / "run")):
        assert main(flags) == 0
    assert tree(tmp_path / "run" / "patch") == tree(run / "patch")
    assert main(apply_flags(stale, run / "patch", tmp_path / "new")) == 0
    assert not (tmp_path / "new" / INDEX).exists() and same(loaded(stale), loaded(newer))


def test_an_index_that_names_the_one_file_stays(newer, run, tmp_path):
    folder = Path(shutil.copytree(newer, tmp_path / "model"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / SINGLE), SINGLE)}
    (folder / INDEX).write_text(json.dumps(index))
    assert main(apply_flags(folder, run / "patch", tmp_path / "new")) == 0
    assert (tmp_path / "new" / INDEX).read_bytes() == (folder / INDEX).read_bytes()


def test_sets_under_other_names_are_left_out(newer, base, run, tmp_path, capsys):
    folder = Path(shutil.copytree(newer, tmp_path / "model"))
    others = ["consolidated.safetensors", "model.fp16.safetensors", "older/model.safetensors"]
    indexes = ["model.safetensors.index.fp16.json", "older/" + INDEX, "pytorch_model.bin.index.json"]
    (folder / "older").mkdir()
    for file in others:
        shutil.copy(base / UPPER, folder / file)
    for file in indexes:
        shutil.copy(base / INDEX, folder / file)
    assert main(apply_flags(folder, run / "patch", tmp_path / "new")) == 0
    said = capsys.readouterr().err
    assert all(f"left out {f}: weights beside those that are loaded" in said for f in others)
    assert all(f"left out {f}: an index" in said for f in indexes)
    assert weights(tmp_path / "new").keys() == weights(newer).keys()


def test_the_file_that_the_config_names_comes_before_all(both, newer, run, tmp_path):
    """transformers takes it first; it may be called anything."""
    folder = Path(shutil.copytree(both, tmp_path / "model"))
    (folder / SINGLE).rename(folder / "mine.safetensors")
    assert Checkpoint.stored(folder).shards != Checkpoint.stored(newer).shards
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))
    assert same(loaded(folder), loaded(newer)) and same(load_visual(folder).tensors(), load_visual(newer).tensors())
    assert main(apply_flags(folder, run / "patch", tmp_path / "new")) == 0
    assert (tmp_path / "new" / "mine.safetensors").is_file() and not list((tmp_path / "new").glob("model*"))


@pytest.mark.parametrize("named", ["../mine.safetensors", "gone.safetensors", "config.json", 5, ["x"], ""])
def test_a_config_that_names_no_weights(named, newer, tmp_path, capsys):
    folder = Path(shutil.copytree(newer, tmp_path / "model"))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"transformers_weights": named}))
    shutil.copy(folder / SINGLE, tmp_path / "mine.safetensors")
    assert "(transformers_weights)" in refused(capsys, ["inspect", "--model", str(folder)], tmp_path)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("model.fp16.safetensors", "only when it is asked for that variant"),
        ("consolidated.safetensors", "has consolidated.safetensors, and neither"),
        ("tf_model.h5", "keeps its weights as tf_model.h5, and unsee reads safetensors only"),
        ("pytorch_model.bin", "which can run code when it is opened"),
        ("m-Q4_K_M.gguf", "quantised or converted for llama.cpp"),
    ],
)
def test_weights_that_nobody_loads(file, why, newer, tmp_path, capsys):
    folder = Path(shutil.copytree(newer, tmp_path / "model"))
    (folder / SINGLE).rename(folder / file)
    said = refused(capsys, ["inspect", "--model", str(folder)], tmp_path)
    assert why in said and ("run code" in said) == file.endswith(".bin")


def test_a_tensor_in_two_shards_is_refused(base, made, images, tmp_path, capsys):
    """transformers takes the one of the last shard, whatever the index says."""
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    tensors = load_file(folder / LANGUAGE) | {n: t + 1 for n, t in load_file(folder / UPPER).items()}
    save_file(tensors, folder / LANGUAGE, {"format": "pt"})
    said = refused(capsys, apply_flags(folder, made / "patch", tmp_path / "new"), tmp_path)
    assert f"holds {min(load_file(base / UPPER))}" in said or "parts of two sets of weights" in said


def test_a_hub_name_with_both(both, newer, tmp_path, monkeypatch):
    with serve({NAME: both}) as hub:
        use(monkeypatch, hub.endpoint, tmp_path / "cache")
        assert same(load_visual(NAME).tensors(), load_visual(newer).tensors())
        assert not [f for f in hub.downloaded() if f.startswith("model-")]


def test_where_there_is_no_single_file_the_index_counts(base, tmp_path):
    """A folder of its name is none, and neither is a link to nothing."""
    folder = write_llava(tmp_path / "model")
    (folder / SINGLE).symlink_to("gone")
    assert Checkpoint.stored(folder).shards == Checkpoint.stored(base).shards
    (folder / SINGLE).unlink()
    (folder / SINGLE).mkdir()
    assert Checkpoint.stored(folder).shards == Checkpoint.stored(base).shards
