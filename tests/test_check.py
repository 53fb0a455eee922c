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


Plant = tuple[str, str, Callable[[Path, str], None], str]
TWO = ("mllmu", "umu")  # CLEAR has no letters and no JSON
PLANTS: list[Plant] = [
    ("mllmu", "forget_10", swap("Generation_Task", "Mask_Task"), "'Generation_Task' and 'Mask_Task' look swapped"),
    ("clear", "forget10", swap("caption", "name"), "'caption' and 'name' look swapped"),
    ("umu", "forget_10", swap("Classify", "Cloze"), "'Classify' and 'Cloze' look swapped"),
    ("mllmu", "forget_10", swap("ID", "image"), "the column 'ID' holds an image, not text"),
    *((n, ASKED[n], drop, "the column 'image' is missing") for n in FORMATS),
    *((n, SPLIT[n], truncate, f"{FILE} cannot be read") for n in FORMATS),
    *((n, SPLIT[n], break_image, "unreadable image: broken image") for n in FORMATS),
    *((n, SPLIT[n], leak, f"in {REST[n]} too") for n in FORMATS),
    ("mllmu", "forget_10", twice, "the generation question 'Who is this ?' stands twice"),
    ("clear", "forget10+tofu", twice, "stands twice"),
    ("umu", "forget_10", twice, "the cloze question"),
    *((n, ASKED[n], empty, "question has no answer") for n in FORMATS),
    *((n, SPLIT[n], letter, "is none of the options A, B, C, D") for n in TWO),
    ("mllmu", "ft_Data", no_json, "'metadata' holds no JSON"),
    ("umu", "Full_Set", no_json, "'UM_QA' holds no JSON"),
    *((n, SPLIT[n], shrink, "1 people, which is not 10 % of the 20 in") for n in FORMATS),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config", "plant", "said"), PLANTS)
def test_a_planted_fault_is_found(tmp_path, name, config, plant, said) -> None:
    folder = copy(name, tmp_path / "bench")
    plant(folder, name)
    report = check(folder, name)
    found = [f for f in report.findings if f.config == config and said in f.what]
    assert found, "\n".join(report.lines())
    assert all(f.todo for f in report.findings) and report.lines()[-1] == f"{len(report.findings)} finding(s)"


def test_one_fault_does_not_hide_another(tmp_path) -> None:
    folder = copy("mllmu", tmp_path / "bench")
    for plant in (break_image, leak, twice, empty, letter, no_json):
        plant(folder, "mllmu")
    change(folder, "Test_Set", names={"images": ""})
    (folder / "Retain_Set").rename(folder / "celebrities")
    told = "\n".join(check(folder, "mllmu").lines())
    for said in (
        "unreadable", "in retain_90 too", "stands twice", "has no answer", "none of the options", "holds no JSON",
        "'images' is missing", "Retain_Set: the config is missing",
    ):  # fmt: skip
        assert said in told


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
