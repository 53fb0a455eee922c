"""What the published benchmarks have in common, whatever their columns: people, their images, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from unsee.concepts import Concept, Question
from unsee.errors import UnseeError, nearest

Group = Literal["forget", "retain", "test", "real", "faces", "world"]
Task = Literal["classification", "cloze", "generation", "name", "caption", "qa"]


@dataclass(frozen=True)
class Cells:
    """An entry's cells as they stand in the table, blanks and all, which is what published code reads.

    ``answer``: of a choice the letter and whatever stands behind it. ``options``: their texts in the table's order.
    """

    answer: str
    paraphrase: str = ""
    perturbed: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One question of a benchmark, with all that its scoring asks for.

    ``id``: unique, and the same whenever the same source is read. ``group``: forget; retain; test (forgotten people in
    other pictures and words); real (celebrities), faces and world (CLEAR's). ``pair``: of the entry that asks the same
    in the other modality. ``question.options``: in the order of their letters. ``paraphrase``, ``perturbed``: the right
    answer in other words, and wrong answers like it. ``number``: its place, from 0: of CLEAR's pictures among the rows
    of the table, of MLLMU-Bench's questions in the person's list. ``cells``: None in a benchmark made by hand.
    """

    id: str
    group: Group
    task: Task
    question: Question
    pair: str = ""
    paraphrase: str = ""
    perturbed: tuple[str, ...] = ()
    number: int = 0
    cells: Cells | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("group", get_args(Group)), ("task", get_args(Task))):
            if getattr(self, name) not in allowed:
                raise UnseeError(
                    f"{name} '{getattr(self, name)}' of {self.id}. {nearest(getattr(self, name), allowed)}"
                )

    @property
    def letter(self) -> str:
        """Of the right option: A, B, …; empty where there are no options."""
        options = self.question.options
        return chr(ord("A") + options.index(self.question.answer)) if options else ""

    @property
    def written(self) -> Cells:
        """The cells, or what they would be of an entry that comes from no table."""
        if self.cells:
            return self.cells
        answer = self.letter if self.task == "classification" else self.question.answer
        return Cells(answer, self.paraphrase, self.perturbed, self.question.options)


@dataclass(frozen=True)
class Benchmark:
    """One split of a benchmark.

    ``concepts``: everybody the model is taught, by id, with the images it is taught with. ``forget``, ``retain``: their
    ids. ``taught``: the training questions. ``shots``: entries from which few-shot examples are drawn.
    ``names``: by id, of celebrities too, as far as the source tells. ``beside``: entries that only a benchmark's own
    code asks, as CLEAR's of people who are forgotten in this split and stand among the retained.
    """

    name: str
    split: str
    concepts: Mapping[str, Concept]
    forget: tuple[str, ...]
    retain: tuple[str, ...]
    entries: tuple[Entry, ...]
    taught: tuple[Question, ...] = ()
    shots: tuple[Entry, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict, compare=False)
    beside: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for entry in (*self.entries, *self.beside):
            if entry.id in seen:
                raise UnseeError(f"{self.name}: the id {entry.id} stands twice. Download the benchmark again.")
            seen.add(entry.id)

    @cached_property
    def groups(self) -> dict[str, list[Entry]]:
        """Entries by group, in their order."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).append(entry)
        return found

    def of(self, ids: Sequence[str]) -> list[Concept]:
        return [self.concepts[i] for i in ids]
