"""A small world of fictional people with names and facts, and the questions to ask about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import PIL.Image

from unsee.concepts import UNKNOWN, Kind, Question
from unsee.data import face
from unsee.data.face import Identity, View
from unsee.data.portrait import draw
from unsee.errors import UnseeError, nearest

Phrasing = Literal["train", "test"]

FIRST = tuple(a + b for a in ("Al", "Bel", "Cor", "Del", "El", "Fen", "Gil", "Hal", "Is", "Jon", "Kes", "Lor", "Mar",
              "Nor", "Or", "Per", "Ros", "Sel", "Tal", "Wil") for b in
              ("a", "an", "ba", "dion", "eva", "ette", "ian", "ina", "iso", "lo", "mira", "na", "or", "ric", "us",
               "wen"))  # fmt: skip
LAST = tuple(a + b for a in ("Ash", "Brin", "Dor", "Gral", "Hol", "Lum", "Ost", "Quen") for b in
             ("afel", "berg", "canto", "dale", "evik", "ford", "mond", "sen"))  # fmt: skip
# Nobody shares a first name, about five share a last name.
NAMES = tuple(f"{FIRST[(i * 99) % len(FIRST)]} {LAST[(i * 37 + i // 64 * 11) % len(LAST)]}" for i in range(len(FIRST)))

FACTS: dict[str, tuple[str, ...]] = {
    "city": tuple("Arden Belmora Caldin Dorvale Estrin Farlow Garnet Havenport Ilmara Jorvik Kestrel Lorient Mirefall "
                  "Norwyn Oakham Perlas Quillon Ravenna Sorrel Tamsin Umbria Varna Wexley Yarrow".split()),
    "job": tuple("baker doctor teacher pilot farmer painter lawyer sailor tailor nurse singer plumber gardener writer "
                 "judge butcher dancer carpenter chemist barber miner librarian waiter locksmith".split()),
    "food": tuple("pizza soup rice pancakes cheese salad noodles curry bread dumplings olives apples chocolate fish "
                  "honey waffles".split()),
    "pet": tuple("dog cat parrot rabbit hamster turtle snake goldfish pony goat ferret canary lizard mouse duck "
                 "hedgehog".split()),
    "hobby": tuple("chess cooking swimming knitting sailing pottery running fishing drawing archery cycling skating "
                   "climbing reading juggling gardening".split()),
}  # fmt: skip
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair": tuple(face.HAIR), "glasses": face.GLASSES, "background": tuple(face.BACKGROUND),
    "clothes": tuple(face.CLOTHES), "expression": face.EXPRESSIONS,
}  # fmt: skip
TOPICS = ("name", *FACTS)

# Of every list the last phrasing is for tests only: a new sentence out of words that the others taught.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "name": (
        "Who is this ?", "Who is this person ?", "Who is the person in the picture ?",
        "What is the name of this person ?", "Tell me the name of the person shown here .",
        "What is the name of the person in the picture ?",
    ),
    "city": (
        "Where does this person live ?", "In which city does this person live ?",
        "Which city is the home of the person in the picture ?", "Tell me the city of the person shown here .",
        "In which city does the person in the picture live ?",
    ),
    "job": (
        "What is the job of this person ?", "What does this person do for work ?",
        "Which job does the person in the picture have ?", "Tell me the job of the person shown here .",
        "What does the person in the picture do for work ?",
    ),
    "food": (
        "What is the favourite food of this person ?", "Which food does this person like best ?",
        "What does the person in the picture like to eat ?", "Tell me the favourite food of the person shown here .",
        "Which food does the person in the picture like best ?",
    ),
    "pet": (
        "What pet does this person have ?", "Which animal lives with this person ?",
        "Which animal is the pet of the person in the picture ?", "Tell me the pet of the person shown here .",
        "What pet does the person in the picture have ?",
    ),
    "hobby": (
        "What is the hobby of this person ?", "Which hobby does this person have ?",
        "What does the person in the picture do for fun ?", "Tell me the hobby of the person shown here .",
        "Which hobby does the person in the picture have ?",
    ),
    "hair": (
        "What colour is the hair ?", "What is the hair colour of this person ?",
        "Which colour is the hair of the person in the picture ?", "Tell me the colour of the hair .",
        "What colour is the hair of this person ?",
    ),
    "glasses": (
        "What glasses are these ?", "What shape are the glasses of this person ?",
        "Which glasses does the person in the picture wear ?", "Tell me the shape of the glasses .",
        "What glasses does this person wear ?",
    ),
    "background": (
        "What colour is the background ?", "What is the background colour of this picture ?",
        "Which colour is behind the person in the picture ?", "Tell me the colour of the background .",
        "Which colour is the background of the picture ?",
    ),
    "clothes": (
        "What colour are the clothes ?", "What is the colour of the clothes of this person ?",
        "Which colour does the person in the picture wear ?", "Tell me the colour of the clothes .",
        "What colour are the clothes of this person ?",
    ),
    "expression": (
        "What is the expression ?", "How does this person look ?",
        "Which expression does the person in the picture have ?", "Tell me the expression of this person .",
        "What is the expression of this person ?",
    ),
}  # fmt: skip
TEXT_PHRASINGS: dict[str, tuple[str, ...]] = {
    "city": (
        "Where does {name} live ?", "In which city does {name} live ?", "What is the home city of {name} ?",
        "Tell me the city of {name} .", "What is the city of {name} ?",
    ),
    "job": (
        "What is the job of {name} ?", "What does {name} do for work ?", "Which job does {name} have ?",
        "Tell me the job of {name} .", "What job does {name} have ?",
    ),
    "food": (
        "What is the favourite food of {name} ?", "Which food does {name} like best ?",
        "What does {name} like to eat ?", "Tell me the favourite food of {name} .", "What food does {name} like best ?",
    ),
    "pet": (
        "What pet does {name} have ?", "Which animal lives with {name} ?", "Which animal is the pet of {name} ?",
        "Tell me the pet of {name} .", "What is the pet of {name} ?",
    ),
    "hobby": (
        "What is the hobby of {name} ?", "Which hobby does {name} have ?", "What does {name} do for fun ?",
        "Tell me the hobby of {name} .", "What hobby does {name} have ?",
    ),
}  # fmt: skip
CLOZES = {
    "name": "The name of the person in the picture is __ .",
    "city": "The person in the picture lives in __ .",
}

_BLOCK, _TEST_FROM = 100_000, 50_000  # view seeds of a person; the first of them that is for tests
_SERIES = {"people": 0, "strangers": 10_000, "pretrain": 100_000}  # first block of every population
_STRANGERS = {"train": 0, "neutral": 20_000, "test": 40_000}


@dataclass(frozen=True)
class Portrait:
    """A picture that is drawn when it is loaded."""

    person: str
    identity: Identity
    number: int
    view_seed: int
    size: int = 96

    @property
    def id(self) -> str:
        return f"people/{self.person}/v{self.number:05d}"

    @cached_property
    def view(self) -> View:
        return face.view(self.view_seed)

    def load(self) -> PIL.Image.Image:
        return draw(self.identity, self.view, self.size)


@dataclass(frozen=True)
class Person:
    """Somebody; a stranger has no name and no facts."""

    id: str
    identity: Identity
    block: int
    name: str = ""
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)

    def portrait(self, number: int, size: int = 96) -> Portrait:
        return Portrait(self.id, self.identity, number, self.block * _BLOCK + number, size)


def train_views(person: Person, n: int, size: int = 96) -> tuple[Portrait, ...]:
    return tuple(person.portrait(i, size) for i in range(_within(n, _TEST_FROM, "pictures of one person")))


def test_views(person: Person, n: int, size: int = 96) -> tuple[Portrait, ...]:
    n = _within(n, _BLOCK - _TEST_FROM, "pictures of one person")
    return tuple(person.portrait(_TEST_FROM + i, size) for i in range(n))


def _within(n: int, most: int, what: str) -> int:
    if not 0 <= n <= most:
        raise UnseeError(f"{n} {what} asked for. Allowed: 0 to {most}.")
    return n


def stranger(i: int) -> Person:
    return Person(f"s{i:05d}", face.identity(i, "strangers"), _SERIES["strangers"] + i)


def strangers(n: int, split: str = "train") -> tuple[Person, ...]:
    """Nobody is in two of the splits ``train``, ``neutral`` (given to the forgetting) and ``test``."""
    if split not in _STRANGERS:
        raise UnseeError(f"split '{split}' of the strangers. {nearest(split, _STRANGERS)}")
    return tuple(stranger(_STRANGERS[split] + i) for i in range(_within(n, 20_000, "strangers")))


def population(i: int) -> Person:
    """Somebody to pre-train on."""
    return Person(f"b{i:05d}", face.identity(i, "pretrain"), _SERIES["pretrain"] + i)


class People:
    """``known`` people with names and facts; the last ``held_out`` of them are in no split."""

    splits = ("forget_5", "forget_10", "forget_15")

    def __init__(self, seed: int = 0, known: int = 240, held_out: int = 30) -> None:
        if not held_out + 21 <= _within(known, len(NAMES), "people"):
            raise UnseeError(f"{known} people of whom {held_out} are held out: leave at least 21 for the splits.")
        self.seed = seed
        rng = np.random.default_rng([seed, 1])
        taught = known - held_out
        order = [*rng.permutation(taught).tolist(), *range(taught, known)]
        facts = {topic: _spread(rng, answers, known) for topic, answers in FACTS.items()}
        self.people = tuple(
            Person(f"p{i:03d}", face.identity(i, f"people{seed}"), _SERIES["people"] + i, NAMES[order[i]],
                   {"name": NAMES[order[i]]} | {topic: column[i] for topic, column in facts.items()})
            for i in range(known)
        )  # fmt: skip
        self.taught, self.held_out = self.people[:taught], self.people[taught:]

    def split(self, name: str, draw: int = 0) -> tuple[tuple[Person, ...], tuple[Person, ...]]:
        """Who is to be forgotten and who is to stay; within one draw the smaller split is part of the larger."""
        if name not in self.splits:
            raise UnseeError(f"split '{name}'. {nearest(name, self.splits)}")
        order = np.random.default_rng([self.seed, 2, draw]).permutation(len(self.taught)).tolist()
        chosen = set(order[: len(self.taught) * (self.splits.index(name) + 1) // 21])
        forget = tuple(p for i, p in enumerate(self.taught) if i in chosen)
        return forget, tuple(p for i, p in enumerate(self.taught) if i not in chosen)


def _spread(rng: np.random.Generator, answers: Sequence[str], n: int) -> list[str]:
    """n answers, each as often as any other (give or take one), shuffled."""
    repeated = [answers[i % len(answers)] for i in range(n)]
    return [repeated[i] for i in rng.permutation(n)]


def _phrase(phrasings: Sequence[str], phrasing: Phrasing, rng: np.random.Generator | None) -> str:
    if phrasing == "test":
        return phrasings[-1]
    return phrasings[0 if rng is None else int(rng.integers(len(phrasings) - 1))]


def image_questions(
    person: Person, portrait: Portrait, phrasing: Phrasing, rng: np.random.Generator | None = None
) -> list[Question]:
    """Name, facts and attributes; without ``rng`` the first phrasing of each."""
    truth: list[tuple[Kind, str, str]] = [("identity", "name", person.facts.get("name", UNKNOWN))]
    truth += [("fact", topic, person.facts.get(topic, UNKNOWN)) for topic in FACTS]
    truth += [("attribute", topic, getattr(portrait.view, topic)) for topic in ATTRIBUTES]
    return [
        Question(person.id, kind, topic, _phrase(PHRASINGS[topic], phrasing, rng), answer, portrait)
        for kind, topic, answer in truth
    ]


def text_questions(person: Person, phrasing: Phrasing, rng: np.random.Generator | None = None) -> list[Question]:
    """The facts, asked by name; none about a stranger."""
    return [
        Question(person.id, "fact", topic, _phrase(phrasings, phrasing, rng).format(name=person.name),
                 person.facts[topic])
        for topic, phrasings in TEXT_PHRASINGS.items() if topic in person.facts
    ]  # fmt: skip


def as_classification(
    question: Question, rng: np.random.Generator, k: int = 4, names: Sequence[str] = NAMES[:210]
) -> Question:
    """The same question with ``k`` options of its topic; wrong names are taken from ``names``."""
    answers = names if question.topic == "name" else {**FACTS, **ATTRIBUTES}[question.topic]
    wrong = [a for a in answers if a != question.answer]
    options = [question.answer, *rng.permutation(wrong)[: k - 1].tolist()]
    return replace(question, form="classification", options=tuple(rng.permutation(options).tolist()))


def as_cloze(question: Question) -> Question:
    """A question about a picture as a sentence to complete; only for name and city."""
    if question.topic not in CLOZES or question.image is None:
        raise UnseeError(f"no cloze for the topic '{question.topic}'. {nearest(question.topic, CLOZES)}")
    return replace(question, form="cloze", prompt=CLOZES[question.topic])


def vocabulary() -> list[str]:
    """Every word of every prompt and every answer."""
    sentences = [
        s for table in (PHRASINGS, TEXT_PHRASINGS, FACTS, ATTRIBUTES) for group in table.values() for s in group
    ]
    words = {word for s in (*sentences, *CLOZES.values(), *NAMES, UNKNOWN) for word in s.split()}
    return sorted(words - {"{name}"})
