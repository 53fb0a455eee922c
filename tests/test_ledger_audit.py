"""What an audit finds: lines of the log edited, gone or moved, damaged files, a database that was written into."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.forged import FORGERIES, Forgery
from tests.forging import older, sql
from tests.small_ledger import asked, furnished

from unsee.cli import main
from unsee.config import LedgerConfig
from unsee.errors import UnseeError
from unsee.ledger import book
from unsee.ledger.audit import audit as audit_of
from unsee.ledger.book import Ledger
from unsee.ledger.log import Line, faults


def chain(count: int) -> list[Line]:
    lines: list[Line] = []
    for k in range(count):
        lines.append(Line.after(lines[-1] if lines else None, f"{k}", "a", "checked", {"figure": k / 3, "name": "é"}))
    return lines


@given(st.integers(1, 8))
def test_a_whole_log_has_no_faults(count):
    lines = chain(count)
    assert faults(lines) == [] and faults(lines, (count, lines[-1].hash)) == []


@given(st.integers(2, 8), st.data())
def test_every_fault_is_found(count, data):
    lines = chain(count)
    noted, k = (count, lines[-1].hash), data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count - 1).filter(lambda n: n != k))
    edited = [replace(line, body={"figure": 1}) if n == k else line for n, line in enumerate(lines)]
    assert faults(edited) == [f"line {k + 1} of the log was edited"]
    forged = [replace(line, before="1" * 64) if n == k else line for n, line in enumerate(lines)]
    assert f"line {k + 1} of the log does not follow the one before it" in faults(forged)
    assert faults(lines[:k] + lines[k + 1 :], noted)
    swapped = list(lines)
    swapped[k], swapped[other] = swapped[other], swapped[k]
    assert faults(swapped)
    assert faults(lines[:-1], noted) == [
        f"the log ends at line {count - 1}, and line {count} was noted: its end is missing"
    ]
    assert faults(chain(count + 1), (count, "0" * 64)) == [f"line {count} of the log is not the one that was noted"]


def test_what_is_gone_from_the_end_is_not_seen_without_a_note():
    assert faults(chain(5)[:3]) == []


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """Nobody may write into it."""
    return furnished(tmp_path_factory.mktemp("used"))


@pytest.fixture
def ledger(used, tmp_path) -> Path:
    return Path(shutil.copytree(used, tmp_path / "ledger"))


def audit(capsys, ledger: Path, *more: str) -> str:
    assert main(asked("audit", ledger, *more)) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1 and "Traceback" not in err
    return err


def test_a_ledger_is_whole_and_says_where_its_log_ends(ledger, capsys):
    assert main(asked("audit", ledger)) == 0
    said = capsys.readouterr().out
    assert "whole, 4 requests, 3 patches" in said
    noted = said.split("noted elsewhere: ")[1].strip()
    assert main(asked("audit", ledger, "--head", noted)) == 0
    sql(ledger, "DELETE FROM log WHERE number = (SELECT MAX(number) FROM log)")
    number = int(noted.partition(":")[0])
    assert f"line {number} was noted: its end is missing" in audit(capsys, ledger)
    (ledger / "head.json").write_text('{"line": 1, "hash": ""}')
    assert f"line {number} was noted: its end is missing" in audit(capsys, ledger, "--head", noted)


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["UPDATE log SET body = replace(body, '0.', '0.0') WHERE event = 'forgotten'"], "of the log was edited"),
        (["UPDATE log SET body = '[' WHERE number = 2"], "line 2 of the log was edited"),
        (["UPDATE log SET time = '2020' WHERE number = 3"], "line 3 of the log was edited"),
        (["DELETE FROM log WHERE number = 3"], "line 3 of the log is missing"),
        (["DELETE FROM log"], "the log is empty"),
        (["UPDATE log SET number = 99 WHERE number = 2", "UPDATE log SET number = 2 WHERE number = 3",
          "UPDATE log SET number = 3 WHERE number = 99"], "line 2 of the log"),
        (["UPDATE requests SET state = 'released'"], "is released in the database and verified in the log"),
        (["DELETE FROM requests WHERE place = 1"], "is gone in the database and released in the log"),
        (["UPDATE images SET path = '/tmp/ada.png'"], "the ledger still knows where its images lie"),
        (["DELETE FROM turns WHERE place = 3"], "is not the state of this ledger's patches"),
        (["UPDATE settings SET value = replace(value, '\"most_left\": 5', '\"most_left\": 9')"], "settings are not"),
    ],
)  # fmt: skip
def test_a_database_that_was_written_into(statements, found, ledger, capsys):
    sql(ledger, *statements)
    assert found in audit(capsys, ledger)


@pytest.mark.parametrize("text", [None, "{", '{"line": 1}'])
def test_the_noted_end_of_the_log_is_damaged_or_gone(text, ledger, capsys):
    (ledger / "head.json").unlink() if text is None else (ledger / "head.json").write_text(text)
    assert "head.json is gone or damaged" in audit(capsys, ledger)


def test_a_ledger_from_before_a_setting_existed_is_whole(ledger, monkeypatch):
    @dataclass(frozen=True)
    class Newer(LedgerConfig):
        more: float = 1.0

    monkeypatch.setattr(book, "LedgerConfig", Newer)
    assert main(asked("audit", ledger)) == 0


def spoil(file: Path) -> None:
    """One bit, in the last tensor."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("turns/*/patch.safetensors", "is not the patch that the log says was kept"),
        ("turns/*/share.safetensors", "is not the share that the log says"),
        ("state/*", "is not the one that the log says was kept last"),
        ("base.safetensors", "base.safetensors is not the state that the log begins with"),
    ],
)
def test_files_that_are_damaged_or_gone(pattern, found, ledger, capsys):
    file = sorted(ledger.glob(pattern))[0]
    spoil(file)
    assert found in audit(capsys, ledger)
    file.unlink()
    assert audit(capsys, ledger)


def test_a_damaged_patch_is_not_served(ledger, tmp_path, capsys):
    assert main(asked("release", ledger)) == 0
    spoil(sorted(ledger.glob("turns/*/patch.safetensors"))[0])
    capsys.readouterr()
    assert main(asked("export", ledger, "--out", f"{tmp_path / 'out'}")) == 2
    assert "is not the patch that the log says was kept" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_base_is_found(used, ledger, capsys):
    model = used.parent / "model"
    kept = model.rename(used.parent / "kept")
    try:
        assert "does not exist" in audit(capsys, ledger)
        shutil.copytree(kept, model)
        assert main(asked("audit", ledger)) == 0
        weights = load_file(model / "model.safetensors")
        name = "multi_modal_projector.linear_1.weight"
        save_file(weights | {name: weights[name] + 1}, model / "model.safetensors", {"format": "pt"})
        assert "the patch was made from another model" in audit(capsys, ledger)
    finally:
        shutil.rmtree(model)
        kept.rename(model)


@pytest.fixture(scope="module")
def head(used) -> str:
    return audit_of(Ledger(used, reading=True))[1]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda f: f.name)
def test_a_forgery_is_found(forgery: Forgery, ledger, head):
    """By the audit alone, or as it says only with the end of the log that was noted before, or one noted since."""
    forgery.forge(ledger)
    assert bool(findings(ledger)) == (not forgery.needs)
    if forgery.needs:
        assert bool(findings(ledger, head)) == (forgery.needs == "head") and forgery.reason


def findings(ledger: Path, noted: str = "") -> list[str]:
    try:
        return audit_of(Ledger(ledger, reading=True), noted)[0]
    except UnseeError as error:
        return [str(error)]


def test_there_are_enough_forgeries_and_the_document_lists_what_needs_an_anchor():
    assert len({f.name for f in FORGERIES}) == len(FORGERIES) >= 60
    document = (Path(__file__).parent.parent / "docs" / "requests.md").read_text(encoding="utf-8")
    listed = {line.split(" | ")[0].removeprefix("| ") for line in document.splitlines() if line.startswith("| ")}
    assert {f.name for f in FORGERIES if f.needs} <= listed
    committed = json.loads((Path(__file__).parent.parent / "benchmarks/results/forgeries.json").read_text())
    assert committed["not_as_expected"] == [] and committed["forgeries"] >= 60


def test_a_ledger_of_an_older_unsee_is_whole_and_says_what_its_log_leaves_out(ledger, capsys):
    older(ledger)
    assert main(asked("audit", ledger)) == 0
    said = capsys.readouterr().out
    assert "does not cover which images a request asks for (4 line(s))" in said and said.count("to be known") == 5
    assert main(asked("release", ledger)) == 0  # and goes on
    sql(ledger, "UPDATE requests SET state = 'verified' WHERE place = 1")
    assert "is verified in the database and released in the log" in audit(capsys, ledger)


@pytest.mark.parametrize("head", ["12", "x:" + "0" * 64, "3:abc"])
def test_a_head_that_is_none(head, ledger, capsys):
    assert "Give a line as it was noted, LINE:HASH" in audit(capsys, ledger, "--head", head)
