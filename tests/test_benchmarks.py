"""Every benchmark that docs/results.md names runs on the models that ship, with fewer images, questions and steps."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import folder
from tests.small_study import FEW, few_people
from tests.started import script, start

from unsee.data.study import PeopleStudy
from unsee.vision.patch import fingerprint

MODELS = files("unsee") / "models"
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = {
    "SIZES": {"people": FEW}, "SIZE": FEW, "STEPS": 1, "STRENGTHS": (1.0,), "FORGET_VIEWS": 3, "RETAIN_VIEWS": 2,
    "BASELINE": [sys.executable, "-c", "pass"],
}  # fmt: skip


@pytest.fixture
def short(monkeypatch, defaults):
    """A benchmark module in which everything is few."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    few_people(monkeypatch)
    neutral = PeopleStudy.neutral
    monkeypatch.setattr(PeopleStudy, "neutral", lambda s: neutral(s, 6))
    monkeypatch.setattr("unsee.prepare.VIEWS", 6)
    monkeypatch.setattr("unsee.ledger.measure.MOST", 6)
    defaults(steps=2, replay=8, lookalikes=8)

    def load(name: str):
        module = importlib.import_module(name)
        for constant, value in SMALL.items():
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)
        monkeypatch.setitem(importlib.import_module("request").VIEWS, "forget", 3)
        monkeypatch.setitem(importlib.import_module("request").VIEWS, "retain", 2)
        return module

    yield load
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def result(short, tmp_path, monkeypatch):
    """Runs a benchmark on the shipped model and reads the file it wrote."""

    def measure(name: str, *flags: str) -> dict:
        out = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", [name, "--vanilla", str(MODELS / "people-vanilla"), *flags, "--out", str(out)])
        short(name).main()
        data = json.loads(out.read_text())
        assert data["commit"] and data["command"].startswith(f"python benchmarks/{name}.py")
        return data

    return measure


def test_the_request(result):
    (row,) = result("request", "--gold", str(MODELS / "people-gold"), "--draws", "1")["draws"]
    assert {"vanilla", "gold", "retain", "statistics"} <= row.keys()
    assert row["statistics"]["text_identical"] and row["vanilla"]["retain_names"]["value"] > 0.9


@pytest.fixture
def four_groceries(tmp_path):
    """Flags for a set of photographs of few concepts, of which one is to be forgotten."""
    known = {"a": 1, "b": 2, "c": 3, "d": 4}
    for part, concepts in (("train", known), ("test", known), ("neutral", {"x": 11, "y": 12, "z": 13})):
        folder(tmp_path / "grocery" / part, concepts, views=3)
    rows = [f"{c},Brand {c},package,juice {c},House {c},Land {c}" for c in known]
    (tmp_path / "grocery" / "facts.csv").write_text("\n".join(["id,name,kind,category,brand_or_family,origin", *rows]))
    return "--study", "groceries", "--root", f"{tmp_path}", "--split", "forget_1"


def test_a_request_of_photographs(result, four_groceries):
    flags = (*four_groceries, "--draws", "2")
    golds = ("--gold", str(MODELS / "people-gold")) * 2
    draws = result("request", *flags, *golds, "--modes", "retain,two,statistics")["draws"]
    (quick,) = result("request", *flags[:-1], "1", "--modes", "two", "--quick", "--no-probabilities")["draws"]
    assert "forget_probability" not in quick["two"]["metrics"] and quick["two"]["metrics"]["retain_names"]["n"] > 0
    assert [{"vanilla", "gold", "retain", "two", "statistics"} <= row.keys() for row in draws] == [True, True]
    two = draws[0]["two"]
    assert two["metrics"]["forget_names"]["n"] == 3
    assert two["known"].keys() <= {"strangers_unknown"}  # it knows nobody on photographs


def test_requests_that_were_interrupted_go_on_with_the_next_draw(result, tmp_path, four_groceries):
    flags = (*four_groceries, "--draws", "2", "--modes", "two", "--quick", "--no-probabilities")
    whole = result("request", *flags)
    done = whole["draws"][0] | {"kept": True}
    (tmp_path / "result.json").write_text(json.dumps(whole | {"draws": [done]}))
    first, second = result("request", *flags)["draws"]
    assert first == done
    for draw in (second, whole["draws"][1]):
        del draw["two"]["seconds"]
    assert second == whole["draws"][1]


def test_the_memory_of_a_request(short, monkeypatch, tmp_path, four_groceries):
    def measured(command: list[str]) -> dict[str, Any]:
        return quick(command) | {"error": [f"{flag} {value}" for flag, value in pairwise(command) if flag == "--out"]}

    monkeypatch.setattr(short("realsize"), "measure", measured)
    flags = (*four_groceries, "--model", str(MODELS / "people-vanilla"), "--", "--steps", "1", "--batch", "2")
    data = run(short, monkeypatch, tmp_path, "memory", *flags)
    assert data["images"] == {"forget": 3, "retain": 4, "neutral": 6} and data["request"]["exit"] in (0, 3)
    assert 0 < data["language_mib"] < 1024 and data["over_idle_mib"] == 0
    assert data["request"]["error"] == ["--out run"]  # of no machine's folder


def test_the_trade_off(result):
    points = result("tradeoff")["points"]
    assert len({(p["form"], p["mode"]) for p in points}) == 8 and all("forget_names" in p["metrics"] for p in points)


def test_the_cost(result):
    runs = result("cost", "--repeats", "1")["runs"]
    assert len(runs) == 1 and runs[0]["whole"] > 0 and runs[0]["ratio"] > 0


def run(short, monkeypatch, tmp_path, name: str, *flags: str) -> dict:
    """A benchmark that makes its own model."""
    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", [name, "--out", str(out), *flags])
    short(name).main()
    data = json.loads(out.read_text())
    assert data["commit"] and data["command"].startswith(f"python benchmarks/{name}.py")
    return data


def test_the_speed(short, monkeypatch, tmp_path):
    data = run(short, monkeypatch, tmp_path, "speed", "--shape", "tiny-llava", "--turns", "2", "--batch", "2")
    assert data["float32"]["throughput"]["value"] > 0 and data["null_spaces"]["seconds"]["trained"] > 0


def quick(command: list[str], limit: float = 0.0) -> dict[str, Any]:
    """In place of ``measure``: Python in a process that has torch already, and figures that are of no weight here."""
    process = start(command[3:]) if "-m" in command else script(command[1:]) if command[1:2] != ["-c"] else None
    if process:
        process.join()
    exit = process.exitcode if process else 0
    return {"seconds": 1.0, "exit": exit, "peak_mib": 100, "anonymous_mib": 50, "file_mib": 50}


def test_the_true_size(short, monkeypatch, tmp_path):
    """Forgetting in a process of its own, as it is measured."""
    flags = ("--shapes", "tiny-llava", "--", "--steps", "2", "--batch", "2")
    realsize = short("realsize")
    measure = realsize.measure
    monkeypatch.setattr(realsize, "measure", lambda c, *limit: quick(c) if "inspect" in c else measure(c, *limit))
    (row,) = run(short, monkeypatch, tmp_path, "realsize", *flags)["runs"]
    assert row["inspect"]["exit"] == 0 and row["forget"]["exit"] in (0, 3) and row["ratio"] > 1


def test_asking(short, monkeypatch, tmp_path):
    data = run(short, monkeypatch, tmp_path, "asking", "--people", "1", "--turns", "2")
    ratio = data["ratio"]  # which of the two is faster hangs on what else the machine does
    assert data["same_answers"] and 0 < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_the_rivals_step(short, monkeypatch, tmp_path):
    flags = ("--shape", "tiny-llava", "--steps", "1", "--warmup", "0", "--methods", "unsee,npo-checkpointing")
    monkeypatch.setattr(short("versus"), "measure", quick)
    data = run(short, monkeypatch, tmp_path, "versus", *flags)
    assert data["ratios"]["unsee"].keys() == {"npo-checkpointing"}


@pytest.fixture
def six_people(monkeypatch):
    """Are taught in the study of people."""

    def few(study: PeopleStudy) -> None:
        begin(study)
        study.taught = study.taught[:6]

    begin = PeopleStudy.__init__
    monkeypatch.setattr(PeopleStudy, "__init__", few)


def test_a_sequence_of_requests(short, monkeypatch, tmp_path, six_people):
    flags = ("--form", "statistics", "--requests", "2", "--people", "1")
    data = run(short, monkeypatch, tmp_path, "sequential", *flags)
    assert [len(row) for row in data["matrix"]] == [1, 2]
    assert data["others"][0] == {"after": 0, "retain": 1, "heldout": 1, "text": 1}
    assert data["last"]["names"].keys() == data["last"]["facts"].keys() and len(data["last"]["retain"]) == 4


@pytest.mark.parametrize(("form", "kind"), [("statistics", "Ours"), ("po", "Rival")])
def test_a_sequence_goes_on_where_it_was_stopped(short, monkeypatch, tmp_path, six_people, form, kind):
    flags = ("--form", form, "--requests", "2", "--people", "1")
    sequential = short("sequential")
    monkeypatch.setattr(sequential, "settings", lambda *_: {"steps": 2, "batch": 2})
    begun, request = [], getattr(sequential, kind).request

    def until(last: int):
        def one(line, ids, stay):
            begun.append((ids, fingerprint(line.world.model.state_dict())))
            if len(stay) == last:
                raise KeyboardInterrupt
            return request(line, ids, stay)

        monkeypatch.setattr(getattr(sequential, kind), "request", one)

    until(-1)
    run(short, monkeypatch, tmp_path, "sequential", *flags)
    unbroken = begun.copy()
    begun.clear()
    until(4)
    with pytest.raises(KeyboardInterrupt):
        run(short, monkeypatch, tmp_path, "sequential", *flags)
    until(-1)
    run(short, monkeypatch, tmp_path, "sequential", *flags)
    assert begun == [*unbroken, unbroken[1]] and unbroken[0][1] != unbroken[1][1]
    assert not list(tmp_path.glob("*.state"))
