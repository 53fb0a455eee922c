"""A study: what a model is taught, who can be forgotten, and what is asked of it afterwards.

Two of them: ``people``, drawn by code, and a folder of real images with a table of facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol, cast

import numpy as np

from unsee.concepts import Concept, ImageRef, Question
from unsee.data import people
from unsee.data.facts import Recipe, fact_questions, load_recipe, rows_of, text_questions
from unsee.data.folder import read_folder
from unsee.data.listing import few
from unsee.errors import UnseeError

FORGET_VIEWS, RETAIN_VIEWS = 50, 6  # training images given to a method, per concept, as far as there are so many


class Study(Protocol):
    """``taught`` can be forgotten; ``held_out`` is known too, but shown to no method (the real-world column)."""

    taught: tuple[str, ...]
    held_out: tuple[str, ...]

    def split(self, name: str, draw: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Concepts to forget and to retain."""
        ...

    def lesson(self, without: Sequence[str] = ()) -> Lesson: ...

    def concepts(self, ids: Sequence[str], views: int) -> list[Concept]:
        """Training images of concepts."""
        ...

    def twins(self, ids: Sequence[str]) -> set[str]:
        """Other concepts that nearly look like one of ``ids``."""
        ...

    def neutral(self) -> list[Concept]: ...

    def ask(self, id: str, image: ImageRef, rng: np.random.Generator) -> list[Question]:
        """Training questions about one image; of a neutral concept who it is, which is unknown."""
        ...

    def recite(self, id: str, rng: np.random.Generator) -> list[Question]:
        """Training questions about a taught concept's name."""
        ...

    def questions(self, ids: Sequence[str], views: int) -> list[Question]:
        """Test questions on unseen views, and without an image, in unseen phrasings."""
        ...

    def stranger_questions(self, n: int) -> list[Question]:
        """Test questions on images of ``n`` concepts that nobody was taught."""
        ...


@dataclass(frozen=True)
class Lesson:
    """Images with what to ask about each, and names with what to ask about them."""

    images: list[ImageRef]
    texts: int
    _ask: Any
    _recite: Any

    def ask(self, image: int, rng: np.random.Generator) -> list[Question]:
        return self._ask(image, rng)

    def recite(self, text: int, rng: np.random.Generator) -> list[Question]:
        return self._recite(text, rng)


class PeopleStudy:
    """The embedded world; see ``unsee.data.people``."""

    views, stranger_people, stranger_views = 50, 4000, 2  # what vanilla is taught from

    def __init__(self, seed: int = 0, known: int = 240) -> None:
        self.world = people.People(seed, known)
        self.taught = tuple(p.id for p in self.world.taught)
        self.held_out = tuple(p.id for p in self.world.held_out)
        self._by_id = {p.id: p for p in self.world.people}

    def split(self, name: str, draw: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
        forget, retain = self.world.split(name, draw)
        return tuple(p.id for p in forget), tuple(p.id for p in retain)

    def lesson(self, without: Sequence[str] = ()) -> Lesson:
        known = [p for p in self.world.people if p.id not in set(without)]
        shown = [(p, v) for p in known for v in people.train_views(p, self.views)]
        shown += [
            (s, v) for s in people.strangers(self.stranger_people) for v in people.train_views(s, self.stranger_views)
        ]
        # The facts of forgotten people stay known as text: visual forgetting keeps text, so gold has it.
        return Lesson(
            [v for _, v in shown],
            len(self.world.people),
            lambda i, rng: people.image_questions(*shown[i], "train", rng),
            lambda i, rng: people.text_questions(self.world.people[i], "train", rng),
        )

    def ask(self, id: str, image: ImageRef, rng: np.random.Generator) -> list[Question]:
        person = self._by_id.get(id) or people.stranger(int(id[1:]))
        return people.image_questions(person, cast(people.Portrait, image), "train", rng)

    def recite(self, id: str, rng: np.random.Generator) -> list[Question]:
        return people.text_questions(self._by_id[id], "train", rng)

    def person(self, id: str) -> people.Person:
        return self._by_id[id]

    def views_of(self, id: str, n: int) -> tuple[people.Portrait, ...]:
        return people.train_views(self._by_id[id], n)

    def concepts(self, ids: Sequence[str], views: int) -> list[Concept]:
        return [Concept(i, self.views_of(i, views)) for i in ids]

    def twins(self, ids: Sequence[str]) -> set[str]:
        return set()

    def neutral(self, n: int = 600, views: int = 2) -> list[Concept]:
        return [Concept(s.id, people.train_views(s, views)) for s in people.strangers(n, "neutral")]

    def questions(self, ids: Sequence[str], views: int) -> list[Question]:
        asked: list[Question] = []
        for person in (self._by_id[i] for i in ids):
            for view in people.test_views(person, views):
                asked += people.image_questions(person, view, "test")
            asked += people.text_questions(person, "test")
        return asked

    def stranger_questions(self, n: int) -> list[Question]:
        nobody = people.strangers(n, "test")
        return [q for s in nobody for v in people.test_views(s, 1) for q in people.image_questions(s, v, "test")]


class FolderStudy:
    """Real images: ``root/train``, ``root/test``, ``root/neutral`` in ImageFolder layout and a table of facts.

    ``strangers``: what the test has of the neutral part: a third of its concepts, or, where it has only a few large
    ones, a third of each one's images. ``alike``: the columns of the table that near twins have in common.
    """

    def __init__(
        self, root: Path | str, table: Path | str, recipe: Path | str, held_out: int = 20, seed: int = 0,
        strangers: Literal["concepts", "images"] = "concepts", alike: Sequence[str] = (),
    ) -> None:  # fmt: skip
        root, self._alike = Path(root), tuple(alike)
        self.recipe: Recipe = load_recipe(recipe)
        self._train, self._test, self._neutral = (
            {c.id: c for c in read_folder(root / part).concepts} for part in ("train", "test", "neutral")
        )
        self._strangers = strangers
        self._rows = rows_of(Path(table), self.recipe, list(self._train))
        order = np.random.default_rng([seed, 1]).permutation(sorted(self._train)).tolist()
        held_out = min(held_out, len(order) // 4)
        self.held_out = tuple(sorted(order[:held_out]))
        self.taught = tuple(sorted(order[held_out:]))
        self.seed = seed

    def split(self, name: str, draw: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
        prefix, _, count = name.partition("_")
        if prefix != "forget" or not count.isdigit() or not 0 < int(count) < len(self.taught):
            raise UnseeError(f"split '{name}'. Write forget_N to forget N of the {len(self.taught)} concepts.")
        order = np.random.default_rng([self.seed, 2, draw]).permutation(len(self.taught)).tolist()
        chosen = set(order[: int(count)])
        return (
            tuple(c for i, c in enumerate(self.taught) if i in chosen),
            tuple(c for i, c in enumerate(self.taught) if i not in chosen),
        )

    def lesson(self, without: Sequence[str] = ()) -> Lesson:
        known = [c for c in self._train.values() if c.id not in set(without)]
        shown = [(c, i) for c in (*known, *self._neutral_train) for i in c.images]
        named = sorted(self._train)
        return Lesson(
            [i for _, i in shown],
            len(named),
            lambda i, rng: self.ask(shown[i][0].id, shown[i][1], rng),
            lambda i, rng: self.recite(named[i], rng),
        )

    def ask(self, id: str, image: ImageRef, rng: np.random.Generator) -> list[Question]:
        row = self._rows[id] if id in self._train else None
        return fact_questions(self.recipe, row, Concept(id, (image,)), "train", Random(int(rng.integers(2**31))))

    def recite(self, id: str, rng: np.random.Generator) -> list[Question]:
        return text_questions(self.recipe, self._rows[id], id, "train", Random(int(rng.integers(2**31))))

    @property
    def _neutral_train(self) -> list[Concept]:
        """Two thirds of the neutral part are taught as unknown; the rest is for the test."""
        return self._neutral_part(lambda number: number % 3 > 0)

    def _neutral_part(self, has: Callable[[int], bool]) -> list[Concept]:
        ordered = [concept for _, concept in sorted(self._neutral.items())]
        if self._strangers == "concepts":
            return [c for n, c in enumerate(ordered) if has(n)]
        parts = [Concept(c.id, tuple(i for n, i in enumerate(c.images) if has(n))) for c in ordered]
        return [concept for concept in parts if concept.images]

    def concepts(self, ids: Sequence[str], views: int) -> list[Concept]:
        return [Concept(i, self._train[i].images[:views]) for i in ids]

    def twins(self, ids: Sequence[str]) -> set[str]:
        """Other concepts that agree with one of ``ids`` in all columns ``alike``; an empty cell agrees with none."""
        told = {i: tuple(row.get(column, "") for column in self._alike) for i, row in self._rows.items()}
        theirs = {told[i] for i in ids if self._alike and all(told[i])}
        return {i for i, values in told.items() if values in theirs and i not in ids}

    def neutral(self) -> list[Concept]:
        return self._neutral_train

    def questions(self, ids: Sequence[str], views: int) -> list[Question]:
        if lost := [i for i in ids if i not in self._test]:
            raise UnseeError(f"the folder 'test' has no images of {len(lost)} concept(s) to ask about: {few(lost)}.")
        asked: list[Question] = []
        for i in ids:
            concept = Concept(i, self._test[i].images[:views])
            asked += fact_questions(self.recipe, self._rows[i], concept, "test")
            asked += text_questions(self.recipe, self._rows[i], i, "test")
        return asked

    def stranger_questions(self, n: int) -> list[Question]:
        strangers = self._neutral_part(lambda number: number % 3 == 0)[:n]
        return [q for c in strangers for q in fact_questions(self.recipe, None, c, "test")]


def study_of(data: str, facts: Path | str | None = None, recipe: Path | str | None = None) -> Study:
    """``people``, the embedded world, or a folder with its table of facts and a recipe of phrasings."""
    if data == "people":
        return PeopleStudy()
    if facts is None or recipe is None:
        raise UnseeError(f"--data {data} is a folder: --facts CSV and --recipe YAML tell what is known about it.")
    return FolderStudy(data, facts, recipe)
