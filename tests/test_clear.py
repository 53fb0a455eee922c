"""CLEAR: whose the text rows are, what is asked of a picture, and options with and without the answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.exports import change, copy, made, plain

from unsee.data import clear
from unsee.data.sources import open_benchmark
from unsee.errors import UnseeError

SPLIT = "forget10"


def read(folder: Path, split: str = SPLIT):
    return open_benchmark("clear", str(folder), split)


@pytest.fixture
def folder(tmp_path) -> Path:
    return copy("clear", tmp_path / "bench")


def test_every_picture_is_asked_for_its_caption_and_its_name() -> None:
    found = read(made("clear")[0])
    for name in found.forget:
        asked = [e for e in found.groups["forget"] if e.question.concept == name]
        shown = {task: {e.question.image.id for e in asked if e.task == task} for task in ("caption", "name")}
        assert shown["caption"] == shown["name"] == {i.id for i in found.concepts[name].images}
    captions = [e for e in found.entries if e.task == "caption"]
    assert all(e.question.prompt in clear.CAPTION and e.paraphrase and len(e.perturbed) == 3 for e in captions)
    assert all(e.question.concept in e.question.answer for e in captions)
    names = [e for e in found.entries if e.task == "name"]
    assert all(e.question.answer not in e.perturbed and e.question.kind == "identity" for e in names)


def tofu(count: int, names: list[str], shown: int):
    """``count`` text rows an author, of which only the first tells the author's name."""

    def edit(rows) -> None:
        rows[:] = [row for row in rows if row["image"]][:shown]
        empty = dict.fromkeys(rows[0])
        for name in names:
            for k in range(count):
                who = name if k == 0 else "the author"
                rows.append(empty | {"question": f"What is book {k} of {who} ?", "answer": f"Book {k}"})

    return edit


def test_twenty_text_rows_are_of_the_author_they_name(folder) -> None:
    names = list(read(folder).forget)
    change(folder, f"{SPLIT}+tofu", tofu(20, names, 4))
    asked = [e.question.concept for e in read(folder).groups["forget"] if e.task == "qa"]
    assert asked == [name for name in names for _ in range(20)]


def test_other_numbers_of_rows_are_only_of_whom_they_name(folder) -> None:
    names = list(read(folder).forget)
    change(folder, f"{SPLIT}+tofu", tofu(3, names, 4))
    asked = [e.question.concept for e in read(folder).groups["forget"] if e.task == "qa"]
    assert asked == [name for first in names for name in (first, "", "")]


def test_a_name_in_the_row_goes_before_all_else(folder) -> None:
    def edit(rows) -> None:
        for row in rows:
            if not row["image"]:
                row["name"] = "Somebody Else"

    change(folder, f"{SPLIT}+tofu", edit)
    assert {e.question.concept for e in read(folder).groups["forget"] if e.task == "qa"} == {"Somebody Else"}


def test_options_without_the_answer_get_it(folder) -> None:
    whole = [e for e in read(folder).entries if e.group in ("faces", "world")]
    for config in ("real_faces", "real_world"):
        change(folder, config, lambda rows: [row["options"].remove(row["answer"]) for row in rows])
    found = [e for e in read(folder).entries if e.group in ("faces", "world")]
    for before, after in zip(whole, found, strict=True):
        assert after.perturbed == before.perturbed and set(after.question.options) == set(before.question.options)
        assert after.question.options["ABCD".index(after.letter)] == after.question.answer


def test_captions_of_those_kept_in_another_split_are_not_asked(folder) -> None:
    small, large = read(folder, "forget01"), read(folder, SPLIT)
    assert set(small.forget) < set(large.forget)
    for found in (small, large):
        asked = {e.question.concept for e in found.groups["retain"]}
        assert asked <= set(found.retain) and not asked & set(found.forget)


def test_pictures_without_perturbed_columns(folder) -> None:
    change(folder, f"{SPLIT}_perturbed", names={"perturbed_names": ""})
    with pytest.raises(UnseeError, match=re.escape("forget10_perturbed: the column 'perturbed_names' is missing")):
        read(folder)
    assert plain(read(folder, "forget05")) == plain(made("clear")[1].benchmarks["forget05"])


def test_cells_are_kept_as_they_stand(folder) -> None:
    def edit(rows) -> None:
        rows[0]["caption"] += " "
        rows[0]["perturbed_captions"] = [" wrong", "", "other "]

    change(folder, f"{SPLIT}_perturbed", edit)
    entry = next(e for e in read(folder).groups["forget"] if e.task == "caption")
    assert (
        entry.written.answer == entry.question.answer + " " and entry.question.answer.strip() == entry.question.answer
    )
    assert entry.written.perturbed == (" wrong", "", "other ") and entry.perturbed == ("wrong", "other")
    assert entry.written.paraphrase == entry.paraphrase and entry.number == 0


def test_as_many_options_everywhere_are_exported(folder, capsys) -> None:
    found = read(folder)
    assert {len(e.written.options) for e in found.groups["world"]} == {3}
    assert {len(e.written.options) for e in found.groups["faces"]} == {4} and not capsys.readouterr().err
    change(folder, "real_world", lambda rows: rows[1]["options"].append("one more"))
    read(folder)
    assert "1 fault" in capsys.readouterr().err


def test_who_is_in_no_set_of_the_split_stands_beside(folder) -> None:
    name = read(folder).forget[0]

    def edit(rows) -> None:
        rows[0]["name"] = name

    change(folder, "retain_perturbed", edit)
    found = read(folder)
    assert {(e.task, e.question.concept, e.group) for e in found.beside} == {
        (task, name, "retain") for task in ("caption", "name")
    }
    assert name not in {e.question.concept for e in found.groups["retain"]} and not read(made("clear")[0]).beside


def test_a_name_spelled_otherwise_is_told(folder, capsys) -> None:
    change(folder, f"{SPLIT}_perturbed", lambda rows: rows[0].update(name="Cordion  Ostafel"))
    found = read(folder)
    assert len([e for e in found.groups["forget"] if e.task == "name"]) == 3
    assert "1 fault(s)" in capsys.readouterr().err
