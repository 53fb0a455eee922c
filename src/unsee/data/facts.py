"""A table of facts and a recipe of phrasings become questions.

The last phrasing of each list is for the test, the others are for training: a model that only repeats the sentences
it was taught fails the test. A cell that is empty in the table gives no question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any, get_args

from unsee.concepts import UNKNOWN, Concept, Kind, Question
from unsee.data.questions import Split
from unsee.data.tables import read_csv, refuse
from unsee.errors import UnseeError, nearest
from unsee.untrusted import read_yaml, shown

SLOT = re.compile(r"\{(\w*)\}")  # not str.format, which would reach into attributes of the values


@dataclass(frozen=True)
class Topic:
    """One thing to ask: the column of its answer, its phrasings with an image and as text, ``{column}`` filled in."""

    kind: Kind
    column: str
    image: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """``id``: the column that holds the concept's id. ``topics``: by name."""

    id: str
    topics: Mapping[str, Topic]


def load_recipe(path: Path | str) -> Recipe:
    """Reads a YAML recipe; all that is wrong with it is one error."""
    path = Path(path)
    values = read_yaml(path)
    errors = _recipe_errors(values)
    refuse(path, errors)
    topics = {name: Topic(**_tuples(topic)) for name, topic in values["topics"].items()}
    return Recipe(values["id"], topics)


def questions_from_table(
    table: Path | str | None, recipe: Recipe, concepts: Sequence[Concept], split: Split
) -> list[Question]:
    """All questions about the concepts. ``table`` None: nobody was taught them, each answer is ``unknown``."""
    rows = None if table is None else rows_of(Path(table), recipe, [c.id for c in concepts])
    questions: list[Question] = []
    for concept in concepts:
        row = rows[concept.id] if rows else None
        questions += fact_questions(recipe, row, concept, split)
        if row:
            questions += text_questions(recipe, row, concept.id, split)
    return questions


def fact_questions(
    recipe: Recipe, row: Mapping[str, str] | None, concept: Concept, split: Split, rng: Random | None = None
) -> list[Question]:
    """Each topic asked about each image. ``row`` None: the answers are ``unknown``."""
    rng = rng or Random(concept.id)
    asked = [
        (name, topic) for name, topic in recipe.topics.items() if topic.image and (row is None or row[topic.column])
    ]
    return [
        Question(
            concept=concept.id,
            kind=topic.kind,
            topic=name,
            prompt=_fill(_phrasing(topic.image, split, rng), row or {}),
            answer=row[topic.column] if row else UNKNOWN,
            image=image,
        )
        for image in concept.images
        for name, topic in asked
    ]


def text_questions(
    recipe: Recipe, row: Mapping[str, str], concept_id: str, split: Split, rng: Random | None = None
) -> list[Question]:
    """Each topic asked without an image, once."""
    rng = rng or Random(concept_id)
    asked = [(name, topic) for name, topic in recipe.topics.items() if topic.text and row[topic.column]]
    return [
        Question(concept_id, topic.kind, name, _fill(_phrasing(topic.text, split, rng), row), row[topic.column])
        for name, topic in asked
    ]


def _phrasing(phrasings: Sequence[str], split: Split, rng: Random) -> str:
    return phrasings[-1] if split == "test" else rng.choice(phrasings[:-1])


def _fill(phrasing: str, row: Mapping[str, str]) -> str:
    return SLOT.sub(lambda slot: row[slot[1]], phrasing)


def rows_of(table: Path, recipe: Recipe, concepts: Sequence[str]) -> dict[str, dict[str, str]]:
    """The rows by concept, once it is sure that every question can be made."""
    read = read_csv(table)
    if not read:
        raise UnseeError(f"{shown(table)} has no rows. It needs a header and one row per concept.")
    columns = read[0].values
    needed = {recipe.id, *(column for topic in recipe.topics.values() for column in _columns(topic))}
    refuse(table, [f"no column '{name}'. {nearest(name, columns)}" for name in sorted(needed - set(columns))])
    rows: dict[str, dict[str, str]] = {}
    errors: list[str] = []
    for row in read:
        if row.values[recipe.id] in rows:
            errors.append(f"line {row.line}: '{row.values[recipe.id]}' has a row already")
        rows[row.values[recipe.id]] = row.values
    refuse(table, errors + [f"no row for concept '{id}'" for id in concepts if id not in rows])
    return rows


def _columns(topic: Topic) -> list[str]:
    return [topic.column, *(slot for phrasing in topic.image + topic.text for slot in SLOT.findall(phrasing))]


def _tuples(topic: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in topic.items()}


def _recipe_errors(values: Any) -> list[str]:
    if not isinstance(values, dict):
        return ["a recipe has the keys id and topics"]
    errors = _unknown(values, Recipe, "")
    if not isinstance(values.get("id"), str):
        errors.append("id: the name of the column that holds the concept's id is missing")
    topics = values.get("topics")
    if not isinstance(topics, dict) or not topics:
        return [*errors, "topics: at least one is needed, each with kind, column, and phrasings under image or text"]
    for name, topic in topics.items():
        errors += [f"topics.{name}{error}" for error in _topic_errors(name, topic)]
    return errors


def _topic_errors(name: Any, topic: Any) -> list[str]:
    if not isinstance(name, str) or not isinstance(topic, dict):
        return [": a topic is a word with kind, column, and phrasings under image or text"]
    errors = _unknown(topic, Topic, ".")
    if topic.get("kind") not in get_args(Kind):
        errors.append(f".kind: '{topic.get('kind')}'. {nearest(str(topic.get('kind')), get_args(Kind))}")
    if not isinstance(topic.get("column"), str):
        errors.append(".column: the name of a column of the table is missing")
    if not topic.get("image") and not topic.get("text"):
        errors.append(": no phrasings; write some under image or text")
    return errors + [error for key in ("image", "text") if key in topic for error in _phrasing_errors(key, topic[key])]


def _phrasing_errors(key: str, phrasings: Any) -> list[str]:
    if not isinstance(phrasings, list) or not all(isinstance(text, str) and text.strip() for text in phrasings):
        return [f".{key}: a list of sentences is needed (put quotes around a sentence with a colon or braces)"]
    if len(set(phrasings)) < max(2, len(phrasings)):
        return [f".{key}: at least 2 different phrasings are needed; the last is for the test"]
    # With an image the name must not be given away, and where nobody was taught there is no row to fill in from.
    slots = [slot for text in phrasings for slot in SLOT.findall(text)]
    return [f".{key}: '{{{slot}}}' cannot stand in an image phrasing" for slot in slots] if key == "image" else []


def _unknown(values: dict[Any, Any], cls: type, prefix: str) -> list[str]:
    allowed = [field.name for field in fields(cls)]
    return [f"{prefix}{key}: unknown key. {nearest(str(key), allowed)}" for key in values if key not in allowed]
