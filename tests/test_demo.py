"""The demo, whole, on the models that ship with the package, with fewer questions and steps than a person gets."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from tests.small_study import few_people

from unsee import demo
from unsee.data.study import PeopleStudy
from unsee.evaluation.tasks import Size

KEYS = (
    "forget_names forget_facts forget_attributes forget_text forget_unknown retain_names retain_facts "
    "retain_attributes retain_text heldout_names heldout_facts strangers_unknown"
).split()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    neutral = PeopleStudy.neutral
    with pytest.MonkeyPatch.context() as patch:
        few_people(patch, asked=20, held_out=12)
        patch.setattr(PeopleStudy, "neutral", lambda s: neutral(s, 40))
        patch.setattr(demo, "SIZE", Size(1, 1, 1, 10, 2, 1))
        patch.setattr(demo, "FORGET_VIEWS", 3)
        patch.setattr(demo, "RETAIN_VIEWS", 1)
        patch.setattr(demo, "UNFROZEN_STEPS", 1)
        patch.setattr(demo, "SETTINGS", replace(demo.SETTINGS, steps=10, batch=8))
        folder = tmp_path_factory.mktemp("demo") / "out"
        demo.run(folder)
    return folder


def test_figures_have_the_promised_form(out):
    metrics = json.loads((out / "metrics.json").read_text())
    rows = [metrics["vanilla"], metrics["gold"], metrics["unsee"], *metrics["ablations"].values()]
    assert len(metrics["ablations"]) == 4
    for row in rows:
        for key in KEYS:
            share = row[key]
            assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1 and share["n"] > 0
    assert metrics["text_identical"] is True
    assert metrics["cost"]["forgetting_seconds"] > 0


def test_the_model_that_ships_knows_people_and_gold_does_not_know_the_forgotten(out):
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["vanilla"]["forget_names"]["value"] > 0.7
    assert metrics["gold"]["forget_names"]["value"] < 0.1
    assert metrics["gold"]["retain_names"]["value"] > 0.7


def test_a_part_changed_changes_what_is_said_about(out):
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    texts = {m: [i["given"] for i in items if i["model"] == m and not i["image"]] for m in ("vanilla", "unsee")}
    assert texts["vanilla"] == texts["unsee"] and len(texts["vanilla"]) > 100
    unfrozen = [i["given"] for i in items if i["model"] == "LLM_unfrozen"]
    assert unfrozen != [i["given"] for i in items if i["model"] == "vanilla"]


def test_the_page_stands_alone(out):
    page = (out / "report.html").read_text()
    assert page.count("data:image") > 10
    assert not re.search(r"""(src|href)=["']https?:""", page)
    assert (out / "patch" / "patch.safetensors").is_file()
