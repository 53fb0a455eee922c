"""The page of a comparison: whole in one file, harmless whatever it is given, every method on it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests import small_comparison
from tests.markup import Balanced

from unsee.comparison import page, plots
from unsee.comparison.outcome import Comparison, Trial
from unsee.report.html import content_hash
from unsee.rivals import METHODS

EVIL = "<script>alert('x')</script>"
RATES = {"forget_names": 0.02, "forget_facts": 0.05, "*": 0.96}
RIVALS = {"unsee": RATES, "ga": {"*": 0.0}, "graddiff": RATES | {"forget_text": 0.2}, "of old": RATES}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    made = small_comparison.comparison(RIVALS)
    broken = Trial(8, {"lr": 0.01}, None, {}, 1.5, f"nan {EVIL}")
    return replace(
        made,
        runs=(*made.runs, small_comparison.failed("noise", f"no norm {EVIL}")),
        trials=made.trials | {"ga": (*made.trials["ga"], broken), "noise": (broken,)},
        study=made.study | {"note": "{{ 7 * 7 }}"},
    )


@pytest.fixture(scope="module")
def html(comparison: Comparison) -> str:
    return page.render(comparison)


def test_same_comparison_same_bytes(comparison: Comparison, html: str, tmp_path: Path) -> None:
    page.write_page(tmp_path / "compare.html", comparison)
    assert (tmp_path / "compare.html").read_bytes() == html.encode()


def test_what_it_is_given_stays_text(html: str) -> None:
    read = Balanced(html)
    assert "script" not in read.tags and EVIL in read.text and "{{ 7 * 7 }}" in read.text


def test_the_page_loads_nothing(html: str) -> None:
    read = Balanced(html)
    assert not {"link", "iframe", "object", "embed", "base", "form", "script", "img"} & set(read.tags)
    links = [value for name, value in read.attributes if name.endswith("href")]
    assert all(re.fullmatch(r"#.+|https://arxiv\.org/abs/\d{4}\.\d{5}", link) for link in links)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_the_content_policy_admits_the_style_sheet_and_nothing_else(html: str) -> None:
    read = Balanced(html)
    policy = next(value for _, value in read.attributes if value.startswith("default-src"))
    assert policy.startswith("default-src 'none'") and f"style-src 'sha256-{content_hash(html, 'style')}'" in policy
    assert not [value for name, value in read.attributes if name == "style" or name.startswith("on")]


def test_ids_are_there_once_and_everything_pointed_at_is_there(html: str) -> None:
    read = Balanced(html)
    ids = [value for name, value in read.attributes if name == "id"]
    pointed = {v[1:] for n, v in read.attributes if n == "href" and v[0] == "#"}
    pointed |= set(re.findall(r"url\(#(.*?)\)", html))
    assert len(ids) == len(set(ids)) and pointed and pointed <= set(ids)


def test_every_method_has_a_row_and_a_section(html: str) -> None:
    for name in (*RIVALS, "noise"):
        assert f'id="method-{page.slug(name)}"' in html and f'href="#method-{page.slug(name)}"' in html
    text = Balanced(html).text
    assert "before forgetting" in text and "never taught the forgotten" in text
    assert "retain images, neutral images" in text and METHODS["unsee"].note in text
    assert 'href="https://arxiv.org/abs/2210.01504"' in html  # of gradient ascent


def test_the_chosen_trial_is_the_best_and_is_marked_once(html: str, comparison: Comparison) -> None:
    best = max(comparison.trials["graddiff"], key=lambda t: t.score or 0)
    section = html.partition('id="method-graddiff"')[2].partition("</article>")[0]
    assert re.findall(r'class="chosen"><th scope="row">(\d+)', section) == [str(best.number)]
    assert f"<td>{best.score:.3f}</td>" in section


def test_what_differs_is_marked_with_its_side(html: str) -> None:
    assert re.search(r'class="worse">0\.\d{3}<span class="sign">\*+</span>', html)
    assert "Nowhere significantly" in html and "failed" in html


def test_where_ours_is_behind_is_on_the_page() -> None:
    rivals = {
        "unsee": RATES | {"retain_names": 0.6, "retain_facts": 0.6},
        "ga": {"forget_names": 0, "forget_facts": 0, "*": 1},
    }
    found = page.render(small_comparison.comparison(rivals))
    assert "Nowhere significantly" not in found and found.count("more of retained than unsee") == 1
    assert 'class="better"' in found.partition("<tbody>")[2]


def test_flags_one_method_and_nothing_tuned() -> None:
    made = small_comparison.comparison({"ga": {"*": 0.5}}, attributes=False, trials={}, study={}, machine={})
    read = Balanced(page.render(made))
    assert "unsee is not among the methods" in read.text and "1 method beside" in read.text


@pytest.mark.parametrize(
    ("paper", "shown"),
    [
        ("none", "none"),
        ("<b>", "&lt;b&gt;"),
        ("arXiv 2404.05868", '<a href="https://arxiv.org/abs/2404.05868" rel="noreferrer">arXiv 2404.05868</a>'),
    ],
)
def test_papers_are_links(paper: str, shown: str) -> None:
    assert page.linked(paper) == shown
    assert page.linked(f"{paper}, {paper}") == f"{shown}, {shown}"


def test_the_front() -> None:
    points = {"a": (0.2, 1.0), "b": (0.9, 0.9), "c": (0.8, 0.8), "d": (1.0, 0.0), "e": (0.9, 0.9), "f": (1.0, 0.0)}
    assert plots.front(points) == [(0.2, 1.0), (0.9, 0.9), (1.0, 0.0)]
    assert plots.front({}) == []


def test_labels_of_many_methods_do_not_overlap() -> None:
    """Twenty at hardly two places: each name is there once, no two at one place."""
    points = {f"method-{i}": (0.97 + 0.002 * (i % 5), 0.95 + 0.003 * (i // 5)) for i in range(20)}
    svg = plots.pareto(points | {"vanilla": (0.0, 1.0)})
    Balanced(svg)
    places = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>(method-\d+)</text>', svg)
    assert sorted(name for *_, name in places) == sorted(points)
    for i, (x, y, _) in enumerate(places):
        for u, v, _ in places[:i]:
            assert abs(float(x) - float(u)) > 30 or abs(float(y) - float(v)) > 6


def test_the_picture_of_studies_stands_alone(comparison: Comparison) -> None:
    """As in a README: it has colours of its own, loads nothing, and is the same each time."""
    points = page.points(comparison)
    svg = plots.paretos({"people, <A>": points, "flags": points, "more": points})
    assert svg == plots.paretos({"people, <A>": points, "flags": points, "more": points})
    read = Balanced(svg[svg.index("<svg") :])
    words = [word.strip() for word in read.text.split("\n")]
    assert all(words.count(name) == 3 for name in ("vanilla", *RIVALS)) and "people, <A>" in words
    assert "currentColor" not in svg and plots.INK not in svg and "fill: #ffffff" in svg
    assert all(v.startswith("#") for n, v in read.attributes if n.endswith("href"))


def test_trials_of_one_and_of_failures_are_drawn() -> None:
    Balanced(plots.trials([Trial(0, {}, None, {}, 1.0, "nan")], None, "t"))
    Balanced(plots.trials([Trial(3, {}, 0.4, {}, 1.0)], 3, "t"))
