"""A picture of unseen photographs and what a model calls them before and after it forgot some."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import fill

import PIL.Image
import PIL.ImageOps
from matplotlib.figure import Figure

from unsee.evaluation.tasks import Item
from unsee.report.plots import BLUE, GREY

COLUMNS, SIDE, WIDTH = 6, 224, 20  # pictures in a row, pixels, letters in a line


def draw(vanilla: Sequence[Item], ours: Sequence[Item], twins: Collection[str], out: Path) -> None:
    """Concepts forgotten above, and below what stays, near ``twins`` of those first, then held-out ones.

    Of each the first picture of the exam that the model named before, whatever it says now.
    """
    rows = (_chosen(vanilla, ours, ("forget",), ()), _chosen(vanilla, ours, ("retain", "heldout"), twins))
    figure = Figure(figsize=(1.8 * COLUMNS, 5.0))
    panels = figure.subplots(len(rows), COLUMNS, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.08, top=0.92, wspace=0.1, hspace=0.3)
    for axes in panels.flat:
        axes.axis("off")
    for row, pairs, colour in zip(panels, rows, (BLUE, GREY), strict=True):
        for axes, (before, after) in zip(row, pairs, strict=False):
            assert before.question.image
            axes.imshow(_square(before.question.image.load()))
            axes.set_title(fill(f"before: {before.given}", WIDTH), fontsize=8)
            axes.text(
                0.5, -0.04, fill(f"after: {after.given}", WIDTH), transform=axes.transAxes, ha="center", va="top",
                fontsize=8, weight="bold", color=colour,
            )  # fmt: skip
    figure.savefig(out, dpi=100, metadata={"Software": None})


def _chosen(
    vanilla: Sequence[Item], ours: Sequence[Item], groups: Collection[str], first: Collection[str]
) -> list[tuple[Item, Item]]:
    found: dict[str, tuple[Item, Item]] = {}
    for before, after in zip(vanilla, ours, strict=True):
        asked = before.question
        if before.group in groups and asked.image and asked.kind == "identity" and before.correct:
            found.setdefault(asked.concept, (before, after))
    return sorted(found.values(), key=lambda pair: pair[0].question.concept not in first)[:COLUMNS]


def _square(image: PIL.Image.Image) -> PIL.Image.Image:
    return PIL.ImageOps.fit(image, (SIDE, SIDE))
