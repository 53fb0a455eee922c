"""Every command of the README is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import huggingface_hub
import pytest

from unsee.cli import main

README = Path(__file__).parent.parent / "README.md"
MODELS = README.parent / "docs" / "models.md"
REQUESTS = README.parent / "docs" / "requests.md"
FEW = ["--steps", "2", "--stop", "0", "--most-left", "9"]  # what two steps leave is not judged


def blocks(language: str, document: Path = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def desk(tmp_path, monkeypatch, checkpoints, make_images) -> Path:
    """A folder in which the README's names stand for a tiny model and small images."""
    shutil.copytree(checkpoints["llava"], tmp_path / "MODEL")
    make_images(tmp_path / "takedown", {"ada": 1, "ben": 2})
    make_images(tmp_path / "keep", {"cleo": 3, "dan": 4})
    make_images(tmp_path / "others", {"x": 11, "y": 12})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("document", "count"), [(README, 6), (MODELS, 5)])
def test_the_commands(desk, document, count):
    commands = [line for block in blocks("sh", document) for line in block.splitlines() if line.startswith("unsee ")]
    assert len(commands) == count
    for command in commands:
        quick = FEW if " forget " in command else ["--people", "20"] if " export " in command else []
        assert main([*shlex.split(command)[1:], *quick]) == 0, command
    assert (desk / "MODEL-forgot" / "config.json").is_file()
    (revert,) = re.findall(r"`(unsee revert[^`]*)`", README.read_text(encoding="utf-8"))
    assert (desk / "MODEL-again").exists() or main(shlex.split(revert)[1:]) == 0
    weights = [(desk / name / "model.safetensors").read_bytes() for name in ("MODEL", "MODEL-again")]
    assert weights[0] == weights[1]


def test_the_commands_inside_sentences(desk):
    found = re.findall(r"`(unsee statistics[^`]*)`", README.read_text(encoding="utf-8"))
    assert found and main(shlex.split(found[0])[1:]) == 0
    assert (desk / "keep.safetensors").is_file()


def test_the_commands_of_a_ledger(desk, make_images):
    """Those of the block in their order, then those inside sentences, but without the ids that a ledger gives."""
    make_images(desk / "others", {"z": 13})
    (block,) = blocks("sh", REQUESTS)
    quick = ["--steps", "2", "--batch", "4", *(f"--most-{f}=9" for f in ("left", "retained", "heldout", "earlier"))]
    for command in block.splitlines():
        assert main([*shlex.split(command)[1:], *(quick if " init " in command else [])]) == 0, command
    assert (desk / "served" / "model" / "config.json").is_file()
    (request,) = [p.stem for p in (desk / "served" / "certificates").glob("*.html")]
    inside = re.findall(r"`(unsee requests [^`]*--[^`]*)`", REQUESTS.read_text(encoding="utf-8"))
    assert len(inside) == 3
    for command in inside:
        assert main(shlex.split(command.replace(" ID ", f" {request} "))[1:]) == 0, command


def test_the_install(tmp_path):
    assert "pip install .\n" in blocks("sh")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, README.parent]
    subprocess.run(command, check=True)
    assert (tmp_path / "unsee" / "models" / "people-vanilla" / "config.json").is_file()
    code = "import sys, unsee.cli; print(unsee.cli.__file__); sys.exit(unsee.cli.main(['--help']))"
    there = {**os.environ, "PYTHONPATH": f"{tmp_path}"}
    run = subprocess.run([sys.executable, "-c", code], env=there, cwd=tmp_path, capture_output=True, text=True)
    assert str(tmp_path) in run.stdout and "forget" in run.stdout and run.returncode == 0, run.stderr


def test_the_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", "\n".join(blocks("sh")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_the_library_face(desk, defaults):
    defaults(steps=2)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert (desk / "patch" / "patch.safetensors").is_file()


def test_pushing(desk, monkeypatch, capsys):
    commands = re.findall(r"`(unsee push[^`]*)`", MODELS.read_text(encoding="utf-8"))
    assert len(commands) == 1
    api = create_autospec(huggingface_hub.HfApi, instance=True)
    api.create_repo.return_value = huggingface_hub.RepoUrl("https://huggingface.co/OWNER/NAME")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *_, **__: api)
    forget = next(line for block in blocks("sh", MODELS) for line in block.splitlines() if " forget " in line)
    assert main([*shlex.split(forget)[1:], *FEW]) == 0
    assert main(shlex.split(commands[0])[1:]) == 0
    assert api.upload_folder.call_count == 1 and "huggingface.co/OWNER/NAME" in capsys.readouterr().out
