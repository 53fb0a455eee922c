"""UMU-Bench: questions in pairs, out of Python literals and JSON in strings."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from tests.exports import change, copy, made, plain

from unsee.data.sources import open_benchmark
from unsee.errors import UnseeError

SPLIT = "forget_10"


def read(folder: Path):
    return open_benchmark("umu", str(folder), SPLIT)


@pytest.fixture
def folder(tmp_path) -> Path:
    return copy("umu", tmp_path / "bench")


def test_every_question_has_its_pair_in_the_other_modality() -> None:
    found = read(made("umu")[0])
    by_id = {e.id: e for e in found.entries}
    for entry in found.entries:
        other = by_id[entry.pair]
        assert other.pair == entry.id and other.question.modality != entry.question.modality
        assert (other.group, other.task, other.question.answer) == (entry.group, entry.task, entry.question.answer)


def rewrite(spelled):
    def edit(rows) -> None:
        for row in rows:
            for column in ("Classify", "Cloze", "Generation"):
                value = ast.literal_eval(row[column])
                row[column] = json.dumps({spelled.get(k, k): v for k, v in value.items()})

    return edit


@pytest.mark.parametrize("spelled", [{}, {"muitimodal": "multimodal"}])
def test_json_and_both_spellings_read_the_same(folder, spelled) -> None:
    for config in (SPLIT, "Real_Person_Set"):
        change(folder, config, rewrite(spelled))
    (folder / "Real_Person_Set").rename(folder / "real_person")
    assert plain(read(folder)) == plain(made("umu")[1].benchmarks[SPLIT])


def test_a_question_without_its_pair_says_so(folder) -> None:
    def spoil(rows) -> None:
        value = ast.literal_eval(rows[0]["Cloze"])
        value["unimodal"]["question_1"]["answer"] = ""
        rows[0]["Cloze"] = repr(value)

    change(folder, SPLIT, spoil)
    found = read(folder)
    alone = [e for e in found.entries if not e.pair]
    assert [(e.question.concept, e.task, e.question.modality) for e in alone] == [(found.forget[0], "cloze", "image")]


@pytest.mark.parametrize(
    ("config", "column", "value", "said"),
    [
        (SPLIT, "Classify", "{'unimodal': {", "row p031: 'Classify' holds no JSON"),
        ("Full_Set", "MM_QA", "not at all", "'MM_QA' holds no JSON"),
        (SPLIT, "Cloze", "__import__('os').getcwd()", "'Cloze' holds no JSON"),
    ],
)
def test_a_string_without_json(folder, config, column, value, said) -> None:
    change(folder, config, lambda rows: rows[0].update({column: value}))
    with pytest.raises(UnseeError, match=re.escape(said)):
        read(folder)


def test_a_row_without_its_image_keeps_what_is_asked_in_words(folder) -> None:
    change(folder, SPLIT, lambda rows: rows[0].update(image=None))
    found = read(folder)
    left = [e for e in found.groups["forget"] if e.question.concept == found.forget[0]]
    assert left and all(e.question.modality == "text" and "picture" not in e.question.prompt for e in left)


def test_a_missing_column(folder) -> None:
    change(folder, "Full_Set", names={"UM_QA": "QA"})
    with pytest.raises(UnseeError, match=r"Full_Set: the column 'UM_QA' is missing; found: .*QA"):
        read(folder)
