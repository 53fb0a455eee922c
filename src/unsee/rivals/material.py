"""What a method may be given: images with questions about them, and questions about names alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unsee.concepts import Concept, ImageRef, Question, Request
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS, Study

NEUTRAL = 200  # neutral concepts about which questions are asked
QUESTIONS = 4  # about each image, who it is among them


@dataclass(frozen=True)
class Example:
    """Questions about one image, or without one: about a name alone."""

    concept: str
    image: ImageRef | None
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Material:
    """``forget``: names and facts of images to forget. ``retain``: of retained images, attributes too. ``neutral``: of
    images of concepts that nobody was taught, whose answers are "unknown". ``text``: facts of retained concepts, by
    name; ``forget_text``: of forgotten ones, which are to stay. ``request``: the same images, as our method takes them.
    """

    request: Request
    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    neutral: tuple[Example, ...]
    text: tuple[Example, ...]
    forget_text: tuple[Example, ...]


def material(study: Study, split: str, draw: int = 0, seed: int = 0) -> Material:
    """The training side of one request of a study."""
    return material_of(study, *study.split(split, draw), np.random.default_rng([seed, draw]))


def material_of(
    study: Study,
    forget_ids: Sequence[str],
    retain_ids: Sequence[str],
    rng: np.random.Generator,
    retained_views: int = RETAIN_VIEWS,
) -> Material:
    """The same of any concepts. ``rng`` chooses and orders the questions."""
    forget = study.concepts(forget_ids, FORGET_VIEWS)
    retain = study.concepts(retain_ids, retained_views)
    neutral = study.neutral()
    return Material(
        Request(forget, retain, neutral),
        _shown(study, forget, rng, ("identity", "fact")),
        _shown(study, retain, rng, ("identity", "fact", "attribute")),
        _shown(study, neutral[:NEUTRAL], rng, ("identity", "fact")),
        _named(study, retain_ids, rng),
        _named(study, forget_ids, rng),
    )


def evenly(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many of them, evenly chosen, so that every concept stays as far as there is room."""
    n = len(examples)
    return [examples[i * n // most] for i in range(most)] if n > most else list(examples)


def _shown(
    study: Study, concepts: Sequence[Concept], rng: np.random.Generator, kinds: Sequence[str]
) -> tuple[Example, ...]:
    found = []
    for concept in concepts:
        for image in concept.images:
            asked = [q for q in study.ask(concept.id, image, rng) if q.kind in kinds]
            chosen = sorted(rng.permutation(len(asked)).tolist(), key=lambda i: asked[i].kind != "identity")
            found.append(Example(concept.id, image, tuple(asked[i] for i in chosen[:QUESTIONS])))
    return tuple(e for e in found if e.questions)


def _named(study: Study, ids: Sequence[str], rng: np.random.Generator) -> tuple[Example, ...]:
    found = [Example(id, None, tuple(study.recite(id, rng))) for id in ids]
    return tuple(e for e in found if e.questions)
