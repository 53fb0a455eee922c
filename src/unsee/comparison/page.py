"""The comparison as one HTML file: its table, what is forgotten against what is kept, and a section a method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from unsee.comparison import plots
from unsee.comparison.outcome import GOLD, OURS, REFERENCES, VANILLA, Comparison, Run, Trial
from unsee.comparison.score import FORGETTING, SAID, kept, score, shares
from unsee.comparison.table import behind, ranked, table
from unsee.evaluation.table import Cell, Column, Table, mark
from unsee.files import new_file
from unsee.report.html import content_hash, environment, read_template
from unsee.report.page import METRICS, amount, label
from unsee.rivals import METHODS
from unsee.rivals.method import Real, Space

GROUPS = {
    "": ("score",),
    "Forgotten": ("forget_names", "forget_facts"),
    "Kept": ("retained", "heldout", "attributes"),
    "Text": ("text", "forget_text"),
    "Traces left": ("distance", "misnamed"),
    "Cost": ("seconds", "times", "memory", "trained"),
}
REFERENCE_TITLES = {VANILLA: "before forgetting", GOLD: "never taught the forgotten"}
FIGURES = {key: f"{group}: {name}" for key, group, name, *_ in METRICS} | {
    "heldout_attributes": "Held out: visible",
    "heldout_text": "Held out: by name",
    "strangers_attributes": "Strangers: visible",
    "forget_probability": "Forgotten: probability of the right answer",
    "forget_truth_ratio": "Forgotten: truth ratio",
}
HERE = "unsee.comparison"
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
MISSING = "–"


@dataclass(frozen=True)
class About:
    """What is known of a method beside its figures."""

    title: str
    paper: str = ""
    kind: str = ""
    trains: str = ""
    needs: Sequence[str] = ()
    note: str = ""
    space: Space = field(default_factory=dict)


def write_page(path: Path | str, comparison: Comparison) -> None:
    """The comparison as one HTML file; the same comparison gives the same bytes."""
    html = render(comparison)
    with new_file(path, private=True) as file:
        file.write_bytes(html.encode("utf-8"))


def render(comparison: Comparison) -> str:
    source, pages, whole = read_template("page.html", HERE), environment(), table(comparison)
    pages.filters |= {"amount": amount, "label": label, "slug": slug}
    section = pages.from_string(read_template("method.html", HERE))
    found = behind(comparison)
    has_gold = bool(comparison.runs_of(GOLD))
    return pages.from_string(source).render(
        comparison=comparison,
        style_hash=content_hash(source, "style"),
        lead=lead(comparison),
        study={key: _words(value) for key, value in comparison.study.items() if value != ""},
        said=SAID,
        groups=_groups(whole),
        rows=_rows(comparison, whole),
        notes=[note for note in (*whole.footnotes, *_sizes(whole)) if note not in found],
        pareto=Markup(plots.pareto(points(comparison))),
        behind=found,
        beside=bool(comparison.runs_of(OURS)),
        methods=[
            Markup(section.render(method=_section(comparison, name), has_gold=has_gold)) for name in ranked(comparison)
        ],
    )


def about(name: str) -> About:
    """From the table of methods; of one that is no longer in it, its name."""
    if name in REFERENCE_TITLES:
        return About(REFERENCE_TITLES[name], kind="reference")
    if name not in METHODS:
        return About(name)
    m = METHODS[name]
    return About(m.title, m.paper, m.kind, m.trains, m.needs, m.note, m.space)


def lead(comparison: Comparison) -> str:
    """What was done, in words; the whole of ``study`` stands below it."""
    study, n = comparison.study, len(comparison.methods)
    what = " of ".join(str(study[key]) for key in ("split", "data") if key in study)
    seeds = len({run.seed for run in comparison.runs if run.method not in REFERENCES})
    return (
        f"{n} method{'s' * (n != 1)} beside one another: {study.get('model', 'one model')} is to forget "
        f"{what or 'the same concepts'}. Each had {study.get('trials', 'as many')} trials to find its settings on a "
        f"another request, chosen by one declared score. The figures are of this request, means over {seeds} "
        f"seed{'s' * (seeds != 1)}."
    )


def linked(paper: str) -> Markup:
    """The paper's arXiv numbers as links, all else as text."""
    text, end = Markup(), 0
    for found in ARXIV.finditer(paper):
        text += escape(paper[end : found.start()])
        text += Markup('<a href="https://arxiv.org/abs/{0}" rel="noreferrer">arXiv {0}</a>').format(found[1])
        end = found.end()
    return text + escape(paper[end:])


def slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name)


def _words(value: Any) -> str:
    return ", ".join(map(_words, value)) if isinstance(value, list | tuple) else amount(value)


def _groups(whole: Table) -> list[tuple[str, list[Column]]]:
    """The columns by group, in the order of ``GROUPS``."""
    columns = {column.key: column for column in whole.columns}
    groups = [(name, [columns[key] for key in keys if key in columns]) for name, keys in GROUPS.items()]
    return [(name, of) for name, of in groups if of]


def _rows(comparison: Comparison, whole: Table) -> list[dict[str, Any]]:
    ours = next((row.cells for row in whole.rows if row.model == OURS), {})
    shown = []
    for row in whole.rows:
        cells = [
            [_cell(column, row.cells.get(column.key), ours.get(column.key)) for column in of]
            for _, of in _groups(whole)
        ]
        known = about(row.model)
        failed = not comparison.runs_of(row.model)
        shown.append({"name": row.model, "about": known, "cells": cells, "failed": failed, "kind": _kind(row.model)})
    return shown


def _sizes(whole: Table) -> list[str]:
    """How many items the figures are of, where every row has as many."""
    counts = {c.title: {row.cells[c.key].n for row in whole.rows if c.key in row.cells} - {None} for c in whole.columns}
    known = [f"{title} {of.pop()}" for title, of in counts.items() if len(of) == 1]
    return [f"Questions, each asked once a seed: {', '.join(known)}."] if known else []


def _kind(name: str) -> str:
    return "reference" if name in REFERENCES else "ours" if name == OURS else ""


def _cell(column: Column, cell: Cell | None, ours: Cell | None) -> dict[str, str]:
    if cell is None:
        return {"value": MISSING, "interval": "", "mark": "", "side": ""}
    number = f"{cell.value:,.{column.digits}f}".replace(",", "\u202f")
    interval = "" if cell.low is None else f"{cell.low:.{column.digits}f}–{cell.high:.{column.digits}f}"
    side = ""
    if mark(cell) and ours and column.better != "neither":
        side = "better" if (cell.value > ours.value) == (column.better == "higher") else "worse"
    return {"value": number, "interval": interval, "mark": mark(cell), "side": side}


def points(comparison: Comparison) -> dict[str, plots.Point]:
    """(forgetting, what is kept) of the references and of every method that did not fail: means over its seeds."""
    found = {}
    for name in (*REFERENCES, *comparison.methods):
        of = [shares(run.means, comparison.vanilla.means) for run in comparison.runs_of(name)]
        if of:
            found[name] = (sum(s[FORGETTING] for s in of) / len(of), sum(map(kept, of)) / len(of))
    return found


def _section(comparison: Comparison, name: str) -> dict[str, Any]:
    known, tried = about(name), comparison.trials.get(name, ())
    runs = comparison.runs_of(name)
    best = max((t for t in tried if t.score is not None), key=lambda t: t.score or 0.0, default=None)
    settings = runs[0].settings if runs else best.settings if best else {}
    number = best.number if best else None
    return {
        "name": name,
        "about": known,
        "paper": linked(known.paper),
        "space": {key: _space(of) for key, of in known.space.items()},
        "chosen": {k: _words(v) for k, v in settings.items() if k in known.space},
        "fixed": {k: _words(v) for k, v in settings.items() if k not in known.space and k != "seed"},
        "tuned": _tuned(tried),
        "trials": [(t, [_words(t.settings.get(k, MISSING)) for k in _tuned(tried)], t.number == number) for t in tried],
        "plot": Markup(plots.trials(tried, number, f"trials-{slug(name)}")) if tried else "",
        "runs": runs,
        "figures": _figures(comparison, runs),
        "errors": comparison.errors(name),
    }


def _tuned(tried: Sequence[Trial]) -> list[str]:
    """The settings that differ between trials; all where there is but one."""
    names = list(dict.fromkeys(key for trial in tried for key in trial.settings))
    differ = [n for n in names if len({repr(t.settings.get(n)) for t in tried}) > 1]
    return differ if len(tried) > 1 else names


def _space(of: Any) -> str:
    if isinstance(of, Real):
        return f"{amount(of.low)} to {amount(of.high)}" + (", by its logarithm" if of.log else "")
    return f"one of {_words(of.values)}"


def _figures(comparison: Comparison, runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """A line a figure: before, gold where there is one, then each seed."""
    beside = [comparison.vanilla, *comparison.runs_of(GOLD)[:1], *runs]
    if not runs:
        return []
    lines = [("Declared score", [f"{score(r.means, comparison.vanilla.means):.3f}" for r in beside])]
    for key in comparison.vanilla.metrics:
        values = [f"{r.means[key]:.3f}" if key in r.means else MISSING for r in beside]
        lines.append((FIGURES.get(key, label(key).capitalize()), values))
    return lines
