"""What lies beside the weights: ``apply`` copies files of the folder, and nothing that a link leads to elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults import (  # noqa: F401  (fixtures: base, model, made)
    LANGUAGE,
    LOWER,
    UPPER,
    apply_flags,
    given_base,
    given_model,
    given_run,
    refused,
    weights,
)

from unsee.cli import main

SECRET = "PRIVATE KEY"


@pytest.fixture
def away(tmp_path) -> Path:
    """A folder of the host, with what is nobody's."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "id_rsa").write_text(SECRET)
    return folder


def linked(name: str, target: str = "") -> Callable[[Path, Path], None]:
    """``name`` in the model leads to ``target`` in the other folder."""
    return lambda model, away: (model / name).symlink_to(away / target)


def config(model: Path, away: Path) -> None:
    shutil.move(model / "config.json", away)
    linked("config.json", "config.json")(model, away)


def chain(model: Path, away: Path) -> None:
    (model / "a.txt").symlink_to("b.txt")
    (model / "b.txt").symlink_to(away / "id_rsa")


def below(model: Path, away: Path) -> None:
    (model / "original").mkdir()
    (model / "original" / "params.json").symlink_to("../../home/id_rsa")


def as_in_a_cache(model: Path, away: Path) -> None:
    """A folder called blobs makes no cache of what stands beside it."""
    (model.parent / "blobs").mkdir()
    shutil.copy(away / "id_rsa", model.parent / "blobs")
    (model / "notes.txt").symlink_to("../blobs/id_rsa")


LEAVING: dict[str, Callable[[Path, Path], None]] = {
    "a file": linked("notes.txt", "id_rsa"),
    "a hidden link's target": chain,
    "a folder": linked("more"),
    "in a folder": below,
    "config.json": config,
    "as weights": linked("old.safetensors", "id_rsa"),
    "blobs": as_in_a_cache,
    "the system's": lambda model, away: (model / "tokenizer_extra.json").symlink_to("/etc/passwd"),
}


@pytest.mark.parametrize("kind", LEAVING)
def test_a_link_out_of_the_folder_is_refused(kind, model, made, away, tmp_path, capsys):
    LEAVING[kind](model, away)
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "new"), tmp_path)
    assert "lead out of it, first" in said and SECRET not in said


def around(model: Path) -> None:
    (model / "a").symlink_to(".")
    (model / "b").symlink_to(".")


def unix_socket(model: Path) -> None:
    here = os.getcwd()
    os.chdir(model)  # its name may not be long
    try:
        socket.socket(socket.AF_UNIX).bind("s")
    finally:
        os.chdir(here)


LEFT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a loop": (around, "a", "a link to a folder"),
    "a folder within": (lambda m: ((m / "x").mkdir(), (m / "y").symlink_to("x")), "y", "a link to a folder"),
    "a link to itself": (lambda m: (m / "x.txt").symlink_to("x.txt"), "x.txt", "a link to nothing"),
    "a broken link": (lambda m: (m / "x.md").symlink_to("/nope"), "x.md", "a link to nothing"),
    "a pipe": (lambda m: os.mkfifo(m / "pipe"), "pipe", "not a regular file"),
    "a socket": (unix_socket, "s", "not a regular file"),
    "a link to a shard": (lambda m: (m / "copy.dat").symlink_to(UPPER), "copy.dat", "another name of weights"),
    "a shard's second name": (lambda m: os.link(m / UPPER, m / "copy.dat"), "copy.dat", "another name of"),
    "a link to a shard as one": (lambda m: (m / "x.safetensors").symlink_to(UPPER), "x.safetensors", "another name of"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_no_file_of_its_own_is_left_out_and_told(kind, model, made, base, tmp_path, capsys):
    spoil, name, why = LEFT[kind]
    spoil(model)
    assert main(apply_flags(model, made / "patch", tmp_path / "new")) == 0
    assert f"left out {name}: {why}" in capsys.readouterr().err
    assert weights(tmp_path / "new").keys() == {p.name for p in base.iterdir()}


def test_a_link_within_the_folder_is_a_file(model, made, tmp_path):
    (model / "LICENSE").write_text("mine")
    (model / "COPYING").symlink_to("LICENSE")
    assert main(apply_flags(model, made / "patch", tmp_path / "new")) == 0
    assert (tmp_path / "new" / "COPYING").read_text() == "mine" and not (tmp_path / "new" / "COPYING").is_symlink()


def test_weights_may_lie_elsewhere(model, made, away, tmp_path):
    """As on machines that keep them in one place: what is read is checked to be weights of this model."""
    for file in (LANGUAGE, LOWER, UPPER):
        shutil.move(model / file, away)
        (model / file).symlink_to(away / file)
    before = {f: (away / f).read_bytes() for f in (LANGUAGE, LOWER, UPPER)}
    assert main(apply_flags(model, made / "patch", tmp_path / "new")) == 0
    assert {f: (away / f).read_bytes() for f in before} == before
    assert (tmp_path / "new" / UPPER).read_bytes() != before[UPPER]


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_that_would_be_waited_on(file, model, images, tmp_path, capsys):
    (model / file).unlink()
    os.mkfifo(model / file)
    assert main(["inspect", "--model", str(model)]) == 2
    said = capsys.readouterr().err
    assert "is not a regular file" in said and file in said


def test_many_left_out_files_are_counted(model, made, tmp_path, capsys):
    for i in range(100):
        (model / f"{i}.bin").write_text("x")
    assert main(apply_flags(model, made / "patch", tmp_path / "new")) == 0
    said = capsys.readouterr().err
    assert said.count("left out") == 21 and "left out 80 more" in said
