"""Rows of a benchmark's tables as entries; what cannot be asked is left out, and reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unsee.concepts import Form, ImageRef, Kind, Question
from unsee.data.benchmark import Cells, Entry, Group, Task
from unsee.data.parquet import Source
from unsee.data.stored import Table, Values

LETTERS = "ABCDEFGHIJ"
MEND = "Mend the row, or go on: the question is left out."


def people(source: Source, table: Table) -> Iterator[tuple[int, Values, str]]:
    """The rows of a table that has one a person: number, values, ID."""
    seen: set[str] = set()
    for number, row in enumerate(table.rows):
        id = text(row["ID"])
        if not id:
            source.report(table.config, number + 1, "the ID is empty", "Download it again.")
        elif id in seen:
            source.report(table.config, id, "the ID stands twice", "Take one of the rows out.")
        else:
            seen.add(id)
            yield number, row, id


def biography(source: Source, table: Table, row: Values, id: str, column: str) -> dict[str, str]:
    """The facts of a profile by their name; none where a version has no such column, or prose in it."""
    value = row.get(column)
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return {}
    found = source.parsed(table.config, id, column, value)
    return {str(k): str(v) for k, v in found.items() if v} if isinstance(found, dict) else {}


def about(facts: Mapping[str, str], answer: str) -> tuple[Kind, str]:
    """What a question asks for, by its answer: the tables do not say. The fact that equals it, or is in it."""
    said = answer.casefold().strip(" .")
    equal = [name for name, fact in facts.items() if fact.casefold() == said]
    within = [name for name, fact in facts.items() if len(fact) > 2 and fact.casefold() in said and name != "Name"]
    topic = next(iter([*equal, *sorted(within, key=lambda name: -len(facts[name]))]), "")
    return ("identity" if topic == "Name" else "fact"), topic.casefold()


class Asked:
    """What all questions of one row share. ``concept``: the id under which a person is counted."""

    def __init__(self, source: Source, config: str, row: str, group: Group, concept: str, facts: Mapping[str, str]):
        self.source, self.config, self.row = source, config, row
        self.group, self.concept, self.facts = group, concept, facts
        if name := facts.get("Name"):
            source.names[concept] = name

    def left_out(self, what: str) -> None:
        self.source.report(self.config, self.row, what, MEND, minor=True)

    def _once(self, id: str, task: Task, question: Question) -> None:
        """The same question twice counts twice in every figure."""
        image = question.image.id if question.image else ""
        key = (self.config, self.concept, task, image, question.prompt, *question.options)
        first = self.source.asked.setdefault(key, id)
        if first != id:
            what = f"the {task} question {question.prompt[:60]!r} stands twice, as {first} and {id}"
            self.source.report(self.config, self.row, what, "Take one of them out; both are asked.", minor=True)

    def question(
        self, task: Task, prompt: Any, answer: Any, image: ImageRef | None, options: Any = None
    ) -> Question | None:
        """``options``: by their letters, of which ``answer`` is one; without them the answer is taken as it stands."""
        prompt, answer = "" if prompt is None else str(prompt), text(answer)
        if not prompt.strip() or not answer:
            self.left_out(f"a {task} question has no {'answer' if prompt.strip() else 'text'}: {prompt[:60]!r}")
            return None
        if task == "classification":
            return self._choice(prompt, answer, image, options if isinstance(options, Mapping) else {})
        form: Form = "cloze" if task == "cloze" else "generation"
        return Question(self.concept, *about(self.facts, answer), prompt, answer, image, form)

    def _choice(self, prompt: str, answer: str, image: ImageRef | None, options: Mapping[str, Any]) -> Question | None:
        letters = {str(k): text(v) for k, v in options.items() if v is not None}
        letter = answer.split(".")[0].strip().upper()
        if "".join(letters) != LETTERS[: len(letters)] or letter not in letters:
            self.left_out(f"the answer {answer[:40]!r} is none of the options {', '.join(letters) or '(none)'}")
            return None
        right, texts = letters[letter], tuple(letters.values())
        if not right or texts.count(right) > 1:
            self.left_out(f"the right option {letter} is empty, or stands twice: {prompt[:60]!r}")
            return None
        return Question(self.concept, *about(self.facts, right), prompt, right, image, "classification", texts)

    def entry(
        self, id: str, task: Task, *given: Any, number: int = 0, paraphrase: Any = "", perturbed: Any = ()
    ) -> Iterator[Entry]:
        """One entry, or none. ``given``: prompt, answer, image and options; the rest: of the entry itself, in cells."""
        question = self.question(task, *given)
        if question:
            self._once(id, task, question)
            cells = Cells(_cell(given[1]), _cell(paraphrase), verbatim(perturbed), verbatim(_values(given)))
            other, wrong = text(paraphrase), tuple(found for cell in cells.perturbed if (found := cell.strip()))
            yield Entry(f"{self.group}/{id}", self.group, task, question, "", other, wrong, number, cells)


def _values(given: Sequence[Any]) -> list[Any]:
    options = given[3] if len(given) > 3 else None
    return list(options.values()) if isinstance(options, Mapping) else []


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def verbatim(values: Any) -> tuple[str, ...]:
    """A list of texts as it stands."""
    return tuple(str(value) for value in values or () if value is not None)


def text(value: Any) -> str:
    """Of a cell, without blanks around it; an empty one has none."""
    return "" if value is None else str(value).strip()
