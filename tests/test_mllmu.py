"""MLLMU-Bench as it may lie on a disk: whole, in shards, in other versions, and broken."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from tests.exports import FILE, change, copy, made, plain

from unsee.data import mllmu, parquet
from unsee.data.images import BadImage
from unsee.data.sources import open_benchmark
from unsee.errors import UnseeError

SPLIT = "forget_10"


def read(folder: Path | str):
    return open_benchmark("mllmu", str(folder), SPLIT)


@pytest.fixture
def folder(tmp_path) -> Path:
    return copy("mllmu", tmp_path / "bench")


@pytest.fixture(scope="module")
def whole():
    return plain(made("mllmu")[1].benchmarks[SPLIT])


def under_data(folder: Path) -> None:
    configs = list(folder.iterdir())
    (folder / "data").mkdir()
    for config in configs:
        config.rename(folder / "data" / config.name)


def as_converted(folder: Path) -> None:
    """The hub's own conversion: CONFIG/train/0000.parquet."""
    for config in list(folder.iterdir()):
        (config / "train").mkdir()
        (config / FILE).rename(config / "train" / "0000.parquet")


def in_shards(folder: Path) -> None:
    table = pq.read_table(folder / "Full_Set" / FILE)
    (folder / "Full_Set" / FILE).unlink()
    pq.write_table(table.slice(0, 7), folder / "Full_Set" / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(7), folder / "Full_Set" / "train-00001-of-00002.parquet")


def with_numbers(folder: Path) -> None:
    """IDs as whole numbers, of which the first is 0."""
    import pyarrow as pa

    numbers: dict[str, int] = {}
    for path in sorted(folder.glob(f"*/{FILE}")):
        table = pq.read_table(path).replace_schema_metadata(None)
        ids = pa.array([numbers.setdefault(id, len(numbers)) for id in table["ID"].to_pylist()])
        pq.write_table(table.set_column(table.column_names.index("ID"), "ID", ids), path)


def as_json(folder: Path) -> None:
    """The tasks as JSON in strings."""
    import pyarrow as pa

    for config in (SPLIT, "Full_Set"):
        table = pq.read_table(folder / config / FILE).replace_schema_metadata(None)
        for column in mllmu.TASKS:
            texts = pa.array([json.dumps(value) for value in table[column].to_pylist()])
            table = table.set_column(table.column_names.index(column), column, texts)
        pq.write_table(table, folder / config / FILE)


def beside(folder: Path) -> None:
    """``metadata`` in the forget and retain sets of another repository only."""
    metadata = {row["ID"]: row["metadata"] for row in pq.read_table(folder / "ft_Data" / FILE).to_pylist()}
    for config in (SPLIT, mllmu.SPLITS[SPLIT]):
        table = pq.read_table(folder / config / FILE).select(["image", "ID"]).replace_schema_metadata(None)
        (folder.parent / "baseline_train_split" / config).mkdir(parents=True)
        table = table.append_column("metadata", [[metadata[id] for id in table["ID"].to_pylist()]])
        pq.write_table(table, folder.parent / "baseline_train_split" / config / FILE)
    change(folder, "ft_Data", names={"metadata": ""})


@pytest.mark.parametrize("laid", [under_data, as_converted, in_shards, as_json, beside])
def test_other_layouts_read_the_same(folder, whole, laid) -> None:
    laid(folder)
    found = plain(read(folder))
    if laid is beside:  # there the training questions come in the order of the split
        found["taught"], whole = sorted(found["taught"], key=str), whole | {"taught": sorted(whole["taught"], key=str)}
    assert found == whole


def test_numbers_as_ids(folder, whole) -> None:
    with_numbers(folder)
    found = read(folder)
    assert "0" in found.concepts and len(found.concepts) == 20 and len(found.entries) == len(whole["entries"])


def test_from_the_hub(monkeypatch, whole) -> None:
    asked = set()

    def load(name, config, split, revision):
        asked.add((name, split, revision))
        return datasets.Dataset.from_parquet(str(made("mllmu")[0] / config / FILE))

    monkeypatch.setattr(parquet.datasets, "load_dataset", load)
    monkeypatch.setattr(parquet.datasets, "get_dataset_config_names", lambda name, revision: list(mllmu.CONFIGS))
    assert plain(open_benchmark("mllmu", split=SPLIT, revision="v1")) == whole
    assert asked == {("MLLMMU/MLLMU-Bench", "train", "v1")}


def test_a_folder_is_read_without_the_network(folder, monkeypatch) -> None:
    def call(*args, **kwargs):
        raise AssertionError(f"called {args}")

    monkeypatch.setattr(socket, "getaddrinfo", call)
    monkeypatch.setattr(socket.socket, "connect", call)
    calls = []
    monkeypatch.setattr(datasets.load, "increase_load_count", calls.append)
    read(folder)
    assert not calls


def test_a_hub_that_cannot_be_had(monkeypatch) -> None:
    def gone(name, revision):
        raise ConnectionError("no network")

    monkeypatch.setattr(parquet.datasets, "get_dataset_config_names", gone)
    with pytest.raises(UnseeError, match=r"'some/where' is no folder here, and could not be had .*: no network"):
        read("some/where")


def test_test_questions_are_asked_of_every_picture() -> None:
    found = read(made("mllmu")[0])
    tests = [e for e in found.groups["test"] if e.question.image]
    assert {e.question.concept for e in tests} == set(found.forget)
    taught = {image.id for concept in found.concepts.values() for image in concept.images}
    views: dict[str, set[str]] = {}
    for entry in tests:
        views.setdefault(entry.id.rpartition("/")[0], set()).add(entry.question.image.id)
    assert all(len(images) == 2 and not images & taught for images in views.values())


def test_cells_and_places_are_those_of_the_table(folder) -> None:
    def edit(rows) -> None:
        rows[0]["Classification_Task"]["Pure_Text_Questions"][1]["Correct_Answer"] += ". the job "
        rows[0]["Mask_Task"][1]["Ground_Truth"] += " "

    change(folder, SPLIT, edit)
    found = read(folder)
    first = [e for e in found.groups["forget"] if e.question.concept == found.forget[0]]
    choice = [e for e in first if e.task == "classification" and e.question.image is None]
    assert choice[1].written.answer == f"{choice[1].letter}. the job " and choice[0].written.answer == choice[0].letter
    assert choice[1].written.options == choice[1].question.options
    cloze = [e for e in first if e.task == "cloze"]
    assert [e.number for e in cloze] == [0, 1, 2]  # both modalities share a list
    assert cloze[1].written.answer == cloze[1].question.answer + " "


def test_examples_are_drawn_from_questions_that_are_asked() -> None:
    found = read(made("mllmu")[0])
    asked = {e.id for e in found.entries}
    assert {e.question.concept for e in found.shots} == set(found.concepts)
    assert {e.id for e in found.shots} <= asked
    assert not {e.question.concept for e in found.groups["real"]} & set(found.concepts)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda f: change(f, "Test_Set", names={"images": ""}), "Test_Set: the column 'images' is missing; found: ID,"),
        (lambda f: change(f, SPLIT, names={"ID": "image", "image": "ID"}), "column 'ID' holds an image, not text"),
        (lambda f: (f / SPLIT / FILE).unlink(), "forget_10: the folder has no parquet file"),
        (lambda f: (f / SPLIT).rename(f / "old"), "forget_10: the config is missing; found: Full_Set, Retain_Set"),
        (lambda f: (f / SPLIT / FILE).write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda f: (f / SPLIT / FILE).write_bytes(b"PAR1 and no more"), "train-00000-of-00001.parquet cannot"),
        (lambda f: change(f, "ft_Data", names={"metadata": ""}), "Put MLLMMU/baseline_train_split from the hub beside"),
        (
            lambda f: change(f, "ft_Data", lambda rows: rows[2].update(metadata="[{'Question': 1")),
            "'metadata' holds no JSON",
        ),
        (lambda f: change(f, SPLIT, lambda rows: rows.append(rows[0])), "the ID stands twice"),
        (
            lambda f: change(f, SPLIT, lambda rows: rows[0].update(ID="p999")),
            "forget_10: people who are not in Full_Set: p999",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read(folder, edit, said) -> None:
    edit(folder)
    with pytest.raises(UnseeError, match=re.escape(said)):
        read(folder)


def test_all_errors_come_at_once(folder) -> None:
    change(folder, "Test_Set", names={"images": ""})
    change(folder, SPLIT, names={"Mask_Task": "Cloze"})
    with pytest.raises(UnseeError, match=r"2 error\(s\)(.|\n)*'images' is missing(.|\n)*'Mask_Task' is missing"):
        read(folder)


def test_a_split_that_is_not() -> None:
    with pytest.raises(UnseeError, match="split 'forget_01' of mllmu. Did you mean 'forget_15'"):
        open_benchmark("mllmu", str(made("mllmu")[0]), "forget_01")


def test_a_question_that_cannot_be_asked_is_left_out_and_told(folder, whole, capsys) -> None:
    def spoil(rows) -> None:
        rows[0]["Generation_Task"][0]["Ground_Truth"] = " "
        rows[0]["Classification_Task"]["Pure_Text_Questions"][1]["Correct_Answer"] = "E"
        rows[1]["Mask_Task"][0]["Type"] = "Video"

    change(folder, SPLIT, spoil)
    found = read(folder)
    gone = {e[0] for e in whole["entries"]} - {e.id for e in found.entries}
    first, second = found.forget
    assert gone == {
        f"forget/{first}/generation/image/0", f"forget/{first}/classification/text/1", f"forget/{second}/cloze/image/0"
    }  # fmt: skip
    assert "3 fault(s)" in capsys.readouterr().err


def test_a_broken_image_says_where_it_is(folder) -> None:
    change(folder, SPLIT, lambda rows: rows[1]["image"].update(bytes=b"\x89PNG\r\n\x1a\n and no more"))
    found = read(folder)
    image = next(e.question.image for e in found.groups["forget"] if e.question.concept == found.forget[1])
    with pytest.raises(BadImage, match="forget_10, row 2, column image"):
        image.load()
