"""A ledger that a stranger hands over: nothing of it is run or fetched, and whatever it holds ends in one line."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.forging import older, put, rechain, rows, sql
from tests.small_ledger import add, asked, furnished, init
from tests.test_requests import told

from unsee.cli import main
from unsee.errors import UnseeError
from unsee.ledger.audit import audit
from unsee.ledger.book import Ledger

COMMANDS = ("list", "audit", "run", "verify", "release", "export", "rollback")


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """Nobody may write into it."""
    return furnished(tmp_path_factory.mktemp("used"))


@pytest.fixture
def ledger(used, tmp_path) -> Path:
    return Path(shutil.copytree(used, tmp_path / "ledger"))


def command(name: str, ledger: Path, *more: str) -> list[str]:
    given = {"export": ["--out", f"{ledger.parent / 'out'}"], "rollback": ["00000000"]}.get(name, [])
    return [*asked(name, ledger, *given), *more]


# Trust


@pytest.fixture
def armed(used, ledger, monkeypatch) -> Path:
    """An older ledger, in which nothing covers the setting, and whose model brings code that leaves a file."""
    model, config = used.parent / "model", used.parent / "model" / "config.json"
    before, mark = config.read_text(), ledger.parent / "executed"
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import LlavaConfig\nclass Evil(LlavaConfig): pass\n"
    (model / "evil.py").write_text(code)
    config.write_text(json.dumps(json.loads(before) | {"auto_map": {"AutoConfig": "evil.Evil"}}))
    older(ledger)
    put(ledger, "trust", True)
    yield mark
    config.write_text(before)
    (model / "evil.py").unlink()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_ledger_says_whom_to_trust(name, armed, ledger, capsys):
    main(command(name, ledger))
    assert "Traceback" not in capsys.readouterr().err and not armed.exists()


def test_a_person_says_whom_to_trust(armed, ledger):
    main(command("verify", ledger, "--trust-remote-code"))
    assert armed.exists()


@pytest.mark.parametrize("model", ["somebody/else", "model", "../model", 5, None, "x" * 500])
def test_a_model_that_is_not_there_is_not_fetched(model, ledger, monkeypatch, capsys):
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    older(ledger)
    put(ledger, "model", model)
    put(ledger, "revision", "0" * 40 if model == "somebody/else" else None)
    for name in ("audit", "run", "export"):
        assert "model" in told(capsys, command(name, ledger), 2)


# What a database can hold

VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20), st.binary(max_size=20),
    st.sampled_from(["released", "[" * 2000, "{}", "[1]", "null", '"\\ud800"', "NaN", "9" * 5000, "x" * 10**5, "../..",
                     '{"share": 1}', '{"kept": []}', '{"figures": {"left": ""}}', '{"evil": 1}', '{"most_left": ""}']),
)  # fmt: skip
COLUMNS = [
    (table, column)
    for table, columns in {
        "settings": "name value", "requests": "id place state attempt changed batch turn", "turns": "place id",
        "images": "request concept sha256 path", "retained": "sha256 turn",
        "log": "number time request event body before hash",
    }.items()
    for column in columns.split()
]  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(COLUMNS), VALUES, st.booleans()), min_size=1, max_size=3), st.booleans())
def test_any_rows_give_findings_or_one_error(used, tmp_path, changes, chained):
    """``chained``: with hashes that are right again, so that the bodies are read."""
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(used, folder, copy_function=os.link)
    (folder / "ledger.db").unlink()
    shutil.copyfile(used / "ledger.db", folder / "ledger.db")
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        for (table, column), value, all_rows in changes:
            try:
                db.execute(f"UPDATE {table} SET {column} = ? {'' if all_rows else 'WHERE rowid = 4'}", (value,))
            except (sqlite3.Error, UnicodeEncodeError):  # what the schema refuses, a forger could not write either
                continue
    if chained:
        (folder / "head.json").unlink()
        try:
            rechain(folder)
        except (ValueError, TypeError, AttributeError):
            return
    try:
        opened = Ledger(folder, reading=True)
        opened.store.entries()
        found, _ = audit(opened)
        assert isinstance(found, list)
    except UnseeError:
        pass


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _long_log(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger / "ledger.db")) as db:
        db.execute("WITH RECURSIVE n(i) AS (SELECT 99 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
                   "INSERT INTO log SELECT i, '', '', 'x', '{}', '', '' FROM n")  # fmt: skip
        db.commit()


def _loop(ledger: Path) -> None:
    """A view in place of a table, whose rows do not end."""
    sql(ledger, "DROP TABLE turns", "CREATE VIEW turns AS WITH RECURSIVE n(place) AS "
        "(SELECT 1 UNION ALL SELECT place + 1 FROM n) SELECT place, '' AS id FROM n")  # fmt: skip


def _schema_of(ledger: Path, table: str, text: bytes) -> None:
    """``text`` in place of the beginning of the words that make a table."""
    whole = (ledger / "ledger.db").read_bytes()
    at = whole.index(b"CREATE TABLE " + table.encode())
    (ledger / "ledger.db").write_bytes(whole[:at] + text + whole[at + len(text) :])


BROKEN: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda ledger: _pipe(ledger / "ledger.db"),
    "a folder": lambda ledger: _folder(ledger / "ledger.db"),
    "empty": lambda ledger: (ledger / "ledger.db").write_bytes(b""),
    "cut": lambda ledger: os.truncate(ledger / "ledger.db", 5000),
    "other bytes": lambda ledger: (ledger / "ledger.db").write_bytes(b"x" * 5000),
    "terabytes": lambda ledger: os.truncate(ledger / "ledger.db", 2**40),
    "no table of turns": lambda ledger: sql(ledger, "DROP TABLE turns"),
    "another column": lambda ledger: sql(ledger, "ALTER TABLE requests RENAME COLUMN turn TO t2"),
    "a schema that is no text": lambda ledger: _schema_of(ledger, "settings", b"CREATE \x9d\xff"),
    "a table's name that is no text": lambda ledger: _schema_of(ledger, "turns", b"CREATE TABLE \xc3("),
    "a long log": _long_log,
    "a loop": _loop,
    "a write-ahead log that is a pipe": lambda ledger: _pipe(ledger / "ledger.db-wal"),
    "a large value": lambda ledger: sql(ledger, "UPDATE log SET body = zeroblob(50000000) WHERE number = 2"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_database_that_is_none(how, ledger, capsys):
    BROKEN[how](ledger)
    for name in ("list", "audit", "run", "export"):
        began = time.process_time()  # a machine may be busy
        told(capsys, command(name, ledger), 2)
        assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"line": "1e9999", "hash": 5}', '{"line": 1e999, "hash": ""}', "\xff"]
)
def test_a_noted_end_that_is_none(text, ledger, capsys):
    (ledger / "head.json").write_text(text, encoding="latin-1")
    assert "head.json is gone or damaged" in told(capsys, asked("audit", ledger), 2)


# What else can lie in the folder


def test_what_others_put_there_is_named_and_left(ledger, capsys):
    turn = next((ledger / "turns").iterdir())
    for file in (ledger / "turns" / ".DS_Store", ledger / "notes.txt", turn / "face.png"):
        file.write_text("x")
    for room in (ledger / "state" / "lost+found", ledger / "@eaDir", ledger / "turns" / "zzz"):
        room.mkdir()
    (ledger / "turns" / "link").symlink_to("/")
    before = {p for p in ledger.rglob("*") if "link" not in p.parts}
    said = told(capsys, asked("audit", ledger))
    assert "7 thing(s) in the folder are not the ledger's" in said and "lost+found" in said
    assert main(command("release", ledger)) == main(command("export", ledger)) == 0
    assert before <= set(ledger.rglob("*"))


def test_a_ledger_without_a_turn_needs_no_folder_of_turns(used, tmp_path):
    assert main(init(used.parent, tmp_path / "new")) == 0
    (tmp_path / "new" / "turns").rmdir()
    assert main(asked("audit", tmp_path / "new")) == main(add(used.parent, tmp_path / "new", "ada")) == 0


def test_reading_writes_nothing(ledger, capsys):
    """On a disk that cannot be written to, either."""
    before = {p: p.stat().st_mtime_ns for p in [ledger, *ledger.rglob("*")]}
    for name in ("list", "audit", "export"):
        assert main(command(name, ledger)) == 0
    assert {p: p.stat().st_mtime_ns for p in [ledger, *ledger.rglob("*")]} == before


def test_nobody_else_may_read_it(used, tmp_path):
    """Whatever the umask, and what SQLite puts beside its file too."""
    mask = os.umask(0)
    try:
        assert main(init(used.parent, tmp_path / "new")) == main(add(used.parent, tmp_path / "new", "ada")) == 0
        opened = Ledger(tmp_path / "new")
        modes(tmp_path / "new")
        opened.store.close()
        ledger = Path(shutil.copytree(used, tmp_path / "ledger"))
        assert main(command("release", ledger)) == 0
    finally:
        os.umask(mask)
    modes(ledger)


def modes(ledger: Path) -> None:
    for path in [ledger, *ledger.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_images_in_a_folder_whose_name_is_not_utf8(used, ledger, tmp_path):
    place = Path(shutil.copytree(used.parent / "asked" / "eve", tmp_path / os.fsdecode(b"\xff")))
    assert main(asked("add", ledger, "--images", f"{place}")) == 0
    assert Ledger(ledger, reading=True).store.images()[-1].path is not None
    assert main(asked("audit", ledger)) == 0
    assert any(isinstance(path, bytes) for (path,) in rows(ledger, "SELECT path FROM images"))
