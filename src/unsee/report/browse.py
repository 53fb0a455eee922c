"""The page of an evaluation: its table, and every question with every model's answer, to be filtered and searched.

One file that loads nothing. Every text is escaped; the one script and the one style sheet are named by their hashes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from unsee.concepts import ImageRef
from unsee.evaluation.score import State
from unsee.evaluation.table import ARROW, Cell, Column, Table
from unsee.files import new_file
from unsee.report.html import content_hash, data_uri, environment, read_template

MARKS: dict[State, str] = {"correct": "✓", "incorrect": "✗", "refusal": "?", "invalid": "∅"}
GROUPS = {
    "forget": "Forgotten", "test": "Forgotten, other pictures", "retain": "Kept",
    "real": "Real people", "faces": "Real faces", "world": "The real world",
}  # fmt: skip
NEVER_BROKEN = "\u00a0"  # a blank
PIXELS, QUALITY = 176, 80  # longest side of a picture: some 6 kB each, a thousand of them in a page


@dataclass(frozen=True)
class Said:
    """What a model answered. ``score``: 0 to 1. ``times``: in how many wordings of the question it said this."""

    model: str
    given: str
    state: State
    score: float
    times: int = 1


@dataclass(frozen=True)
class Shown:
    """One question, with its picture or about a concept, and what each model said."""

    group: str
    task: str
    concept: str
    question: str
    truth: str
    image: ImageRef | None
    answers: tuple[Said, ...]
    options: tuple[str, ...] = ()

    @property
    def lettered(self) -> list[str]:
        """The options as a prompt shows them: a model may answer with a letter alone."""
        return [f"{chr(ord('A') + place)}: {option}" for place, option in enumerate(self.options)]

    @property
    def right(self) -> str:
        return self.lettered[self.options.index(self.truth)] if self.truth in self.options else self.truth


@dataclass(frozen=True)
class Page:
    """``notes``: how the figures were taken. ``facts``: command, commit, seed … at the foot."""

    title: str
    lead: str
    asked: Sequence[Shown]
    table: Table | None = None
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def write_browser(path: Path | str, page: Page) -> None:
    """The page as one HTML file; the same page gives the same bytes."""
    html = render(page)
    with new_file(path, private=True) as file:
        file.write_bytes(html.encode("utf-8"))


def render(page: Page) -> str:
    source = read_template("browse.html")
    return (
        environment()
        .from_string(source)
        .render(
            page=page,
            style_hash=content_hash(source, "style"),
            script_hash=content_hash(source, "script"),
            lines=_lines(page.table) if page.table else [],
            notes=[*(page.table.footnotes if page.table else ()), *page.notes],
            groups=_cards(page.asked),
            choices=_choices(page.asked),
            marks=MARKS,
        )
    )


def _lines(table: Table) -> list[dict[str, Any]]:
    """The table turned: a line for each figure, a column for each model, since figures are many and models few."""
    return [
        {
            "name": f"{column.title}{ARROW[column.better].replace(' ', NEVER_BROKEN)}",
            "cells": [_cell(column, row.cells[column.key]) if column.key in row.cells else None for row in table.rows],
        }
        for column in table.columns
    ]


def _cell(column: Column, cell: Cell) -> dict[str, str]:
    interval = "" if cell.low is None else f"{cell.low:.{column.digits}f} to {cell.high:.{column.digits}f}"
    details = [interval, f"n {cell.n}" if cell.n else "", f"p {cell.p:.2g}" if cell.p is not None else ""]
    return {"value": f"{cell.value:.{column.digits}f}", "details": " · ".join(d for d in details if d)}


def _cards(asked: Sequence[Shown]) -> dict[str, list[dict[str, Any]]]:
    """By group the cards: one for each picture, and one for each concept asked about without one."""
    pictures = _pictures(asked)
    groups: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for shown in asked:
        image = shown.image.id if shown.image else ""
        card = {"concept": shown.concept, "image": pictures.get(image, ""), "asked": []}
        of = groups.setdefault(_group(shown), {})
        of.setdefault((shown.concept, image), card)["asked"].append(shown)
    return {group: list(cards.values()) for group, cards in groups.items()}


def _group(shown: Shown) -> str:
    return GROUPS.get(shown.group, shown.group)


def _pictures(asked: Sequence[Shown]) -> dict[str, str]:
    """Image id → data URI. Threads: Pillow decodes without Python's lock; one picture at a time is held each."""
    images = {shown.image.id: shown.image for shown in asked if shown.image}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(images, pool.map(_picture, images.values()), strict=True))


def _picture(image: ImageRef) -> str:
    return data_uri(image.load(), PIXELS, quality=QUALITY)


def _choices(asked: Sequence[Shown]) -> list[tuple[str, str, list[str]]]:
    """The filters: name, the word for all, what can be chosen."""
    models = dict.fromkeys(said.model for shown in asked for said in shown.answers)
    states = [*get_args(State), *(["models differ"] if len(models) > 1 else [])]
    return [
        ("group", "all groups", list(dict.fromkeys(_group(shown) for shown in asked))),
        ("task", "all tasks", list(dict.fromkeys(shown.task for shown in asked))),
        ("model", "any model", list(models)),
        ("state", "any state", states),
    ]
