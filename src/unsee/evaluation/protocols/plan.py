"""What a protocol is: what it puts to a model about each entry of a benchmark, and how it scores what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Literal

from unsee.data.benchmark import Benchmark, Entry
from unsee.evaluation import score
from unsee.evaluation.ask import Likelihood, Prompt
from unsee.evaluation.score import State
from unsee.evaluation.table import Cell, Column

Layout = Literal["llava", "chat"]
MAIN = ("accuracy", "rougeL", "recall")  # the score that says how right an answer is: the first that there is
LIKE = 0.5  # ROUGE-L from which a sentence counts as the right one, where nothing published says when it does


@dataclass(frozen=True)
class Setting:
    """How a benchmark is put.

    ``layout``: llava, the published raw text ``USER: … ASSISTANT:``; chat, the model's own format, for other families.
    ``original``: as the published code does it, its faults included (``Deviation``). ``seed``: of all that is chosen by
    chance.
    """

    layout: Layout = "llava"
    original: bool = False
    seed: int = 0

    def chance(self, *of: object) -> Random:
        """A source of chance of its own for ``of``, so that one more question elsewhere changes nothing here."""
        return Random("/".join(map(str, (self.seed, *of))))


@dataclass(frozen=True)
class Ask:
    """One thing put to a model. ``tokens``: of the free answer; 0: none is asked for.

    ``answers``: those whose likelihood is scored, the true one first. ``variant``: tells asks of one entry apart.
    ``each``: the prompt after which each of the answers is scored, where that is not ``prompt`` for all.
    """

    entry: Entry
    prompt: Prompt
    tokens: int
    answers: tuple[str, ...] = ()
    variant: str = ""
    each: tuple[Prompt, ...] = ()


@dataclass(frozen=True)
class Item:
    """What one model answered to one ask. ``scores``: by name. ``state``: None where no free answer was asked for."""

    ask: Ask
    given: str
    likelihoods: tuple[Likelihood, ...]
    scores: Mapping[str, float]

    @property
    def id(self) -> str:
        """The same for every model that was asked this."""
        return f"{self.ask.entry.id}#{self.ask.variant}" if self.ask.variant else self.ask.entry.id

    @property
    def concept(self) -> str:
        return self.ask.entry.question.concept

    @property
    def modality(self) -> str:
        return self.ask.entry.question.modality

    @property
    def main(self) -> float | None:
        """How right the free answer is, from 0 to 1; None: there is none."""
        return next((self.scores[name] for name in MAIN if name in self.scores), None)

    @property
    def right(self) -> bool:
        return (self.main or 0) >= LIKE

    @cached_property
    def state(self) -> State | None:
        """By the protocol's own rule of what is right; see ``unsee.evaluation.score.state``."""
        if self.main is None or self.right:
            return None if self.main is None else "correct"
        if score.degenerate(self.given):
            return "invalid"
        return "refusal" if score.says_unknown(self.given) else "incorrect"


Items = Sequence[Item]


@dataclass(frozen=True)
class Figure:
    """One column of one model: ``values``, item id → (value, concept), to be averaged, or a ``cell`` as it is."""

    column: Column
    values: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    cell: Cell | None = None


@dataclass(frozen=True)
class Deviation:
    """Where a figure is not the published code's. ``published``: what that code does, after "the published code".

    ``here``: what is done instead. ``why``: the reason, in a few words. ``always``: with ``original`` too.
    """

    what: str
    published: str
    here: str
    why: str
    always: bool = False

    def told(self, original: bool) -> str:
        if original and not self.always:
            return f"As published, not mended. {self.what}: the published code {self.published}."
        return f"{self.what}: {self.here}; the published code {self.published}."


@dataclass(frozen=True)
class Protocol:
    """``asks``: all that is put to each model. ``grade``: the scores of one answer, by name.

    ``figures``: of the items of one model, named second among those of all. ``legend``: what its figures mean, and
    what is particular to it; a sentence each. ``deviations``: all places where it departs from the published code.
    """

    asks: Callable[[Benchmark, Setting], list[Ask]]
    grade: Callable[[Ask, str, Sequence[Likelihood], Setting], dict[str, float]]
    figures: Callable[[Mapping[str, Items], str, Setting], list[Figure]]
    legend: tuple[str, ...]
    deviations: tuple[Deviation, ...]

    def notes(self, setting: Setting) -> tuple[str, ...]:
        """What stands below a table."""
        return (*self.legend, *(deviation.told(setting.original) for deviation in self.deviations))


def lettered(options: Sequence[str]) -> str:
    """``A: Paris``, a line each."""
    return "\n".join(f"{chr(ord('A') + place)}: {option}" for place, option in enumerate(options))
