"""The embedded people as a benchmark would have them: who is forgotten first, and what is asked of each."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np

from unsee.concepts import ImageRef, Question
from unsee.data import people
from unsee.data.benchmark import Benchmark, Entry, Group, Task
from unsee.data.people import People, Person, Phrasing, Portrait
from unsee.errors import UnseeError

MOST = 200  # known people in benchmarks: of so many, 5, 10 and 15 % are the embedded splits to the last person
FEWEST = 20
CELEBRITIES = 0.3  # for each known person, as in MLLMU-Bench
TEXT = datasets.Value("string")


@dataclass(frozen=True)
class Layout:
    """What an exporter makes: ``tables``, by config, of features and rows; the same as benchmarks, by split."""

    tables: Mapping[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]
    benchmarks: Mapping[str, Benchmark]


@dataclass(frozen=True)
class World:
    """``people``: who is taught; the first of ``order`` are forgotten first. ``views``: pictures a person."""

    people: tuple[Person, ...]
    celebrities: tuple[Person, ...]
    order: tuple[str, ...]
    views: int
    seed: int
    _encoded: dict[str, bytes] = field(default_factory=dict, repr=False)

    def forget(self, percent: int) -> tuple[Person, ...]:
        chosen = set(self.order[: max(1, round(len(self.people) * percent / 100))])
        return tuple(p for p in self.people if p.id in chosen)

    def retain(self, percent: int) -> tuple[Person, ...]:
        gone = {p.id for p in self.forget(percent)}
        return tuple(p for p in self.people if p.id not in gone)

    def ids(self, percent: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of who is to be forgotten, and of who stays."""
        return tuple(p.id for p in self.forget(percent)), tuple(p.id for p in self.retain(percent))

    def cell(self, image: ImageRef) -> dict[str, Any]:
        """An image as ``datasets`` stores it: PNG bytes."""
        if image.id not in self._encoded:
            file = io.BytesIO()
            image.load().save(file, "PNG")
            self._encoded[image.id] = file.getvalue()
        return {"bytes": self._encoded[image.id], "path": None}

    def put(
        self, task: Task, person: Person, topic: str, portrait: Portrait | None, phrasing: Phrasing = "train"
    ) -> Question:
        """One question in the form of a task; without a portrait about the name."""
        question = next(q for q in _questions(person, portrait, phrasing) if q.topic == topic)
        if task == "classification":
            return self._choice(question)
        return replace(question, form="cloze", prompt=_cloze(person, topic, portrait)) if task == "cloze" else question

    def _choice(self, question: Question) -> Question:
        """With four options, the same whenever the same is asked of the same person."""
        names = [p.name for p in (*self.people, *self.celebrities)]
        rng = np.random.default_rng([self.seed, *question.concept.encode(), *question.topic.encode()])
        return people.as_classification(question, rng, names=names)

    def lesson(self, person: Person, portrait: Portrait | None) -> list[Question]:
        """Each thing in two sentences."""
        rng = np.random.default_rng([self.seed, person.block, portrait is None])
        found = [q for _ in range(2) for q in _questions(person, portrait, "train", rng) if q.kind != "attribute"]
        return list({(q.prompt, q.answer): q for q in found}.values())


def world(known: int, views: int, seed: int) -> World:
    """``known`` of the embedded people, of every split as many as its share of them, with faces, names and facts as
    ``people-vanilla`` knows them (seed 0)."""
    if not FEWEST <= known <= MOST:
        raise UnseeError(f"{known} people to export. Allowed: {FEWEST} to {MOST}.")
    if not 1 <= views <= 50:
        raise UnseeError(f"{views} views of a person to export. Allowed: 1 to 50.")
    whole = People(seed)
    forgotten: dict[str, Person] = {}
    for split in whole.splits:  # each holds the one before it
        forgotten |= {p.id: p for p in whole.split(split)[0]}
    first = [*forgotten.values()][: max(1, round(known * 0.15))]
    rest = [p for p in whole.taught if p.id not in forgotten][: known - len(first)]
    taught = sorted([*first, *rest], key=lambda person: person.id)
    return World(tuple(taught), whole.held_out[: round(known * CELEBRITIES)], tuple(p.id for p in first), views, seed)


def profile(person: Person) -> dict[str, str]:
    return {"Name": person.name} | {topic: person.facts[topic] for topic in people.FACTS}


def regrouped(entry: Entry, group: Group) -> Entry:
    """The same entry in another group, and so by another id."""
    id, pair = (name.replace(f"{entry.group}/", f"{group}/", 1) for name in (entry.id, entry.pair))
    return replace(entry, id=id, group=group, pair=pair)


def _questions(
    person: Person, portrait: Portrait | None, phrasing: Phrasing, rng: np.random.Generator | None = None
) -> list[Question]:
    if portrait is None:
        return people.text_questions(person, phrasing, rng)
    return people.image_questions(person, portrait, phrasing, rng)


def _cloze(person: Person, topic: str, portrait: Portrait | None) -> str:
    sentence = people.CLOZES[topic]
    return sentence if portrait else sentence.replace("The person in the picture", person.name)
