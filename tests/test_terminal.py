"""Terminals that cannot show everything, and names that would tell a terminal what to do."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from tests.faults import apply_flags, forget_flags, given_base  # noqa: F401  (fixture: base)

from unsee.cli import main
from unsee.evaluation.table import Cell, Column, Row, Table
from unsee.progress import alarm, progress, say, tell

HOSTILE = "x\x1b[31m\nforged line\u202e"
ESCAPED = r"x\x1b[31m\nforged line\u202e"


@contextmanager
def terminal(encoding: str, patch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Standard output and error of an encoding that lacks most letters; gives what was printed."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding, "strict") for name in ("stdout", "stderr")}

    def printed() -> str:
        for stream in streams.values():
            stream.flush()
        return "".join(s.buffer.getvalue().decode(encoding) for s in streams.values())

    with patch.context() as during:
        for name, stream in streams.items():
            during.setattr(sys, name, stream)
        yield printed


def test_a_terminal_of_ascii(base, images, tmp_path, monkeypatch):
    with terminal("ascii", monkeypatch) as printed:
        assert main(["--help"]) == main(["forget", "--help"]) == main(["inspect", "--model", str(base)]) == 0
        assert main([*forget_flags(base, images, tmp_path / "run"), "--dry-run"]) == 0
        assert main(["apply", "--model", "×≤\udce9", "--patch", "é", "--out", str(tmp_path / "new")]) == 2
        assert main(["apply", "--ptach", "×≤\udce9"]) == 2
    assert "usage: unsee" in printed() and "error: " in printed() and "?" in printed()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_table_on_a_narrow_terminal(encoding, monkeypatch):
    table = Table("Ünïcode", (Column("a", "a ↑", "higher"),), (Row("模型", {"a": Cell(0.5)}),), ("≥ 3",))
    with terminal(encoding, monkeypatch) as printed:
        assert main(["--version"]) == 0  # what a command does to its terminal
        Console().print(table)
        with progress("≥", 1) as tick:
            tick(1, "模型")
    assert "0.5" in printed() and "1/1" in printed()


@pytest.mark.parametrize("closed", [None, "closed"])
def test_a_terminal_that_is_gone(closed, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8") if closed else None
    if stream:
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["--version"]) == 0


def test_names_reach_a_terminal_escaped(capsys):
    say(f"left out {HOSTILE}")
    tell(f"{HOSTILE}: done")
    alarm(f"no folder {HOSTILE}")
    with progress(HOSTILE, 1) as tick:
        tick(1, HOSTILE)
    out, err = capsys.readouterr()
    lines = (out + err).splitlines()
    assert len(lines) == 4 and all(ESCAPED in line for line in lines) and "\x1b" not in out + err


def test_names_in_errors_are_escaped(tmp_path, capsys):
    assert main(["apply", "--model", HOSTILE, "--patch", HOSTILE, "--out", str(tmp_path / "new")]) == 2
    assert main(["forget", "--model", HOSTILE, "--forget", HOSTILE, "--out", str(tmp_path / "new")]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == err.count("error: ") == 2 and "\x1b" not in err and "\u202e" not in err


def test_names_of_pictures_are_escaped(base, images, tmp_path, capsys):
    known = Path(shutil.copytree(images / "known", tmp_path / "known"))
    (known / "ada" / "x\x1b[31m\nforged line.jpg").write_bytes(b"x")
    flags = forget_flags(base, images, tmp_path / "run")
    flags[flags.index("--forget") + 1] = str(known)
    main([*flags, "--dry-run"])
    main([*flags, "--dry-run", "--skip-bad"])
    said = "".join(capsys.readouterr())
    assert "forged line" in said and "\x1b" not in said and not re.search(r"^forged line", said, re.M)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_places_that_are_not_utf8(base, images, tmp_path, capsys):
    """Of the model and the images; a run is made again from its own config.yaml. As an output they are refused."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xff"))
    place.mkdir()
    shutil.copytree(base, place / "model")
    shutil.copytree(images, place / "images")
    out = tmp_path / "run"
    assert main(forget_flags(place / "model", place / "images", out)) == 0
    assert main(["forget", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert main(apply_flags(place / "model", out / "patch", tmp_path / "new")) == 0
    patch = "patch/patch.safetensors"
    assert (out / patch).read_bytes() == (tmp_path / "again" / patch).read_bytes()
    assert main(forget_flags(place / "model", place / "images", place / "run")) == 2
    assert main(apply_flags(place / "model", out / "patch", place / "new")) == 2
    said = "".join(capsys.readouterr())
    assert said.count(r"caf\udce9 \udcff/new' is not UTF-8") == 1 and "\udce9" not in said
    assert len(list(place.iterdir())) == 2
