"""Ctrl-C, once and again: what is half written goes, and what is said of what stays is true."""

from __future__ import annotations

import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from tests import small_ledger
from tests.faults import (  # noqa: F401  (fixtures: base, model, made)
    apply_flags,
    forget_flags,
    given_base,
    given_run,
)
from tests.small_ledger import asked

from unsee import files
from unsee.cli import main
from unsee.ledger.store import Store


@pytest.fixture(autouse=True)
def handler():
    """After an interruption a process keeps its own, since it ends."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(*_: object, **__: object) -> None:
    signal.raise_signal(signal.SIGINT)


def last(capsys) -> str:
    return str(capsys.readouterr().err.splitlines()[-1])


def test_once(base, made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("unsee.vision.patch._write", interrupt)
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 130
    assert list(tmp_path.iterdir()) == [] and last(capsys) == "stopped; nothing was written"


def test_again_while_what_is_half_written_is_removed(base, made, tmp_path, monkeypatch, capsys):
    rmtree, times = shutil.rmtree, []

    def interrupted(path: Path, **named: object) -> None:
        if not times:
            interrupt()
        times.append(path)
        rmtree(path, **named)

    monkeypatch.setattr("unsee.vision.patch._write", interrupt)
    monkeypatch.setattr("unsee.files.shutil.rmtree", interrupted)
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 130
    assert list(tmp_path.iterdir()) == [] and len(times) == 1
    assert last(capsys) == "stopped; nothing was written"


def test_an_interruption_that_a_library_makes_another_error_of(base, made, tmp_path, monkeypatch, capsys):
    def wrapped(*_: object) -> None:
        try:
            interrupt()
        except KeyboardInterrupt as error:
            raise RuntimeError("a callback failed") from error

    monkeypatch.setattr("unsee.vision.patch._write", wrapped)
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 130
    assert list(tmp_path.iterdir()) == [] and last(capsys) == "stopped; nothing was written"


def test_an_interruption_that_gets_lost_is_given_again(base, made, tmp_path, monkeypatch, capsys):
    """As one is that comes to a destructor: the next one is not told that the work ends already."""

    def lost(*_: object) -> None:
        with suppress(KeyboardInterrupt):
            interrupt()
        interrupt()

    monkeypatch.setattr("unsee.vision.patch._write", lost)
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 130
    assert "stopping already" not in capsys.readouterr().err


def test_again_when_the_work_has_ended(base, made, tmp_path, monkeypatch):
    """While that is said, and while Python ends, whose destructors would tell of it."""
    monkeypatch.setattr("unsee.vision.patch._write", interrupt)
    monkeypatch.setattr("unsee.cli.say", lambda text: None if text else interrupt())
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a further one ends the process


def test_what_cannot_be_removed_is_named_and_goes_with_the_next_command(base, made, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("unsee.vision.patch._write", interrupt)
        patch.setattr("unsee.files.shutil.rmtree", lambda *_, **__: None)
        assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 130
    (left,) = tmp_path.iterdir()
    assert f"could not remove '{left}', which the next command that writes there removes" in last(capsys)
    files.write_json(tmp_path / "other.json", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["other.json"]


def test_a_command_that_resumes_says_so(base, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("unsee.forgetting.run.Forgetting.gradients", interrupt)
    assert main(forget_flags(base, images, tmp_path / "run")) == 130
    assert list(tmp_path.iterdir()) == [] and last(capsys) == "stopped; run the same command again to resume"


def test_what_a_ledger_has_taken_in_stays_and_is_told(base, tmp_path, monkeypatch, capsys):
    root = small_ledger.desk(tmp_path)
    ledger = small_ledger.made(root, tmp_path / "ledger")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", interrupt)
        assert main(small_ledger.add(root, ledger, "ada")) == 130
    assert last(capsys) == "stopped; nothing was written"
    assert main(asked("list", ledger)) == 0 and "no request yet" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(Store, "tidy", interrupt)
        assert main(small_ledger.add(root, ledger, "ada")) == 130
    assert last(capsys) == "stopped; what was done before that stays: unsee requests list shows it"
    assert main(asked("list", ledger)) == 0 and "received" in capsys.readouterr().out
