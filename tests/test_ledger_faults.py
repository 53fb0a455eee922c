"""Killed at any moment, a full disk, two at once: nothing is lost or done twice, the bytes are those of a good day."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.small_ledger import add, asked, desk, ended, made
from tests.test_requests import same, told

from unsee.cli import main
from unsee.ledger import schema, store
from unsee.ledger.book import Ledger
from unsee.ledger.state import State

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def waiting(root) -> Path:
    """A ledger with two requests that wait, of enough steps to have checkpoints."""
    return made(root, root / "waiting", "ada", "ben", steps=12, batch=2)


@pytest.fixture(scope="module")
def unbroken(waiting, root) -> State:
    ledger = Path(shutil.copytree(waiting, root / "unbroken"))
    assert main(asked("run", ledger)) == 0
    return Ledger(ledger).state()


@pytest.fixture
def ledger(waiting, tmp_path) -> Path:
    return Path(shutil.copytree(waiting, tmp_path / "ledger"))


def whole(ledger: Path, unbroken: State) -> None:
    """As if nothing had happened: each request once, in its order, and the same bytes."""
    opened = Ledger(ledger)
    assert [e.state for e in opened.store.entries()] == ["verified", "verified"]
    assert [e.turn for e in opened.store.entries()] == opened.store.turns() == list(unbroken.turns)
    assert [line.event for line in opened.store.lines()].count("verified") == 2
    assert same(opened.state(), unbroken)
    assert sorted(p.name for p in (ledger / "turns").iterdir()) == sorted(t[:16] for t in unbroken.turns)
    assert len(list((ledger / "state").iterdir())) == 1 and not (ledger / "work").exists()
    assert not list(ledger.glob(".*")) and main(asked("audit", ledger)) == 0


def run(ledger: Path) -> Callable[[], int]:
    return lambda: main(asked("run", ledger))


def test_killed_at_its_writes(ledger, unbroken):
    """At the first, then at the third of what was left, and so on: each time it goes on from there."""
    kills = 0
    while (end := ended(run(ledger), at=1 + 2 * kills)) == -signal.SIGKILL:
        assert main(asked("audit", ledger)) == 0, f"after kill {kills}"
        kills += 1
    assert end == 0 and kills >= 8
    whole(ledger, unbroken)


def test_killed_at_random_moments(waiting, tmp_path, unbroken):
    """A dozen kills; a ledger that is done before it can be killed again makes room for a new one."""
    rng, kills = random.Random(0), 0
    for number in range(12):
        ledger = Path(shutil.copytree(waiting, tmp_path / f"{number}"))
        while kills < 12 and (end := ended(run(ledger), after=rng.uniform(0.02, 0.3))):
            assert end == -signal.SIGPROF and main(asked("audit", ledger)) == 0
            kills += 1
        assert main(asked("run", ledger)) == 0
        whole(ledger, unbroken)
        if kills == 12:
            return
    raise AssertionError(f"only {kills} kills: give the run more steps")


def test_a_rollback_that_is_killed(ledger, unbroken, root):
    """The request that was taken back is gone or there, and what is left can be finished."""
    assert main(asked("run", ledger)) == 0
    first = Ledger(ledger).store.entries()[0].id
    ends = [ended(lambda: main(asked("rollback", ledger, first)), at=n) for n in (2, 4, 7, 10)]
    assert -signal.SIGKILL in ends and main(asked("audit", ledger)) == 0
    if Ledger(ledger).store.entry(first).state != "rolled back":
        assert main(asked("rollback", ledger, first)) == 0
    assert main(asked("replay", ledger)) == 0
    alone = made(root, ledger.parent / "alone", "ben", steps=12, batch=2)
    assert main(asked("run", alone)) == 0
    assert same(Ledger(ledger).state(), Ledger(alone).state()) and main(asked("audit", ledger)) == 0


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["unsee.vision.patch.save_file", "unsee.forgetting.stored.save_file"])
def test_a_full_disk(what, ledger, unbroken, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(what, full)
        assert "No space left on device. Nothing of it was left behind" in told(capsys, asked("run", ledger), 2)
    assert main(asked("audit", ledger)) == 0
    assert main(asked("run", ledger)) == 0
    whole(ledger, unbroken)


def test_a_database_that_cannot_grow(ledger, root, monkeypatch, capsys):
    before = Ledger(ledger).store.lines()
    connect = schema.connect

    def small(path: Path) -> sqlite3.Connection:
        db = connect(path)
        db.execute("PRAGMA max_page_count = 1")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(store, "connect", small)
        patch.setattr(store.Store, "note", lambda self, *_, **__: self.put("much", "x" * 100_000))
        said = told(capsys, add(root, ledger, "cleo"), 2)
    assert "database or disk is full. Nothing of this step was written" in said
    assert Ledger(ledger).store.lines() == before and len(Ledger(ledger).store.entries()) == 2
    assert main(asked("audit", ledger)) == 0


def test_a_ledger_that_may_not_be_written_to(ledger, root, monkeypatch, capsys):
    """Tests run as root, whom no permission stops: the database says what it would say."""
    connect = schema.connect

    def reading(path: Path) -> sqlite3.Connection:
        db = connect(path)
        db.execute("PRAGMA query_only = ON")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(store, "connect", reading)
        assert "attempt to write a readonly database" in told(capsys, add(root, ledger, "cleo"), 2)
        assert "attempt to write a readonly database" in told(capsys, asked("run", ledger), 2)
    assert main(asked("audit", ledger)) == 0
    (ledger / "lock").unlink()
    assert "cannot lock the ledger" in told(capsys, asked("run", ledger), 2)


@pytest.mark.parametrize("spoilt", ["state", "base.safetensors", "ledger.db"])
def test_a_file_that_is_cut_short(spoilt, ledger, capsys):
    file = next((ledger / "state").iterdir()) if spoilt == "state" else ledger / spoilt
    file.write_bytes(file.read_bytes()[:40])
    for rest in ledger.glob("ledger.db-*"):
        rest.unlink()
    before = {p: p.read_bytes() for p in ledger.rglob("*.safetensors")}
    for command in ("run", "audit"):
        if (spoilt, command) != ("base.safetensors", "run"):
            told(capsys, asked(command, ledger), 2)
    assert {p: p.read_bytes() for p in ledger.rglob("*.safetensors")} == before or spoilt == "base.safetensors"


def test_two_at_once(ledger, root, unbroken, capsys):
    """The second says so, whatever it wants to write; whoever only looks may."""
    with Ledger(ledger).alone():
        said = told(capsys, asked("run", ledger), 2)
        assert f"another unsee (process {os.getpid()}) is at work" in said
        assert "is at work" in told(capsys, add(root, ledger, "cleo"), 2)
        assert "is at work" in told(capsys, asked("audit", ledger), 2)
        assert "received" in told(capsys, asked("list", ledger))
    assert main(asked("run", ledger)) == 0
    whole(ledger, unbroken)


def test_another_program_writes_to_the_database(ledger, root, monkeypatch, capsys):
    monkeypatch.setattr(schema, "BUSY", 0.1)
    other = sqlite3.connect(ledger / store.FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "database is locked. Nothing of this step was written" in told(capsys, add(root, ledger, "cleo"), 2)
    other.execute("ROLLBACK")
    other.close()
    assert main(add(root, ledger, "cleo")) == 0


def test_the_schema(tmp_path, ledger, capsys):
    """An older database is brought up to date; one of a newer unsee is refused."""
    old = sqlite3.connect(tmp_path / store.FILE)
    old.close()
    assert store.Store(tmp_path).entries() == []
    newer = sqlite3.connect(ledger / store.FILE)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert "written by a newer unsee (schema 99" in told(capsys, asked("list", ledger), 2)
