"""The page: whole in one file, harmless whatever a model answers, the same bytes every time."""

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.markup import Balanced

from unsee.errors import UnseeError
from unsee.evaluation.statistics import Share
from unsee.report import Report, Shot, plots, write_page
from unsee.report.page import METRICS, render

EVIL = "<script>alert('x')</script>"


def share(value: float) -> Share:
    return {"value": value, "low": max(0, value - 0.02), "high": min(1, value + 0.02), "n": 100}


def full() -> Report:
    row = {key: share(0.5) for key, *_ in METRICS}
    face, other = PIL.Image.new("RGB", (32, 32), "teal"), PIL.Image.new("RGBA", (700, 500), "orange")
    points = np.random.default_rng(0).normal(size=(40, 2))
    groups = {"forgotten": points, "kept": points + 3, "held out": points - 3, "another": points[:0]}
    return Report(
        title="Two people forgotten",
        lead="A sentence.",
        rows={
            "vanilla": row | {"forget_names": share(0.975)},
            "gold": row,
            "unsee": row | {"forget_names": share(0.012)},
            "projector_only": {"forget_names": share(0.3)},
        },
        text_identical=True,
        cost={"forgetting_seconds": 41.234, "peak_memory_mb": 12345, "machine": "two cores"},
        gallery=[
            Shot("forgotten", face, "Who is this ?", "Alba Ashafel", "unknown", "Alba Ashafel"),
            Shot("forgotten", face, "What colour is the hair ?", "red", "red", "red", stays=True),
            Shot("forgotten", other, "Who is this ?", "Bel Ostford", "Bel Ostford", "Bel Ostford"),
            Shot("kept", other, EVIL, "baker", f"{EVIL} {{{{ 7 * 7 }}}}", "baker"),
        ],
        space={"before": groups, "after": groups},
        curve=[{"step": s, "loss": 1 / (s + 1), "forget": 1 - s / 10, "retain": 0.98} for s in range(10)],
        layers=[{"layer": f"tower.{i}.fc<1>", "certificate": 10.0**-i, "measured": 0.0} for i in range(3)],
        misnamed=[{"forgotten": "Alba Ashafel", "named": "Cora Holdale", "share": 0.04}],
        facts={"command": "unsee demo --out out && echo <done>", "commit": "abc1234", "seed": "0"},
    )


@pytest.fixture(scope="module")
def html() -> str:
    return render(full())


def test_same_report_same_bytes(html: str, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", full())
    assert (tmp_path / "report.html").read_bytes() == html.encode()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_a_model_says_stays_text(html: str) -> None:
    page = Balanced(html)
    assert "script" not in page.tags
    assert EVIL in page.text and "{{ 7 * 7 }}" in page.text and "echo <done>" in page.text
    assert "0.fc<1>" in page.text  # in a plot


def test_the_page_loads_nothing(html: str) -> None:
    page = Balanced(html)
    assert "http://" not in html and "https://" not in html
    assert not {"link", "iframe", "object", "embed", "base", "form", "script"} & set(page.tags)
    assert {value.split(",")[0] for name, value in page.attributes if name == "src"} == {"data:image/jpeg;base64"}
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_the_content_policy_admits_the_style_sheet_and_nothing_else(html: str) -> None:
    page = Balanced(html)
    policy = next(value for _, value in page.attributes if value.startswith("default-src"))
    style = html.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy and "unsafe" not in policy
    assert not [value for name, value in page.attributes if name == "style" or name.startswith("on")]


def test_ids_are_there_once_and_everything_pointed_at_is_there(html: str) -> None:
    page = Balanced(html)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    pointed = {value[1:] for name, value in page.attributes if name == "href"} | set(re.findall(r"url\(#(.*?)\)", html))
    assert pointed and pointed <= set(ids)


def test_questions_about_one_picture_share_a_card_and_verdicts_are_said_in_words(html: str) -> None:
    assert html.count('<article class="card">') == 3
    verdicts = re.findall(r'<span class="chip (\w+)">(.*?)</span>', html)
    assert verdicts == [("good", "✓ forgotten"), ("good", "✓ kept"), ("bad", "✗ still known"), ("bad", "✗ lost")]


@pytest.mark.parametrize(
    ("group", "before", "after", "chip"),
    [
        ("kept", "x", "Alba", ("good", "✓ right now")),
        ("kept", "x", "y", ("plain", "– wrong before, too")),
        ("forgotten", "x", "y", ("plain", "– not known before")),
        ("forgotten", "x", "Alba", ("bad", "✗ known now")),
        ("held out", "Alba", "", ("bad", "✗ lost")),
        ("stranger", "Alba", "Alba", ("good", "✓ kept")),
    ],
)
def test_verdicts(group: str, before: str, after: str, chip: tuple[str, str]) -> None:
    shot = Shot(group, PIL.Image.new("RGB", (8, 8)), "Who?", before, after, "Alba")
    page = render(Report("t", "l", {}, True, gallery=[shot]))
    assert re.findall(r'<span class="chip (\w+)">(.*?)</span>', page) == [chip]
    assert ("truth: Alba" in page) is (before != "Alba")


def test_figures(html: str) -> None:
    assert "97.5%" in html and "1.2%" in html and "0–3.2%" in html
    text = Balanced(html).text
    assert "Identical" in text and "12\u202f345 MB" in text and "41.2 s" in text and "projector only" in text
    assert "Changed" in Balanced(render(replace(full(), text_identical=False))).text


def test_absent_parts_leave_nothing_behind() -> None:
    html = render(Report("Title", "Lead.", {"unsee": {"retain_names": share(1)}}, True))
    page = Balanced(html)
    assert "svg" not in page.tags and "img" not in page.tags and "dl" in page.tags
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == ["In figures", "What this does not do"]
    assert "The kept, still named" in html and "The forgotten, still named" not in html


def test_parts_with_holes_are_drawn() -> None:
    empty = np.zeros((0, 2))
    Balanced(plots.curve([{"step": 0, "loss": 1.0}, {"step": 1, "forget": 0.5}]))
    Balanced(plots.layers([{"layer": "a", "certificate": 0.0, "measured": None}]))
    Balanced(plots.layers([{"layer": "a", "certificate": float("nan"), "measured": float("inf")}]))
    Balanced(plots.space({"kept": empty, "forgotten": [[1, 1]]}, {}, "one"))
    Balanced(plots.space({"kept": empty}, {}, "none"))


def test_layer_names_are_short_and_told_apart() -> None:
    names = [
        f"vision_tower.vision_model.encoder.layers.{i}.{m}" for i in (0, 11) for m in ("self_attn.q_proj", "mlp.fc1")
    ]
    assert plots.short_names(names) == ["0.q_proj", "0.fc1", "11.q_proj", "11.fc1"]
    assert plots.short_names(["a.mlp.fc", "a.attn.fc"]) == ["a.mlp.fc", "a.attn.fc"]


def test_many_layers_only_those_that_drift_most_and_the_page_says_so() -> None:
    many = [{"layer": f"blocks.{i}", "certificate": 1e-3, "measured": i * 1e-4} for i in range(60)]
    shown = plots.most_drift(many)
    assert [layer["layer"] for layer in shown] == [f"blocks.{i}" for i in range(60 - len(shown), 60)]
    assert f"The {len(shown)} of 60 layers" in render(Report("t", "l", {}, True, layers=many))


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(UnseeError, match="Did you mean 'forgotten'"):
        Shot("forgoten", PIL.Image.new("RGB", (8, 8)), "", "", "", "")
