"""The tables in the documents are those of the committed results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("file", "mark", "table"), tables().TABLES)
def test_the_document_shows_what_was_measured(file, mark, table):
    module = tables()
    text = (ROOT / file).read_text(encoding="utf-8")
    assert f"<!-- {mark} -->" in text
    assert module.placed(text, mark, table()) == text
    assert module.placed(text, mark, "| other |") != text


def test_every_result_names_its_command_and_commit():
    found = tables().requests()
    assert found
    for data in found.values():
        assert data["command"].startswith("python benchmarks/") and len(data["commit"]) >= 7
