"""``unsee inspect`` tells what a request would do, from config and headers alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
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
