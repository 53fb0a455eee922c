"""The page of an evaluation: whole in one file, harmless whatever a model answers, read with and without its script."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.markup import Balanced
from tests.small_benchmarks import Plain

from unsee.evaluation.table import Cell, Column, Row, Table
from unsee.report.browse import Page, Said, Shown, render, write_browser

EVIL = "<script>alert('x')</script>\"'&{{ 7 * 7 }}</style></script>"


def shown(place: int = 0, text: str = "Alba", image: bool = True, group: str = "forget") -> Shown:
    said = (Said("vanilla", text, "correct", 1.0, 3), Said("unsee <b>", "", "invalid", 0.0))
    picture = Plain(f"{place // 2}/0", "teal") if image else None
    return Shown(group, "cloze", f"p{place // 2}", f"Who is {text}?", text, picture, said)


def page(*asked: Shown, text: str = "Alba") -> Page:
    columns = (Column("right", f"right {text}", "lower", "what is right"), Column("far", "KS to gold"))
    rows = (
        Row("vanilla", {"right": Cell(0.9, 0.8, 0.95, 40)}),
        Row(text, {"right": Cell(0.1, 0.0, 0.2, 40, 0.0123), "far": Cell(0.5)}),
    )
    return Page(
        "mllmu, forget_5", text, asked, Table("t", columns, rows, (text,)), [text], {"command": text, "seed": "0"}
    )


@pytest.fixture(scope="module")
def html() -> str:
    return render(page(shown(text=EVIL), shown(1, EVIL), shown(2, image=False, group="retain"), text=EVIL))


def test_what_a_model_says_stays_text(html: str) -> None:
    read = Balanced(html)
    assert read.tags.count("script") == 1 and read.tags.count("style") == 1 and "b" in read.tags
    assert read.text.count(EVIL) >= 8 and "alert('x')</script>" not in html
    assert "unsee <b>" in read.text


CHOICE = Shown(
    "forget", "classification", "p", "Who?", "Cleo", None, (Said("m", "B", "correct", 1.0),), ("Ada", "Cleo")
)


def test_options_have_the_letters_that_a_model_may_answer_with() -> None:
    text = Balanced(render(Page("t", "l", [CHOICE]))).text
    assert "A: Ada · B: Cleo" in text and "right: B: Cleo" in text
    bare = Balanced(render(Page("t", "l", [replace(CHOICE, options=())]))).text
    assert "right: Cleo" in bare and "A: Ada" not in bare


def test_a_right_answer_that_is_no_option_has_no_letter() -> None:
    assert "right: Bea" in Balanced(render(Page("t", "l", [replace(CHOICE, truth="Bea")]))).text


@pytest.mark.parametrize("sign", ["\x1b[31m", "\x00", "\x07", "\x9b", "\u202e", "\u2066", "\u200f", "\u2028", "\udc80"])
def test_what_would_hide_or_reorder_letters_is_shown(sign: str, tmp_path: Path) -> None:
    text = f"Al{sign}ba"
    choice = replace(CHOICE, concept=text, options=(text, "Cleo"))
    write_browser(tmp_path / "page.html", page(shown(text=text), choice, text=text))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert sign[0] not in html and "\\" in html
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["Ζωή", "山\u3000田", "नी\u200dल", "👩\u200d🔬", "a\u00a0b", "two\nlines\tand a tab"])
def test_names_of_every_script_stay_as_they_are(name: str) -> None:
    assert name in Balanced(render(page(shown(text=name)))).text


def test_the_policy_admits_one_style_sheet_one_script_and_pictures_within(html: str) -> None:
    read = Balanced(html)
    policy = next(value for _, value in read.attributes if value.startswith("default-src"))
    assert "default-src 'none'" in policy and "img-src data:" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        text = html.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert not [value for name, value in read.attributes if name == "style" or name.startswith("on")]


def test_the_page_loads_nothing(html: str) -> None:
    read = Balanced(html)
    assert not {"link", "iframe", "object", "embed", "base", "form", "a"} & set(read.tags)
    assert {value.partition(",")[0] for name, value in read.attributes if name == "src"} == {"data:image/jpeg;base64"}
    assert "http:" not in html and "https:" not in html and "@import" not in html and "url(" not in html
    script = html.partition("<script>")[2].partition("</script>")[0]
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|document\.write|localStorage", script)


def test_each_picture_is_there_once_with_all_that_is_asked_about_it(html: str) -> None:
    read = Balanced(html)
    assert read.tags.count("img") == 1 and html.count('<article class="card">') == 2
    assert html.count('class="ask"') == 3 and read.text.count("no picture") == 1
    picture = next(value for name, value in read.attributes if name == "src")
    assert len(base64.b64decode(picture.partition(",")[2])) < 8000


def test_without_its_script_everything_is_there_but_the_filters(html: str) -> None:
    assert '<div class="bar" hidden>' in html
    asks = re.findall(r"<div class=\"ask\"[^>]*>", html)
    assert len(asks) == 3 and not [tag for tag in asks if "hidden" in tag]
    assert Balanced(html).text.count("no answer") == 3


def test_states_and_scores_are_said_in_words(html: str) -> None:
    assert re.findall(r'<span class="chip (\w+)">(.*?)</span>', html)[:2] == [
        ("correct", "✓ correct"),
        ("invalid", "∅ invalid"),
    ]
    assert "in 3 wordings" in html and ">1.00" in html


def test_filters_offer_what_there_is(html: str) -> None:
    options = {
        name: re.findall(
            r"<option>(.*?)</option>", html.partition(f'<select id="by-{name}">')[2].partition("</select>")[0]
        )
        for name in ("group", "task", "model", "state")
    }
    assert options["group"] == ["Forgotten", "Kept"] and options["task"] == ["cloze"]
    assert options["model"] == ["vanilla", "unsee &lt;b&gt;"]
    assert options["state"] == ["correct", "incorrect", "refusal", "invalid", "models differ"]
    ids = [value for name, value in Balanced(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value for name, value in Balanced(html).attributes if name == "for"} <= set(ids)


def test_the_table_stands_figures_by_lines() -> None:
    html = render(page(shown()))
    read = Balanced(html)
    assert re.findall(r'<th scope="col"[^>]*>(.*?)</th>', html) == ["Figure", "vanilla", "Alba"]
    assert "right Alba\u00a0↓" in read.text and "0.8000 to 0.950" not in read.text
    assert "0.800 to 0.950 · n 40" in read.text and "p 0.012" in read.text and "what is right" in read.text
    bare = Balanced(render(Page("t", "l", [shown()])))
    assert "table" not in bare.tags and "pre" not in bare.tags


def test_same_page_same_bytes(tmp_path: Path) -> None:
    asked = [shown(place) for place in range(20)]
    write_browser(tmp_path / "a.html", page(*asked))
    write_browser(tmp_path / "b.html", page(*asked))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_bytes().decode().count("<img") == 10


def test_five_thousand_questions() -> None:
    start = time.process_time()
    html = render(page(*(shown(place) for place in range(5000))))
    assert html.count('class="ask"') == 5000 and "content-visibility: auto" in html
    assert len(html) < 12_000_000 and time.process_time() - start < 20


def test_no_question() -> None:
    html = render(Page("empty", "", []))
    assert "<span>0</span> of 0" in html
