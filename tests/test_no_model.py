"""What is given as a model and is none is named for what it is, with what to give instead."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults import given_base, refused  # noqa: F401  (fixture: base)
from tests.hub_server import serve, use

from unsee.cli import main

WEIGHTS = "model-00001-of-00003.safetensors"


def adapter(folder: Path, base: Any = "x/y") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"")


def embedded(model: Path, root: Path) -> Path:
    """transformers would load it on top of the weights."""
    folder = Path(shutil.copytree(model, root / "given"))
    adapter(folder)
    return folder


def one_file(name: str) -> Callable[[Path, Path], Path]:
    def made(model: Path, root: Path) -> Path:
        (root / name).write_bytes(b"GGUF")
        return root / name

    return made


def in_folder(*names: str) -> Callable[[Path, Path], Path]:
    def made(model: Path, root: Path) -> Path:
        for name in names:
            (root / "given" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "given" / name).write_text("{}")
        return root / "given"

    return made


def trainer(model: Path, root: Path) -> Path:
    for step in (500, 1500, 1000):
        shutil.copytree(model, root / "given" / f"checkpoint-{step}")
    return root / "given"


def cached(model: Path, root: Path) -> Path:
    shutil.copytree(model, root / "models--a--b" / "snapshots" / "0123")
    return root / "models--a--b"


def lone_adapter(model: Path, root: Path) -> Path:
    adapter(root / "given")
    return root / "given"


def gguf(model: Path, root: Path) -> Path:
    folder = Path(shutil.copytree(model, root / "given"))
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "m-Q4_K_M.gguf").write_bytes(b"GGUF")
    return folder


KINDS: dict[str, tuple[Callable[[Path, Path], Path], str, str]] = {
    "an adapter": (lone_adapter, "a LoRA adapter (adapter_config.json): merge it first", "merge_and_unload"),
    "an adapter beside weights": (embedded, "a LoRA adapter (adapter_config.json): merge it first", "'x/y'"),
    "a GGUF file": (one_file("m-Q4_K_M.gguf"), "is a GGUF file", "safetensors checkpoint it was made from"),
    "GGUF in a folder": (gguf, "keeps its weights as m-Q4_K_M.gguf", "llama.cpp"),
    "one file of weights": (one_file("x.safetensors"), "is one file of weights", "Give the folder it lies in"),
    "a shard": (lambda m, r: m / WEIGHTS, "is one file of weights", "Give the folder it lies in"),
    "config.json": (lambda m, r: m / "config.json", "is a file, and a model is a folder", "the folder it lies in"),
    "another file": (one_file("x.zip"), "is a file, and a model is a folder", "folder of a multimodal checkpoint"),
    "a trainer's folder": (trainer, "A folder in it has one (3 such folders)", "checkpoint-1500'"),
    "a cache's repository": (cached, "A folder in it has one", "snapshots/0123'"),
    "a run": (in_folder("patch/patch.safetensors", "metrics.json"), "it is a run of unsee", "unsee apply --model"),
    "a patch": (in_folder("patch.safetensors"), "it is a patch of unsee", "unsee apply --model MODEL"),
    "a ledger": (in_folder("ledger.db"), "it is a ledger of unsee", "unsee requests export"),
    "a pipeline": (in_folder("model_index.json", "unet/config.json"), "it is a pipeline of diffusers", "answer about"),
    "nothing of it": (in_folder("README.md"), "it has no config.json", "save_pretrained"),
    "a path that is not there": (lambda m, r: r / "gone", "does not exist", "Give the folder"),
    "weights that are not there": (lambda m, r: r / "a/x.safetensors", "does not exist", "Give the folder"),
    "a link to nothing": (lambda m, r: os.symlink("gone", r / "given") or r / "given", "is a link to nothing", ""),
    "a long name": (lambda m, r: r / ("x" * 5000), "cannot look at", "File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_model(kind, base, tmp_path, capsys):
    make, what, then = KINDS[kind]
    given = make(base, tmp_path)
    said = refused(capsys, ["inspect", "--model", str(given)], tmp_path)
    assert what in said and then in said and "run code" not in said
    assert ("does not exist" in said) == ("not there" in kind) and len(said) < 1000


@pytest.mark.parametrize("base_name", [None, 5, "a\x1b[31m\nb", "x" * 10**5])
def test_a_strange_adapter(base_name, tmp_path, capsys):
    adapter(tmp_path / "given", base_name)
    said = refused(capsys, ["inspect", "--model", str(tmp_path / "given")], tmp_path)
    assert "merge it first" in said and "\x1b" not in said and len(said) < 1000


def test_an_adapter_on_the_hub(tmp_path, capsys, monkeypatch):
    adapter(tmp_path / "given")
    with serve({"ada/adapter": tmp_path / "given"}) as hub:
        use(monkeypatch, hub.endpoint, tmp_path / "cache")
        assert main(["inspect", "--model", "ada/adapter"]) == 2
    assert "merge it first" in capsys.readouterr().err


# A config that asks for what no model has.


def changed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(values)


def vision(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["vision_config"].update(values)


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "ten million layers": (vision(num_hidden_layers=10**7), "asks for num_hidden_layers = 10000000"),
    "layers without end": (vision(num_hidden_layers=2**62), "asks for num_hidden_layers"),
    "layers of the language model": (
        lambda c: c["text_config"].update(num_hidden_layers=10**9), "asks for num_hidden_layers"),
    "experts": (lambda c: c["text_config"].update(num_local_experts=10**9), "asks for num_local_experts"),
    "more than its weights": (vision(num_hidden_layers=4000), "far larger than its weights"),
    "code from the hub": (changed(_attn_implementation="evil/kernel"), "asks for code from the hub"),
    "code for its parts": (vision(attn_implementation={"": "evil/kernel"}), "asks for code from the hub"),
    "width without end": (vision(hidden_size=2**62), "cannot be read"),
    "no width": (vision(hidden_size=0), ""),
    "a negative width": (vision(hidden_size=-5), ""),
    "no heads": (vision(num_attention_heads=0), ""),
    "no patches": (vision(patch_size=0), ""),
    "a large picture": (vision(image_size=2**40), ""),
    "width in words": (vision(hidden_size="x"), ""),
    "a vision_config that is a list": (changed(vision_config=[]), ""),
    "a text_config that is a text": (changed(text_config="x"), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_no_model_has(kind, base, tmp_path, capsys):
    change, why = CONFIGS[kind]
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    said = refused(capsys, ["inspect", "--model", str(folder)], tmp_path)
    assert why in said and len(said) < 2000


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "\xff", '{"a": ' + "9" * 5000 + "}"])
def test_files_that_are_no_json(file, text, base, tmp_path, capsys):
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    (folder / file).write_bytes(text.encode("latin-1"))
    assert file in refused(capsys, ["inspect", "--model", str(folder)], tmp_path)


def test_an_index_of_a_million_tensors(base, tmp_path, capsys):
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    index = {"weight_map": {f"evil.{i}": WEIGHTS for i in range(100_001)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names 100001 tensors" in refused(capsys, ["inspect", "--model", str(folder)], tmp_path)
