"""The models that ship with the package are found by name, everywhere a model is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from unsee.cli import main
from unsee.embedded import EMBEDDED, packaged
from unsee.evaluation import utility
from unsee.ledger.book import Ledger
from unsee.vision.checkpoint import Checkpoint


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In a folder that has nothing of these names."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_name_is_a_folder_of_the_package(name):
    for opened in (Checkpoint.open(name), Checkpoint.open(Path(name)), Checkpoint.stored(name)):
        assert opened.folder == packaged(name) and opened.revision is None


def test_a_folder_of_that_name_goes_first(checkpoints, tmp_path):
    shutil.copytree(checkpoints["llava"], tmp_path / EMBEDDED[0])
    assert Checkpoint.open(EMBEDDED[0]).folder == Path(EMBEDDED[0])


def test_commands_take_it(capsys, images, tmp_path):
    assert main(["inspect", "--model", "people-vanilla"]) == 0
    assert "family       llava" in capsys.readouterr().out
    shown = ["--images", str(images / "neutral"), "--out", str(tmp_path / "s.safetensors")]
    assert main(["statistics", "--model", "people-gold", *shown]) == 0
    assert main(["inspect", "--model", "people-vanila"]) == 2


def test_what_hands_a_folder_on_and_what_keeps_a_name():
    given = next(a for a in utility._command("people-vanilla", ["mme"], "cpu", "out") if a.startswith("pretrained="))
    assert given == f"pretrained={packaged('people-vanilla').resolve()},device_map=cpu"
    book = object.__new__(Ledger)
    book.folder, book.store = Path("ledger"), SimpleNamespace(get={"model": "people-vanilla"}.get)
    assert book.model() == ("people-vanilla", None)
