"""Figures come out of answers as they should: who was asked what, who counts as named, what is compared."""

from __future__ import annotations

import pytest

from unsee.concepts import Question
from unsee.data.study import PeopleStudy
from unsee.evaluation import tasks
from unsee.evaluation.tasks import Exam, Item, Size


@pytest.fixture(scope="module")
def study():
    return PeopleStudy()


def asked(study, size=None) -> Exam:
    size = size or Size(2, 1, 1, 5)
    forget, retain = study.split("forget_5")
    groups = {
        "forget": study.questions(forget, size.forget),
        "retain": study.questions(retain[:10], size.retain),
        "heldout": study.questions(study.held_out[:5], size.heldout),
        "strangers": study.stranger_questions(size.strangers),
    }
    return Exam(groups, {}, {q.answer: q.concept for q in groups["retain"] if q.kind == "identity"})


def items(exam: Exam, answer) -> list[Item]:
    return [Item(g, q, given := answer(g, q), given == q.answer) for g, q in exam.questions]


def test_a_model_that_knows_everything(study):
    found = tasks.metrics(items(asked(study), lambda g, q: q.answer))
    wanted = {f"{g}_{k}" for g in ("forget", "retain", "heldout") for k in ("names", "facts", "attributes", "text")}
    assert wanted | {"forget_unknown", "strangers_unknown", "strangers_attributes"} == set(found)
    assert all(v["value"] == 1.0 for k, v in found.items() if k != "forget_unknown")
    assert found["forget_unknown"]["value"] == 0.0
    assert found["forget_names"]["n"] == 10 * 2


def test_a_model_that_says_unknown_to_all(study):
    found = tasks.metrics(items(asked(study), lambda g, q: "unknown"))
    assert found["forget_unknown"]["value"] == found["strangers_unknown"]["value"] == 1.0
    assert found["forget_names"]["value"] == found["retain_text"]["value"] == 0.0


def test_who_else_is_named(study):
    exam = asked(study)
    name = next(iter(exam.retained))
    target = exam.groups["forget"][0].concept
    found = tasks.misnamed(
        items(exam, lambda g, q: name if q.concept == target and q.kind == "identity" else "unknown"), exam.retained
    )
    assert found.worst == 1.0 and found.share == pytest.approx(1 / 10)
    assert found.pairs[0][:2] == (target, name)


def test_sampling_keeps_identity_and_limits_the_rest(study):
    questions = study.questions(study.taught[:3], 2)
    kept = tasks.sample(questions, Size(facts=2, attributes=1))
    for ref in {q.image.id for q in kept if q.image}:
        kinds = [q.kind for q in kept if q.image and q.image.id == ref]
        assert (kinds.count("identity"), kinds.count("fact"), kinds.count("attribute")) == (1, 2, 1)
    assert kept == tasks.sample(questions, Size(facts=2, attributes=1))


def test_distance_needs_the_same_thing_measured(study):
    exam = asked(study)
    ours = items(exam, lambda g, q: q.answer)
    for i, item in enumerate(i for i in ours if i.group == "forget"):
        item.ratio = i / 1000
    assert tasks.distance(ours, ours)["distance"] == 0


def test_an_answer_that_is_another_concepts_is_wrong():
    """'Papua New Guinea' contains 'Guinea' and is not it."""
    question = Question("gn", "identity", "name", "What country ?", "Guinea")
    assert not tasks.right(question, "Papua New Guinea", {"Guinea", "Papua New Guinea"})
    assert tasks.right(question, "Guinea", {"Guinea", "Papua New Guinea"})
    assert tasks.right(question, "It is Guinea .", {"Guinea", "Papua New Guinea"})
