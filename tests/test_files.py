"""One process at a time writes an output; what killed ones left is swept; private means private."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from unsee import files
from unsee.errors import UnseeError
from unsee.files import at_work, locked, new_file, new_folder, sweep, write_json


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def child(action: Callable[[], None], until: Path) -> int:
    """A process that does ``action``, when it has made ``until``."""
    process = os.fork()
    if not process:
        try:
            action()
        finally:
            os._exit(0)
    last = time.monotonic() + 10
    while not until.exists() and time.monotonic() < last:
        time.sleep(0.005)
    return process


def killed(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def half(out: Path, mark: Path) -> None:
    """Write half of a folder and wait."""
    with new_folder(out) as folder:
        (folder / "half").write_text("x")
        mark.touch()
        time.sleep(60)


def half_file(out: Path, mark: Path) -> None:
    with new_file(out) as file:
        file.write_text("x")
        mark.touch()
        time.sleep(60)


@pytest.mark.parametrize("writer", [half, half_file])
def test_a_second_process_is_told_and_the_first_is_left_alone(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONG", 0.05)
    place, mark = tmp_path / "place", tmp_path / "mark"
    place.mkdir()
    process = child(lambda: writer(place / "out", mark), mark)
    before = names(place)
    with pytest.raises(UnseeError, match="another unsee is at work on"), new_folder(place / "out"):
        pass
    write_json(place / "other.json", 1)  # sweeps, but not what a live process is at
    assert names(place) == sorted([*before, "other.json"]) and len(before) == 2
    killed(process)


@pytest.mark.parametrize("writer", [half, half_file])
@pytest.mark.parametrize("next_one", ["out", "another"])
def test_what_a_killed_process_left_is_swept(writer, next_one, tmp_path):
    place, mark = tmp_path / "place", tmp_path / "mark"
    place.mkdir()
    killed(child(lambda: writer(place / "out", mark), mark))
    assert len(names(place)) == 2
    with new_folder(place / next_one) as folder:
        (folder / "whole").touch()
    assert names(place) == [next_one]


def test_nothing_of_others_is_swept(tmp_path):
    for name in (".x.tmp-12", ".lock", ".x.lock", ".x.unsee-12", "x.unsee-0123456789abcdef"):
        (tmp_path / name).touch()
    (tmp_path / "kept").touch()
    (tmp_path / ".x.unsee-0123456789abcdef").symlink_to(tmp_path / "kept")
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == [n for n in before if n != ".x.unsee-0123456789abcdef"]


def test_equal_process_ids_do_not_meet(tmp_path, monkeypatch):
    """Two containers on one disk: each process is the first."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    place, mark = tmp_path / "place", tmp_path / "mark"
    place.mkdir()
    process = child(lambda: half_file(place / "a.json", mark), mark)
    write_json(place / "b.json", 1)
    assert len([n for n in names(place) if ".unsee-" in n]) == 2
    killed(process)


def test_two_never_both_get_in(tmp_path):
    """Eight processes count in one file, each time under a lock whose file goes when it is let go."""
    (tmp_path / "count").write_text("0")

    def count() -> None:
        for _ in range(20):
            with at_work(tmp_path / "out", 30):
                now = int((tmp_path / "count").read_text())
                time.sleep(0.0005)
                (tmp_path / "count").write_text(str(now + 1))

    processes = [child(count, tmp_path / "count") for _ in range(4)]
    for process in processes:
        os.waitpid(process, 0)
    assert (tmp_path / "count").read_text() == "80" and names(tmp_path) == ["count"]


def test_work_within_work_on_the_same_output_is_let_in(tmp_path):
    with at_work(tmp_path / "out"), at_work(tmp_path / "out"), new_folder(tmp_path / "out") as folder:
        write_json(folder / "a.json", 1)
        write_json(folder / "more" / "b.json", 1)
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a.json", "more"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("os error 28: disk is full")])
def test_folders_that_were_made_for_it_go_again(error, tmp_path):
    told = pytest.raises(UnseeError, match="could not write .* Nothing of it was left behind")
    with told, new_folder(tmp_path / "a" / "b" / "out"):
        raise error
    assert names(tmp_path) == []


def test_private_is_private(tmp_path):
    (tmp_path / "linked").write_text("everybody's")
    with new_folder(tmp_path / "out", private=True) as folder:
        assert mode(folder) == 0o700
        (folder / "sub").mkdir()
        (folder / "sub" / "names.json").write_text("{}")
        os.link(tmp_path / "linked", folder / "linked")
    assert [mode(p) for p in (tmp_path / "out", tmp_path / "out/sub", tmp_path / "out/sub/names.json")] == [
        0o700, 0o700, 0o600,
    ]  # fmt: skip
    write_json(tmp_path / "names.json", {}, private=True)
    write_json(tmp_path / "figures.json", {})
    assert mode(tmp_path / "names.json") == 0o600 and mode(tmp_path / "figures.json") & 0o044
    assert mode(tmp_path / "linked") & 0o044


def test_a_private_file_is_private_from_the_start(tmp_path):
    with new_file(tmp_path / "names.json", private=True) as file:
        assert mode(file) == 0o600
        file.unlink()  # as a library may do that writes beside and renames
        file.write_text("{}")
    assert mode(tmp_path / "names.json") == 0o600


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_system_takes(name, tmp_path):
    with pytest.raises(UnseeError), new_folder(tmp_path / name):
        pass
    assert names(tmp_path) == []


def test_a_system_without_flock(tmp_path, monkeypatch):
    """Windows: a file that is open is not removed there, and readers keep one another out."""
    taken = set[str]()

    def locking(number: int, how: int, size: int) -> None:
        place = os.readlink(f"/proc/self/fd/{number}")
        if place in taken:
            raise OSError("taken")
        taken.add(place)

    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=1, locking=locking))
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "lock").touch()
    told = pytest.raises(UnseeError, match="is at work on the ledger")
    with locked(tmp_path / "lock", "ledger", shared=True), told, locked(tmp_path / "lock", "ledger"):
        pass
    assert names(tmp_path) == ["a.json", "lock"]
