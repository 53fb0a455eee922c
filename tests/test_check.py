"""Ten planted faults in copies of each export, and what is found in a whole one."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.exports import FILE, change, copy, made

from unsee.data.check import check
from unsee.data.sources import SOURCES
from unsee.errors import UnseeError

FORMATS = sorted(SOURCES)
SPLIT = {"mllmu": "forget_10", "clear": "forget10", "umu": "forget_10"}
REST = {"mllmu": "retain_90", "clear": "retain90", "umu": "retain_90"}
ASKED = {"mllmu": "forget_10", "clear": "forget10_perturbed", "umu": "forget_10"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_export_is_clean_and_told_by_its_configs(name) -> None:
    folder, layout = made(name)
    report = check(folder)
    assert report.benchmark == name and not report.findings and report.lines()[-1] == "nothing wrong was found"
    assert {c.config: c.rows for c in report.counts} == {c: len(rows) for c, (_, rows) in layout.tables.items()}
    whole = next(c for c in report.counts if c.config in ("Full_Set", "full"))
    assert (whole.people, whole.images) == (20, 40 if name == "clear" else 20)
    assert "image: image" in whole.columns


def swap(one: str, other: str) -> Callable[[Path, str], None]:
    return lambda folder, name: change(folder, SPLIT[name], names={one: other, other: one})


def literal(rows: list[dict[str, Any]], column: str, edit: Callable[[Any], Any]) -> None:
    value = ast.literal_eval(rows[0][column])
    edit(value["unimodal"])
    rows[0][column] = repr(value)


def drop(folder: Path, name: str) -> None:
    change(folder, ASKED[name], names={"image": ""})


def truncate(folder: Path, name: str) -> None:
    path = folder / SPLIT[name] / FILE
    path.write_bytes(path.read_bytes()[:-100])


def break_image(folder: Path, name: str) -> None:
    def edit(rows) -> None:
        rows[0]["image"]["bytes"] = rows[0]["image"]["bytes"][:200]

    change(folder, SPLIT[name], edit)


def leak(folder: Path, name: str) -> None:
    kept: list[Any] = []
    change(folder, REST[name], lambda rows: kept.append(rows[3]))
    change(folder, SPLIT[name], lambda rows: rows.append(kept[0]))


def twice(folder: Path, name: str) -> None:
    def edit(rows) -> None:
        if name == "mllmu":
            rows[0]["Generation_Task"].append(rows[0]["Generation_Task"][0])
        elif name == "clear":
            written = next(row for row in rows if row["question"])
            rows.append(written)
        else:
            literal(rows, "Cloze", lambda half: half.update(question_9=half["question_1"]))

    change(folder, f"{SPLIT[name]}+tofu" if name == "clear" else SPLIT[name], edit)


def empty(folder: Path, name: str) -> None:
    def edit(rows) -> None:
        if name == "mllmu":
            rows[0]["Mask_Task"][0]["Ground_Truth"] = ""
        elif name == "clear":
            rows[0]["caption"] = " "
        else:
            literal(rows, "Generation", lambda half: half["question_1"].update(answer=""))

    change(folder, ASKED[name], edit)


def letter(folder: Path, name: str) -> None:
    def edit(rows) -> None:
        if name == "mllmu":
            rows[0]["Classification_Task"]["Image_Textual_Questions"][0]["Correct_Answer"] = "F"
        else:
            literal(rows, "Classify", lambda half: half["question_1"].update(answer="F. nothing"))

    change(folder, SPLIT[name], edit)


def no_json(folder: Path, name: str) -> None:
    config, column = ("ft_Data", "metadata") if name == "mllmu" else ("Full_Set", "UM_QA")
    change(folder, config, lambda rows: rows[0].update({column: rows[0][column][:-3]}))


def shrink(folder: Path, name: str) -> None:
    def edit(rows) -> None:
        first = rows[0].get("ID") or rows[0]["name"]
        rows[:] = [row for row in rows if (row.get("ID") or row["name"]) != first]

    change(folder, SPLIT[name], edit)


Plants = list[tuple[Callable[[Path, str], None], str, str]]  # each with the config and the words of its finding
# What keeps a config from being read hides what else is in it: those come alone.
PLANTS: list[tuple[str, Plants]] = [
    ("mllmu", [(swap("Generation_Task", "Mask_Task"), "forget_10", "'Generation_Task' and 'Mask_Task' look swapped")]),
    ("clear", [(swap("caption", "name"), "forget10", "'caption' and 'name' look swapped")]),
    ("umu", [(swap("Classify", "Cloze"), "forget_10", "'Classify' and 'Cloze' look swapped")]),
    ("mllmu", [(swap("ID", "image"), "forget_10", "the column 'ID' holds an image, not text")]),
    *((n, [(drop, ASKED[n], "the column 'image' is missing")]) for n in FORMATS),
    *((n, [(truncate, SPLIT[n], f"{FILE} cannot be read")]) for n in FORMATS),
    *((n, [(shrink, SPLIT[n], "1 people, which is not 10 % of the 20 in")]) for n in FORMATS),
    ("mllmu", [(break_image, "forget_10", "unreadable image: broken image")]),
    ("mllmu", [(leak, "forget_10", "in retain_90 too")]),
    ("mllmu", [(twice, "forget_10", "the generation question 'Who is this ?' stands twice")]),
    ("mllmu", [(empty, "forget_10", "a cloze question has no answer")]),
    ("mllmu", [(letter, "forget_10", "the answer 'F' is none of the options A, B, C, D")]),
    ("mllmu", [(no_json, "ft_Data", "'metadata' holds no JSON")]),
    ("umu", [
        (break_image, "forget_10", "unreadable image: broken image"), (leak, "forget_10", "in retain_90 too"),
        (twice, "forget_10", "the cloze question"), (empty, "forget_10", "a generation question has no answer"),
        (letter, "forget_10", "is none of the options A, B, C, D"), (no_json, "Full_Set", "'UM_QA' holds no JSON"),
    ]),
    ("clear", [  # it has no letters and no JSON
        (break_image, "forget10", "unreadable image: broken image"), (leak, "forget10", "in retain90 too"),
        (twice, "forget10+tofu", "stands twice"), (empty, "forget10_perturbed", "a caption question has no answer"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plants"), PLANTS)
def test_planted_faults_are_found(tmp_path, name, plants) -> None:
    folder = copy(name, tmp_path / "bench")
    for plant, _, _ in plants:
        plant(folder, name)
    report = check(folder, name)
    for _, config, said in plants:
        assert [f for f in report.findings if f.config == config and said in f.what], "\n".join(report.lines())
    assert all(f.todo for f in report.findings) and report.lines()[-1] == f"{len(report.findings)} finding(s)"


def test_one_image_of_two_people(tmp_path) -> None:
    folder = copy("umu", tmp_path / "bench")
    kept: list[Any] = []
    change(folder, "retain_90", lambda rows: kept.append(rows[0]["image"]))
    change(folder, "forget_10", lambda rows: rows[0].update(image=kept[0]))
    found = [f for f in check(folder).findings if f.config == "forget_10"]
    assert any(re.search("the same image is in retain_90, row p", f.what) for f in found)


def test_a_folder_that_is_no_benchmark(tmp_path) -> None:
    (tmp_path / "forest").mkdir()
    with pytest.raises(UnseeError, match="cannot be told from its configs: forest. Name it: mllmu, clear, umu"):
        check(tmp_path)
