"""One HTML file with everything in it: no scripts, nothing loaded, every text escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
from markupsafe import Markup
from numpy.typing import ArrayLike

from unsee.concepts import Question
from unsee.errors import UnseeError, nearest
from unsee.evaluation.score import correct
from unsee.evaluation.statistics import Share
from unsee.files import new_file
from unsee.report import plots
from unsee.report.html import content_hash, data_uri, environment, read_template

GROUPS = {
    "forgotten": ("Forgotten", "Who or what they are is to go; what anybody can see in the picture is to stay."),
    "kept": ("Kept", "All else the model was taught: every answer is to stay."),
    "held out": ("Held out", "In no statistic and in no loss: nothing is to change here either."),
    "stranger": ("Strangers", "Never taught: “unknown” is the right answer, before and after."),
}
# metric, where it stands, its name, whether more of it is better, what it says
METRICS = (
    ("forget_names", "Forgotten", "names", False, "who or what the picture shows"),
    ("forget_facts", "Forgotten", "facts", False, "what is known about them, asked with their picture"),
    ("forget_attributes", "Forgotten", "visible", True, "what anybody can see (hair …), asked with their picture"),
    ("forget_text", "Forgotten", "by name", True, "their facts, asked by name without a picture: stay, by design"),
    ("forget_unknown", "Forgotten", "unknown", True, "their pictures answered like those of a stranger"),
    ("retain_names", "Kept", "names", True, "who or what the picture shows"),
    ("retain_facts", "Kept", "facts", True, "what is known about them, asked with their picture"),
    ("retain_attributes", "Kept", "visible", True, "what anybody can see, asked with their picture"),
    ("retain_text", "Kept", "by name", True, "their facts, asked by name without a picture"),
    ("heldout_names", "Held out", "names", True, "taught, but in no statistic and in no loss of the method"),
    ("heldout_facts", "Held out", "facts", True, "what is known about them, asked with their picture"),
    ("strangers_unknown", "Strangers", "unknown", True, "never taught to the model, and answered “unknown”"),
)  # fmt: skip
ROWS = {
    "vanilla": "before forgetting",
    "gold": "never taught the forgotten",
    "unsee": "after forgetting",
    "CVF_without_null_space": "the contrast alone: nothing holds what stays",
    "null_space_without_retain_images": "retained images drawn from statistics",
    "projector_only": "the tower stays as it is",
    "LLM_unfrozen": "all trains on answering “unknown”",
}
UNITS = {"seconds": "s", "s": "s", "kb": "kB", "mb": "MB", "gb": "GB", "bytes": "bytes"}
PIXELS = 288  # longest side of a picture in the gallery: three times what is shown


@dataclass(frozen=True)
class Shot:
    """One picture, one question, both answers.

    ``stays``: whether the answer is to stay as it is; None: it is, unless the group is the forgotten.
    """

    group: str
    image: PIL.Image.Image
    question: str
    before: str
    after: str
    truth: str
    stays: bool | None = None

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise UnseeError(f"group '{self.group}' of a gallery picture. {nearest(self.group, GROUPS)}")


@dataclass(frozen=True)
class Report:
    """All that the page shows. An empty or absent part is left out.

    ``rows``: vanilla, gold, unsee, then the ablations → metric (see ``METRICS``) → share.
    ``space``: "before" and "after" → group → points [n, 2]. ``curve``: step, loss, forget, retain (shares 0–1).
    ``layers``: layer, certificate, measured. ``misnamed``: forgotten, named, share. ``facts``: command, commit, …
    """

    title: str
    lead: str
    rows: Mapping[str, Mapping[str, Share]]
    text_identical: bool
    cost: Mapping[str, float | int | str] = field(default_factory=dict)
    gallery: Sequence[Shot] = ()
    space: Mapping[str, Mapping[str, ArrayLike]] | None = None
    curve: Sequence[Mapping[str, float]] = ()
    layers: Sequence[Mapping[str, Any]] = ()
    misnamed: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def write_page(path: Path | str, report: Report) -> None:
    """The report as one HTML file; the same report gives the same bytes."""
    html = render(report)
    with new_file(path, private=True) as file:
        file.write_bytes(html.encode("utf-8"))


def render(report: Report) -> str:
    source, pages = read_template("template.html"), environment()
    pages.filters |= {"percent": percent, "interval": interval, "label": label}
    return pages.from_string(source).render(
        report=report,
        style_hash=content_hash(source, "style"),
        headline=_headline(report),
        gallery=_gallery(report.gallery),
        cost=_cost(report.cost),
        columns=_columns(report.rows),
        rows=ROWS,
        space=_space(report.space),
        curve=Markup(plots.curve(report.curve)) if report.curve else "",
        layers=Markup(plots.layers(report.layers)) if report.layers else "",
        layers_shown=len(plots.most_drift(report.layers)),
    )


def percent(value: float) -> str:
    return f"{100 * value:.1f}".removesuffix(".0") + "%"


def interval(share: Share) -> str:
    return f"{percent(share['low'])[:-1]}–{percent(share['high'])[:-1]}"


def amount(value: float | int | str) -> str:
    """A number as people write it: three digits that count, thousands apart."""
    if isinstance(value, (str, bool)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}"


def label(key: str) -> str:
    return key.replace("_", " ").strip()


def _cost(cost: Mapping[str, float | int | str]) -> list[tuple[str, str]]:
    """A unit at the end of a key goes to the figure: peak_memory_mb 1431 → peak memory, 1 431 MB."""
    lines = []
    for key, value in cost.items():
        name, _, unit = key.rpartition("_")
        known = bool(name) and unit in UNITS
        lines.append((label(name if known else key), amount(value) + (f" {UNITS[unit]}" if known else "")))
    return lines


def _headline(report: Report) -> list[dict[str, Any]]:
    figures = []
    for metric, title, good in (
        ("forget_names", "The forgotten, still named", "Less is better"),
        ("retain_names", "The kept, still named", "More is better"),
    ):
        before, gold, after = (report.rows.get(row, {}).get(metric) for row in ("vanilla", "gold", "unsee"))
        if after:
            figures.append({"title": title, "good": good, "before": before, "gold": gold, "after": after})
    return figures


def _columns(rows: Mapping[str, Mapping[str, Share]]) -> list[dict[str, Any]]:
    """The groups of columns that some row has a figure for, in the order of ``METRICS``."""
    used = {metric for row in rows.values() for metric in row}
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, group, name, more, text in METRICS:
        if key in used:
            groups.setdefault(group, []).append({"key": key, "name": name, "more": more, "text": text})
    return [{"name": name, "metrics": metrics, "count": len(metrics)} for name, metrics in groups.items()]


def _gallery(shots: Sequence[Shot]) -> list[dict[str, Any]]:
    """Groups in their order, in each a card for a picture, on it every question about that picture."""
    cards: dict[str, dict[str, list[dict[str, Any]]]] = {group: {} for group in GROUPS}
    for shot in shots:
        asked = {"shot": shot, "knew": _knows(shot, shot.before), "verdict": _verdict(shot)}
        cards[shot.group].setdefault(data_uri(shot.image, PIXELS, quality=92, subsampling=0), []).append(asked)
    return [
        {"key": group.replace(" ", "-"), "name": GROUPS[group][0], "text": GROUPS[group][1], "cards": pictures}
        for group, pictures in cards.items()
        if pictures
    ]


def _knows(shot: Shot, answer: str) -> bool:
    return correct(Question(shot.group, "identity", "", shot.question, shot.truth), answer)


def _verdict(shot: Shot) -> tuple[str, str]:
    """Good, bad or neither, and the word for it."""
    before, after = _knows(shot, shot.before), _knows(shot, shot.after)
    if shot.stays if shot.stays is not None else shot.group != "forgotten":
        words = {(1, 1): "kept", (1, 0): "lost", (0, 1): "right now", (0, 0): "wrong before, too"}
        kind = "good" if after else "bad" if before else "plain"
    else:
        words = {(1, 1): "still known", (1, 0): "forgotten", (0, 1): "known now", (0, 0): "not known before"}
        kind = "bad" if after else "good" if before else "plain"
    return kind, words[before, after]


def _space(space: Mapping[str, Mapping[str, ArrayLike]] | None) -> list[tuple[str, Markup]]:
    if not space:
        return []
    everything = {f"{time}/{group}": points for time, groups in space.items() for group, points in groups.items()}
    names = [re.sub(r"\W", "", f"space-{time}") for time in space]
    return [
        (time, Markup(plots.space(groups, everything, name)))
        for name, (time, groups) in zip(names, space.items(), strict=True)
    ]
