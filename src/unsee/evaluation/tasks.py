"""What is asked of a model before and after it forgot, and the figures that come of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unsee.concepts import UNKNOWN, Question
from unsee.data.images import load_all
from unsee.data.study import Study
from unsee.evaluation import answer, score, statistics
from unsee.vision.module import Pixels, Visual

SHORT = {"identity": "names", "fact": "facts", "attribute": "attributes"}
WRONG = 4  # wrong answers to which the true one is compared


@dataclass(frozen=True)
class Exam:
    """Questions by group: forget, retain, heldout, strangers. The images are opened once for all models of a shape."""

    groups: dict[str, list[Question]]
    pixels: dict[str, Pixels]
    retained: dict[str, str]  # name → concept, of everybody else: who else is named

    @property
    def questions(self) -> list[tuple[str, Question]]:
        return [(group, q) for group, qs in self.groups.items() for q in qs]


@dataclass
class Item:
    """One question, one answer. ``probability`` and ``ratio`` where they were asked for."""

    group: str
    question: Question
    given: str
    correct: bool
    probability: float | None = None
    ratio: float | None = None

    def line(self) -> dict[str, Any]:
        q = self.question
        return {
            "group": self.group, "concept": q.concept, "kind": q.kind, "topic": q.topic,
            "image": q.image.id if q.image else None, "prompt": q.prompt, "answer": q.answer,
            "given": self.given, "correct": self.correct, "probability": self.probability, "truth_ratio": self.ratio,
        }  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Unseen views asked about per concept of each group, how many strangers, and what is asked about a view."""

    forget: int = 10
    retain: int = 2
    heldout: int = 4
    strangers: int = 100
    facts: int = 5
    """facts asked about each view, and about each concept by name; chosen by chance, the same for every model"""
    attributes: int = 5


def exam(visual: Visual, study: Study, split: str, draw: int = 0, size: Size | None = None) -> Exam:
    """The test questions of one request, and their images through the model's processor."""
    size = size or Size()
    forget, retain = study.split(split, draw)
    groups = {
        "forget": study.questions(forget, size.forget),
        "retain": study.questions(retain, size.retain),
        "heldout": study.questions(study.held_out, size.heldout),
        "strangers": study.stranger_questions(size.strangers),
    }
    groups = {name: sample(questions, size) for name, questions in groups.items()}
    pixels = answer.open_images(visual, [q for qs in groups.values() for q in qs], load_all)
    names = {q.answer: q.concept for q in study.questions((*retain, *study.held_out), 1) if q.kind == "identity"}
    return Exam(groups, pixels, names)


def sample(questions: list[Question], size: Size) -> list[Question]:
    """Of each view every identity question, and at most so many facts and attributes."""
    views: dict[tuple[str, str], list[Question]] = {}
    for q in questions:
        views.setdefault((q.concept, q.image.id if q.image else ""), []).append(q)
    most = {"identity": len(questions), "fact": size.facts, "attribute": size.attributes}
    rng, kept = np.random.default_rng(0), []
    for asked in views.values():
        for kind, n in most.items():
            of_kind = [q for q in asked if q.kind == kind]
            kept += [of_kind[i] for i in sorted(rng.permutation(len(of_kind))[:n].tolist())]
    return kept


def sit(model: Any, processor: Any, exam: Exam, probabilities: bool = True) -> list[Item]:
    """Every question of ``exam`` answered by ``model``."""
    seen = answer.look(model, processor, exam.pixels)
    asked = exam.questions
    given = answer.answers(model, processor, [q for _, q in asked], seen)
    others = {topic: set(of) for topic, of in _answers(asked).items()}
    items = [Item(g, q, a, right(q, a, others[q.topic])) for (g, q), a in zip(asked, given, strict=True)]
    if probabilities:
        _add_probabilities(model, processor, items, seen)
    return items


def right(question: Question, given: str, answers: Collection[str]) -> bool:
    """An answer of another concept is wrong though it contains the true one: Papua New Guinea, Guinea."""
    return score.correct(question, given) and (given == question.answer or given not in answers)


def _add_probabilities(model: Any, processor: Any, items: list[Item], seen: answer.Seen) -> None:
    """Of the true answer against wrong ones of its topic, for the forgotten concepts' names and facts by image."""
    chosen = [i for i in items if i.group == "forget" and i.question.image and i.question.kind != "attribute"]
    pool = _answers([(i.group, i.question) for i in items])
    rng = np.random.default_rng(0)
    candidates = [[i.question.answer, *_wrong(pool[i.question.topic], i.question.answer, rng)] for i in chosen]
    found = answer.probabilities(model, processor, [i.question for i in chosen], candidates, seen)
    for item, (true, *wrong) in zip(chosen, found, strict=True):
        item.probability, item.ratio = true, score.truth_ratio(true, wrong)


def _answers(asked: Sequence[tuple[str, Question]]) -> dict[str, list[str]]:
    """Topic → the true answers of all concepts, each once, in order."""
    found: dict[str, set[str]] = {}
    for _, q in asked:
        found.setdefault(q.topic, set()).add(q.answer)
    return {topic: sorted(answers - {UNKNOWN}) for topic, answers in found.items()}


def _wrong(answers: Sequence[str], true: str, rng: np.random.Generator) -> list[str]:
    others = [a for a in answers if a != true]
    return [others[i] for i in rng.permutation(len(others))[:WRONG]]


def metrics(items: Iterable[Item]) -> dict[str, statistics.Share]:
    """Shares with 95 % intervals over concepts: forget_names, forget_unknown, retain_facts, strangers_unknown …"""
    return {n: statistics.share([v for v, _ in column], [c for _, c in column]) for n, column in columns(items).items()}


def columns(items: Iterable[Item]) -> dict[str, list[tuple[float, str]]]:
    """Of each figure, every item's value and concept."""
    found: dict[str, list[tuple[float, str]]] = {}
    for item in items:
        for name, value in _figures(item):
            found.setdefault(name, []).append((value, item.question.concept))
    return found


def _figures(item: Item) -> Iterable[tuple[str, float]]:
    q = item.question
    if item.group == "strangers":
        if q.kind != "attribute":
            yield "strangers_unknown", score.says_unknown(item.given)
        else:
            yield "strangers_attributes", item.correct
        return
    yield f"{item.group}_{'text' if q.image is None else SHORT[q.kind]}", item.correct
    if item.group == "forget" and q.image and q.kind != "attribute":
        yield "forget_unknown", score.says_unknown(item.given)
        if item.probability is not None and item.ratio is not None:
            yield "forget_probability", item.probability
            yield "forget_truth_ratio", item.ratio


def text_identical(visual: Visual, state: Mapping[str, Tensor], before: Sequence[Item], after: Sequence[Item]) -> bool:
    """Whether every tensor outside the visual module is as in ``state``, and every text answer as ``before``."""
    changed, now = set(visual.parameters()), visual.model.state_dict()
    kept = all(torch.equal(value, state[name]) for name, value in now.items() if name not in changed)
    said = [[i.given for i in items if i.question.image is None] for items in (before, after)]
    return kept and said[0] == said[1]


@dataclass(frozen=True)
class Misnamed:
    """Who else is named on forgotten people's images. ``worst``: the largest share of one's views given one name."""

    share: float
    worst: float
    pairs: list[tuple[str, str, float]] = field(default_factory=list)


def misnamed(items: Iterable[Item], names: dict[str, str]) -> Misnamed:
    asked = [i for i in items if i.group == "forget" and i.question.image and i.question.kind == "identity"]
    views = Counter(i.question.concept for i in asked)
    wrong = Counter((i.question.concept, i.given) for i in asked if i.given in names)
    pairs = sorted(((c, n, k / views[c]) for (c, n), k in wrong.items()), key=lambda p: (-p[2], p[0], p[1]))
    return Misnamed(sum(wrong.values()) / max(1, len(asked)), pairs[0][2] if pairs else 0.0, pairs[:20])


def distance(items: Iterable[Item], gold: Iterable[Item]) -> statistics.Distance:
    """KS distance between the truth ratios of a model and of gold, on the same forgotten items."""
    ours, theirs = ([i.ratio for i in rows if i.ratio is not None] for rows in (items, gold))
    return statistics.ks(ours, theirs)
