"""``unsee inspect`` tells what a request would do, from config and headers alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import families
from tests.test_module import poison

from unsee import api
from unsee.cli import main
from unsee.concepts import Request
from unsee.config import ForgetConfig
from unsee.data.folder import read_folder
from unsee.inspection import inspect, size

WITH_WEIGHTS = ("lfm2_vl",)  # shapes hang on values that only a real pass has


@pytest.fixture(scope="module", params=[*families.SUPPORTED, *families.OTHERS])
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspect") / request.param
    model, processor = families.build(request.param)
    model.save_pretrained(folder, max_shard_size="100KB")
    processor.save_pretrained(folder)
    return folder


def test_no_weight_is_read(folder, tmp_path):
    poisoned = Path(shutil.copytree(folder, tmp_path / "model"))
    for file in poisoned.glob("*.safetensors"):
        poison(file, lambda name: True)
        if folder.name not in WITH_WEIGHTS:  # and where it need not, no byte of one is there
            header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
            whole = file.stat().st_size
            with file.open("r+b") as opened:
                opened.truncate(header)
                opened.truncate(whole)
    found, expected = inspect(str(poisoned), None, False), inspect(str(folder), None, False)
    assert found.traced == expected.traced and found.trained == expected.trained


def test_what_it_says_trains_is_what_trains(folder, images):
    from unsee.vision.module import load_visual

    first, *others = read_folder(images / "known").concepts
    request = Request([first], others[:2], list(read_folder(images / "neutral").concepts)[:2])
    result = api.forget(load_visual(folder), **vars(request), config=ForgetConfig(steps=1, batch=2))
    found = inspect(str(folder), None, False)
    assert list(result.delta) == found.trained
    assert found.weights == sum(d.numel() for d in result.delta.values())


def test_every_visual_parameter_is_accounted_for(folder):
    found = inspect(str(folder), None, False)
    linear = {f"{n}.weight" for n in found.traced.linears}
    assert linear | set(found.traced.frozen) == set(found.visual.parameters())
    text = "\n".join(found.lines())
    assert found.checkpoint.config.model_type in text and "float32 on disk" in text and "stays as it is" in text
    assert all(why in text for why in set(found.traced.frozen.values()))


def test_the_command(folder, capsys):
    assert main(["inspect", "--model", str(folder)]) == 0
    said = capsys.readouterr().out
    assert main(["inspect", "--model", str(folder)]) == 0
    again = capsys.readouterr().out

    def steady(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("time")]

    assert steady(said) == steady(again) and "language model is not read" in said


def test_sizes_are_read_by_people():
    assert [size(n) for n in (0, 1023, 1536, 3 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "3 GiB"]


def without(tensors: dict[str, torch.Tensor], what: str) -> None:
    for name in [n for n in tensors if what in n]:
        del tensors[name]


def half(tensors: dict[str, torch.Tensor]) -> None:
    names = sorted(n for n in tensors if "vision_tower" in n)
    for name in names[: len(names) // 2]:
        del tensors[name]


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    def one(tensors: dict[str, torch.Tensor]) -> None:
        name = next(n for n in tensors if "linear_1.weight" in n)
        tensors[name] = change(tensors[name])

    return one


INCOMPLETE: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], str]] = {
    "no tower": (lambda t: without(t, "vision_tower"), "lacks .* of vision_tower"),
    "no projector": (lambda t: without(t, "projector"), "lacks 4 visual tensor.* of multi_modal_projector"),
    "half a tower": (half, "lacks .* of vision_tower"),
    "one bias": (lambda t: without(t, "linear_2.bias"), "lacks 1 visual tensor"),
    "text only": (lambda t: [without(t, n) for n in ("projector", "vision_tower")] and None, "has no visual tensor"),
    "another shape": (changed(lambda w: w[1:].contiguous()), "they are of different models"),
    "whole numbers": (changed(lambda w: w.to(torch.int8)), "stored as int8"),
    "eighths": (changed(lambda w: w.to(torch.float8_e4m3fn)), "stored as float8_e4m3fn"),
    "complex": (changed(lambda w: w.to(torch.complex64)), "stored as complex64"),
}


@pytest.mark.parametrize("fault", INCOMPLETE)
def test_an_incomplete_tower_or_projector_is_refused_as_forget_does(fault, checkpoints, images, tmp_path, capsys):
    change, why = INCOMPLETE[fault]
    model = rewritten(checkpoints["llava"], tmp_path / "model", change)
    assert main(["inspect", "--model", str(model)]) == 2
    said = capsys.readouterr()
    assert re.search(why, said.err.replace("\n", " ")) and not said.out and said.err.count("error: ") == 1
    given = ["--images", str(images / "known"), "--out", str(tmp_path / "s.safetensors")]
    assert main(["statistics", "--model", str(model), *given]) == 2
    assert capsys.readouterr().err == said.err


def test_an_index_that_names_what_its_shard_lacks_is_refused(checkpoints, tmp_path, capsys):
    model = rewritten(checkpoints["llava"], tmp_path / "model", lambda t: None)
    names = list(load_file(model / "model.safetensors"))
    rewritten(model, model, lambda t: without(t, "linear_2.bias"))
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert main(["inspect", "--model", str(model)]) == 2
    assert "lacks the tensor" in capsys.readouterr().err


def test_blocks_beyond_those_of_the_config_are_told(checkpoints, tmp_path, capsys):
    def more(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if ".layers.5." in n and "vision" in n]:
            tensors[name.replace(".layers.5.", ".layers.6.")] = tensors[name].clone()

    model = rewritten(checkpoints["llava"], tmp_path / "model", more)
    assert main(["inspect", "--model", str(model)]) == 0
    assert "16 tensor(s) of blocks that config.json does not ask for: not read" in capsys.readouterr().out


def rewritten(source: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of the checkpoint whose one file holds what ``change`` makes of its tensors."""
    if source != out:
        shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out
