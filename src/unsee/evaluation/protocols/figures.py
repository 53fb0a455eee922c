"""Items become figures: means by group, task, modality and score, and what counts as success by either definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unsee.evaluation.protocols.plan import Figure, Item, Items
from unsee.evaluation.table import Better, Column

FORGOTTEN = ("forget", "test")
TEXT_KEPT = (
    "share of what is asked about the forgotten that is as it should be where only what was seen is to go: not known "
    "with an image, known by name (arXiv 2502.11051, 2512.11325, 2605.05909)"
)
TEXT_TOO = "the same where all knowledge is to go: known neither with an image nor by name (UMU-Bench)"


def better(group: str, modality: str) -> Better:
    """Of how right answers are. What is known of the forgotten by name: the two definitions differ, so neither."""
    if group not in FORGOTTEN:
        return "higher"
    return "lower" if modality == "image" else "neither"


def mean(
    items: Items, value: Callable[[Item], float | None], key: str, direction: Better = "neither", note: str = ""
) -> list[Figure]:
    """The mean over those that have a value; nothing where none has."""
    values = {item.id: (found, item.concept) for item in items if (found := value(item)) is not None}
    return [Figure(Column(key.replace(" ", "_"), key, direction, note), values)] if values else []


def means(items: Items, scores: Sequence[str]) -> list[Figure]:
    """A figure for each group, task, modality and score that there is, in the order of the items and of ``scores``."""
    parts: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        entry = item.ask.entry
        parts.setdefault((entry.group, entry.task, entry.question.modality), []).append(item)
    found = []
    for (group, task, modality), part in parts.items():
        for name in scores:
            key = f"{group} {task} {modality} {name}"
            found += mean(part, of(name), key, better(group, modality))
    return found


def of(name: str) -> Callable[[Item], float | None]:
    """That score of an item."""
    return lambda item: item.scores.get(name)


def success(items: Items) -> list[Figure]:
    """Both definitions of success, side by side: every question about the forgotten counts for or against each."""
    forgotten = [item for item in items if item.ask.entry.group == "forget" and item.main is not None]

    def text_kept(item: Item) -> float:
        return _known(item) if item.modality == "text" else 1 - _known(item)

    return [
        *mean(forgotten, text_kept, "success text kept", "higher", TEXT_KEPT),
        *mean(forgotten, lambda item: 1 - _known(item), "success text forgotten too", "higher", TEXT_TOO),
    ]


def _known(item: Item) -> float:
    return item.main or 0.0
