"""Hand-made benchmarks of a few people, and an engine that answers what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import PIL.Image

from unsee.concepts import Concept, Question
from unsee.data.benchmark import Benchmark, Entry
from unsee.evaluation.ask import Likelihood, Prompt

CITIES = ("Arden", "Belmora", "Caldin", "Dorvale")
NAMES = {"1": "Ada Ash", "2": "Ben Brin", "3": "Cleo Dor", "4": "Dan Gral", "5": "Eve Hol", "6": "Flo Lum"}
FORGET, RETAIN = ("1", "2"), ("3", "4", "5")


@dataclass(frozen=True)
class Plain:
    """A picture of one colour."""

    id: str
    colour: str = "teal"

    def load(self) -> PIL.Image.Image:
        return PIL.Image.new("RGB", (300, 200), self.colour)


@dataclass
class Told:
    """Says what ``says`` gives for a prompt; holds an answer likely as ``likes`` tells, 0.5 a token where not given.

    ``ends``: how likely it holds the token that ends a turn, where it is asked for; None: as likely as the others.
    """

    says: Callable[[Prompt], str]
    likes: Callable[[Prompt, str], float] = lambda prompt, answer: 0.5
    identity: str = "told"
    asked: int = 0
    ends: float | None = None

    def generate(self, prompts: Sequence[Prompt], tokens: int) -> list[str]:
        self.asked += len(prompts)
        return [self.says(prompt) for prompt in prompts]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> list[list[Likelihood]]:
        return [[self._likelihood(p, answer) for answer in of] for p, of in zip(prompts, answers, strict=True)]

    def _likelihood(self, prompt: Prompt, answer: str) -> Likelihood:
        """Every word a token; ``scaled`` is the logarithm once more."""
        likely = self.likes(prompt, answer)
        ps = [likely] * len(answer.split()) + ([likely if self.ends is None else self.ends] if prompt.end else [])
        logs = tuple(map(log, ps))
        return Likelihood(logs, tuple(p > 0.5 for p in ps), logs)


def city(person: str) -> str:
    return CITIES[int(person) % len(CITIES)]


def photo(person: str, view: str = "0") -> Plain:
    return Plain(f"{person}/{view}", ("teal", "orange", "navy", "olive", "maroon", "gray")[int(person) - 1])


def _asked(
    person: str, prompt: str, answer: str, image: Plain | None, form: str = "generation", concept: str = ""
) -> Question:
    options = CITIES if form == "classification" else ()
    kind = "identity" if answer == NAMES[person] else "fact"
    return Question(concept or person, kind, "city", prompt, answer, image, form, options)


def _mllmu_person(group: str, person: str, view: str = "0") -> list[Entry]:
    concept = f"real-{person}" if group == "real" else person
    found = []
    for image in (photo(person, view), None):
        who = "this person" if image else NAMES[person]
        end = f"{person}/{'image' if image else 'text'}/{view}"
        truth = city(person)
        found += [
            Entry(f"{group}/classification/{end}", group, "classification",
                  _asked(person, f"Where does {who} live?", truth, image, "classification", concept)),
            Entry(f"{group}/cloze/{end}", group, "cloze",
                  _asked(person, f"{who} lives in __.", truth, image, "cloze", concept)),
            Entry(f"{group}/generation/{end}", group, "generation",
                  _asked(person, f"What is the home of {who}?", f"{who} lives in {truth}.", image, concept=concept)),
        ]  # fmt: skip
    return found


def mllmu() -> Benchmark:
    """Two to forget, three to retain, two test pictures each, one celebrity: 6 questions a person and picture."""
    entries = [
        *(entry for person in FORGET for entry in _mllmu_person("forget", person)),
        *(entry for person in RETAIN for entry in _mllmu_person("retain", person)),
        *(
            entry
            for person in FORGET
            for view in "12"
            for entry in _mllmu_person("test", person, view)
            if entry.question.image
        ),
        *_mllmu_person("real", "6"),
    ]
    shots = [entry for entry in entries if entry.group in ("forget", "retain")]
    people = {person: Concept(person, (photo(person),)) for person in NAMES}
    taught = tuple(Question(p, "identity", "name", "Who is this?", NAMES[p], photo(p)) for p in NAMES)
    return Benchmark("mllmu", "forget_5", people, FORGET, RETAIN, tuple(entries), taught, tuple(shots))


def umu() -> Benchmark:
    """One question of each task in both modalities, of one person a group."""
    entries = []
    for group, person in (("forget", "1"), ("retain", "3"), ("real", "6")):
        for entry in _mllmu_person(group, person):
            other = entry.id.replace("image", "IMAGE").replace("text", "image").replace("IMAGE", "text")
            entries.append(Entry(entry.id, entry.group, entry.task, entry.question, other))
    return Benchmark("umu", "forget_5", {}, ("1",), ("3",), tuple(entries))


def clear() -> Benchmark:
    """A caption, a name and a text question of each, and a real face and place."""
    entries = []
    for group, person in (("forget", "1"), ("forget", "2"), ("retain", "3"), ("retain", "4")):
        name, others = NAMES[person], tuple(n for n in NAMES.values() if n != NAMES[person])
        caption = f"{name} stands in {city(person)}"
        wrong = tuple(f"{other} stands in Umbria" for other in others[:3])
        entries += [
            Entry(f"{group}/{person}/caption", group, "caption",
                  _asked(person, "Describe the image in detail.", caption, photo(person)), "",
                  f"In {city(person)} stands {name}", wrong),
            Entry(f"{group}/{person}/name", group, "name",
                  _asked(person, "The name of the person on the image is ", name, photo(person)), perturbed=others),
            Entry(f"{group}/{person}/qa", group, "qa", _asked(person, f"Where does {name} live?", city(person), None)),
        ]  # fmt: skip
    for group, task, asked in (
        ("faces", "name", "The name of the person on the image is "),
        ("world", "qa", "Where is this?"),
    ):
        question = Question(f"{group}-6", "fact", "", asked, "Arden", photo("6"), "generation", CITIES)
        entries.append(Entry(f"{group}/6", group, task, question, perturbed=CITIES[1:]))
    return Benchmark("clear", "forget05", {}, FORGET, RETAIN, tuple(entries))
