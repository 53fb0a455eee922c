"""Ten planted faults in copies of each export, and what is found in a whole one."""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.exports import FILE, change, copy, made

from unsee.data.check import check
from unsee.data.parquet import Source
from unsee.data.sources import SOURCES, open_benchmark
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


def part(names: list[str]) -> Callable[[Path], None]:
    """Puts a config's file in place of parts by these names."""

    def edit(folder: Path) -> None:
        whole = (folder / FILE).read_bytes()
        (folder / FILE).unlink()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(whole)

    return edit


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train-00000-of-00002.parquet"], "1 of 2 parts are missing: 1"),
        (["train-00001-of-00002.parquet"], "1 of 2 parts are missing: 0"),
        (["train-00003-of-00099.parquet"], "98 of 99 parts are missing: 0, 1, 2, 4, 5 …"),
        (["train-00000-of-00002-0a1b2c3d4e5f6789.parquet"], "1 of 2 parts are missing: 1"),
        (["train/0001.parquet"], "1 of 2 parts are missing: 0"),
        (["train/0000.parquet", "train/0002.parquet"], "1 of 3 parts are missing: 1"),
        ([FILE, "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], "different downloads"),
        ([FILE, "train-00000-of-00001-0a1b2c3d4e5f6789.parquet"], "part 0 is there twice"),
        ([FILE, "train.parquet"], "train.parquet lies beside numbered parts"),
        (["train-00005-of-00002.parquet"], "part 5 is more than the 2 there are"),
        (["train-00000-of-99999999999.parquet"], "parts are missing: 1, 2, 3, 4, 5 …"),
    ],
)
@pytest.mark.parametrize("name", ["mllmu", "clear"])
def test_half_a_download_is_told_by_the_numbers_in_names(tmp_path, name, names, said) -> None:
    config = {"mllmu": "Test_Set", "clear": "real_faces"}[name]
    source = tmp_path / config
    source.mkdir()
    shutil.copy(made(name)[0] / config / FILE, source)
    part(names)(source)
    opened = Source(name, str(tmp_path))
    assert opened.table(config) is None
    assert any(said in finding.what and not finding.minor for finding in opened.findings), list(opened.findings)


def test_half_a_download_is_not_evaluated(tmp_path) -> None:
    folder = copy("mllmu", tmp_path / "bench")
    part(["train-00000-of-00002.parquet"])(folder / "Retain_Set")
    assert "Retain_Set: 1 of 2 parts are missing: 1. Download it again." in "\n".join(check(folder).lines())
    with pytest.raises(UnseeError, match="1 of 2 parts are missing"):
        open_benchmark("mllmu", str(folder), "forget_10")


@pytest.mark.parametrize("names", [["train-00000-of-00001.parquet"], ["0000.parquet"], ["train/0000.parquet"]])
def test_whole_downloads_in_every_layout_are_whole(tmp_path, names) -> None:
    (tmp_path / "Test_Set").mkdir()
    shutil.copy(made("mllmu")[0] / "Test_Set" / FILE, tmp_path / "Test_Set")
    part(names)(tmp_path / "Test_Set")
    opened = Source("mllmu", str(tmp_path))
    assert opened.table("Test_Set") is not None and not opened.findings


def table_of(place: Path, table: pa.Table) -> Source:
    """A benchmark of one config with this table."""
    (place / "Full_Set").mkdir(parents=True)
    pq.write_table(table.replace_schema_metadata(), place / "Full_Set" / FILE, store_schema=False)
    return Source("mllmu", str(place))


def test_a_note_of_a_newer_datasets_does_not_hide_the_table(tmp_path) -> None:
    folder = copy("mllmu", tmp_path / "bench")
    path = folder / "Full_Set" / FILE
    table = pq.read_table(path)
    for old, new in ((b'"Value"', b'"Newer"'), (b'"Image"', b'"Picture"'), (b"{", b"[")):
        note = table.schema.metadata[b"huggingface"].replace(old, new, 1)
        pq.write_table(table.replace_schema_metadata({b"huggingface": note}), path)
        opened = Source("mllmu", str(folder))
        read = opened.table("Full_Set")
        assert read is not None and read.kinds["image"] == "image" and len(read) == 20, opened.findings
    assert check(folder).lines()[-1] == "nothing wrong was found"


def test_a_picture_that_is_only_a_name_is_called_so(tmp_path) -> None:
    folder = copy("mllmu", tmp_path / "bench")
    change(folder, "forget_5", lambda rows: rows[0].update(image={"bytes": None, "path": "images/\x1b[2J0.jpg"}))
    found = "\n".join(check(folder).lines())
    assert r"forget_5, row 1: the column 'image' has the name of a file, images/\x1b[2J0.jpg, and no image" in found
    assert "not a JPEG" not in found
    with pytest.raises(UnseeError, match="and no image. Download it with its images"):
        open_benchmark("mllmu", str(folder), "forget_5")


def nested(depth: int) -> pa.Table:
    kind: pa.DataType = pa.int32()
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.table({"ID": pa.array([None], kind)})


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"ID": pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 100_000])}),
        pa.table({"ID": pa.nulls(5_000_000)}),
        pa.table({f"c{i}": [1] for i in range(2000)}),
        nested(3000),
        pa.table(
            {"ID": pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xba\xba"))}
        ),
        pa.table({"ID": pa.array([2**53], pa.timestamp("s"))}),
    ],
    ids=["equal cells", "rows", "columns", "nested", "no text", "no date"],
)
def test_tables_that_ask_for_much_or_hold_what_python_lacks_are_refused_in_one_line(tmp_path, table) -> None:
    source = table_of(tmp_path, table)
    assert (tmp_path / "Full_Set" / FILE).stat().st_size < 4_000_000
    assert source.table("Full_Set") is None
    (finding,) = source.findings
    assert re.search("cannot be read|unpacked it is over|more than any benchmark", finding.what), finding


def test_files_that_are_no_tables_are_refused(tmp_path) -> None:
    for name in ("pipe", "cut", "lfs", "text", "gone"):
        (tmp_path / name / "Full_Set").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe" / "Full_Set" / FILE)
    whole = (made("mllmu")[0] / "Full_Set" / FILE).read_bytes()
    (tmp_path / "cut" / "Full_Set" / FILE).write_bytes(whole[:500] + whole[700:])
    (tmp_path / "lfs" / "Full_Set" / FILE).write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "text" / "Full_Set" / FILE).write_bytes(b"\xff" * 100)
    (tmp_path / "gone" / "Full_Set" / FILE).symlink_to("nowhere")
    said = {"pipe": "not a regular file", "lfs": "pointer of Git LFS", "gone": "No such file"}
    for name in ("pipe", "cut", "lfs", "text", "gone"):
        source = Source("mllmu", str(tmp_path / name))
        assert source.table("Full_Set") is None
        assert said.get(name, "cannot be read") in str(next(iter(source.findings)))


@pytest.mark.parametrize("value", ["[" * 100_000, "[1," * 200 + "]" * 200, "(" * 300 + ")" * 300, "9" * 300_000])
def test_cells_that_are_deep_or_long_hold_no_json(tmp_path, value) -> None:
    source = Source("umu", str(tmp_path))
    assert source.parsed("Full_Set", 1, "Cloze", value) is None
    (finding,) = source.findings
    assert len(str(finding)) < 1100


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
