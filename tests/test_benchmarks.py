"""Every benchmark that docs/results.md names runs on the models that ship, with fewer images, questions and steps."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from unsee.data.study import PeopleStudy
from unsee.evaluation.tasks import Size

MODELS = files("unsee") / "models"
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FEW = Size(forget=1, retain=1, heldout=1, strangers=3, facts=1, attributes=1)


@pytest.fixture
def short(monkeypatch, defaults):
    """A benchmark module in which everything is few."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    split, neutral = PeopleStudy.split, PeopleStudy.neutral
    monkeypatch.setattr(PeopleStudy, "split", lambda s, *a: tuple(ids[:4] for ids in split(s, *a)))
    monkeypatch.setattr(PeopleStudy, "neutral", lambda s: neutral(s, 6))
    monkeypatch.setattr("unsee.api.ENOUGH", 12)
    monkeypatch.setattr("unsee.api.VIEWS", 6)
    defaults(steps=2, replay=8)

    def load(name: str):
        module = importlib.import_module(name)
        for constant, value in {"SIZES": {"people": FEW}, "SIZE": FEW, "STEPS": 1, "STRENGTHS": (1.0,)}.items():
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)
        monkeypatch.setitem(importlib.import_module("request").VIEWS, "forget", 3)
        monkeypatch.setitem(importlib.import_module("request").VIEWS, "retain", 2)
        return module

    yield load
    for name in ("request", "tradeoff", "cost"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "flags", "found"),
    [
        ("request", ["--study", "people", "--gold", str(MODELS / "people-gold"), "--draws", "1"], "draws"),
        ("tradeoff", ["--study", "people"], "points"),
        ("cost", ["--repeats", "1"], "runs"),
    ],
)
def test_a_benchmark_runs(name, flags, found, short, tmp_path, monkeypatch):
    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", [name, "--vanilla", str(MODELS / "people-vanilla"), *flags, "--out", str(out)])
    short(name).main()
    data = json.loads(out.read_text())
    assert data[found] and data["commit"] and data["command"].startswith(f"python benchmarks/{name}.py")
    if name == "request":
        (row,) = data["draws"]
        assert {"vanilla", "gold", "retain", "statistics"} <= row.keys()
        assert row["statistics"]["text_identical"] and row["vanilla"]["retain_names"]["value"] > 0.9
    if name == "tradeoff":
        forms = {(p["form"], p["mode"]) for p in data["points"]}
        assert len(forms) == 8 and all("forget_names" in p["metrics"] for p in data["points"])
    if name == "cost":
        assert all(r["whole"] > 0 and r["ratio"] > 0 for r in data["runs"])
