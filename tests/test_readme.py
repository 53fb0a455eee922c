"""Every command of the README is run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from unsee.cli import main

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def desk(tmp_path, monkeypatch, checkpoints, make_images) -> Path:
    """A folder in which the README's names stand for a tiny model and small images."""
    shutil.copytree(checkpoints["llava"], tmp_path / "MODEL")
    make_images(tmp_path / "takedown", {"ada": 1, "ben": 2})
    make_images(tmp_path / "keep", {"cleo": 3, "dan": 4})
    make_images(tmp_path / "others", {"x": 11, "y": 12})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands(desk, capsys):
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("unsee ")]
    assert len(commands) == 3
    for command in commands:
        quick = ["--steps", "2"] if " forget " in command else []
        assert main([*shlex.split(command)[1:], *quick]) == 0, command
    assert (desk / "MODEL-forgot" / "config.json").is_file()


def test_the_commands_inside_sentences(desk):
    found = re.findall(r"`(unsee statistics[^`]*)`", README.read_text(encoding="utf-8"))
    assert found and main(shlex.split(found[0])[1:]) == 0
    assert (desk / "keep.safetensors").is_file()


def test_the_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_the_library_face(desk, defaults):
    defaults(steps=2)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert (desk / "patch" / "patch.safetensors").is_file()
