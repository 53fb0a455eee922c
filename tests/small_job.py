"""A small job for tests of rivals: an untaught tiny model, a few people to forget and to keep.

Fixtures: job, of both shapes in turn; llava. A test may change model and material: they are put back after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import small_model

from unsee.concepts import Concept, Question, Request
from unsee.data import people
from unsee.rivals.job import Job
from unsee.rivals.material import Example, Material

SHAPES = ("llava", "qwen2_vl")
VIEWS = 3


def small_material() -> Material:
    """Two people to forget, three to retain, two strangers; three pictures each."""
    known, rng = people.People().people[:5], np.random.default_rng(0)
    groups = (known[:2], known[2:], people.strangers(2, "neutral"))
    shown = [[(p, v) for p in group for v in people.train_views(p, VIEWS)] for group in groups]
    concepts = [tuple(Concept(p.id, people.train_views(p, VIEWS)) for p in group) for group in groups]

    def asked(person: people.Person, view: people.Portrait, kinds: tuple[str, ...]) -> tuple[Question, ...]:
        return tuple(q for q in people.image_questions(person, view, "train", rng) if q.kind in kinds)[:3]

    def named(group: tuple[people.Person, ...]) -> tuple[Example, ...]:
        return tuple(Example(p.id, None, tuple(people.text_questions(p, "train", rng))) for p in group)

    forget, retain, neutral = (
        tuple(Example(p.id, v, asked(p, v, ("identity", "fact"))) for p, v in group) for group in shown
    )
    return Material(Request(*concepts), forget, retain, neutral, named(groups[1]), named(groups[0]))


def small_job(shape: str, checkpoint: Path | None = None) -> Job:
    model, processor = small_model(shape, people.vocabulary())
    return Job(model.eval(), processor, small_material(), checkpoint=checkpoint)


@cache
def only_job(shape: str) -> Job:
    """The one of the session: to build a model takes longer than most tests of it."""
    return small_job(shape)


def lent(job: Job) -> Iterator[Job]:
    material = job.material
    yield job
    job.material = material
    job.restore()
    assert not job.changed()


@pytest.fixture(name="job", params=SHAPES)
def given_job(request) -> Iterator[Job]:
    yield from lent(only_job(request.param))


@pytest.fixture(name="llava")
def given_llava() -> Iterator[Job]:
    yield from lent(only_job("llava"))
