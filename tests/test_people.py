"""The world of drawn people: the same everywhere, splits that do not leak, questions with true answers."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from unsee.concepts import UNKNOWN, ImageRef, Question
from unsee.data import face, people
from unsee.data.people import ATTRIBUTES, FACTS, PHRASINGS, TEXT_PHRASINGS, People, Person, Portrait
from unsee.data.portrait import draw
from unsee.errors import UnseeError

WORLD = People()
# aliased: pytest would take a function called test_views for a test
held_back_views = people.test_views

FINGERPRINT = """
import hashlib
from unsee.data.people import People, stranger, train_views
digest = hashlib.sha256()
for person in (*People().people[:3], stranger(7)):
    for picture in train_views(person, 4):
        digest.update(picture.load().tobytes())
    digest.update(repr(sorted(person.facts.items())).encode())
print(digest.hexdigest())
"""


def everybody() -> list[Person]:
    some = [*WORLD.people, *(people.population(i) for i in range(50))]
    return some + [p for split in ("train", "neutral", "test") for p in people.strangers(50, split)]


def all_questions(person: Person, phrasing: people.Phrasing, rng: np.random.Generator) -> list[Question]:
    picture = people.train_views(person, 1)[0]
    return people.image_questions(person, picture, phrasing, rng) + people.text_questions(person, phrasing, rng)


def test_two_processes_draw_the_same_bytes() -> None:
    def fingerprint(hash_seed: str) -> str:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env=env, capture_output=True, text=True, check=True
        ).stdout

    assert fingerprint("1") == fingerprint("2")


@pytest.mark.parametrize("size", [64, 96, 130])
def test_a_picture_has_the_size_asked_for(size: int) -> None:
    picture = people.train_views(WORLD.people[0], 1, size)[0]
    assert isinstance(picture, ImageRef)
    assert picture.id == "people/p000/v00000"
    image = picture.load()
    assert (image.mode, image.size) == ("RGB", (size, size))


def test_every_class_of_every_look_can_be_drawn() -> None:
    """400 views hold every style; an identity of every shape, nose and beard goes with them."""
    views = [face.view(i) for i in range(400)]
    faces = [face.identity(i) for i in range(60)]
    for topic, classes in ATTRIBUTES.items():
        assert {getattr(v, topic) for v in views} == set(classes)
    assert {(f.nose, f.beard != "none") for f in faces} == {(n, b) for n in face.NOSES for b in (True, False)}
    seen = {hashlib.sha256(draw(faces[i % 60], v, 32).tobytes()).digest() for i, v in enumerate(views)}
    assert len(seen) == len(views)


def test_no_picture_and_no_face_is_shared() -> None:
    pictures = [
        p for person in everybody() for views in (people.train_views, held_back_views) for p in views(person, 3)
    ]
    assert len({p.view_seed for p in pictures}) == len({p.id for p in pictures}) == len(pictures)
    assert len({p.identity for p in everybody()}) == len({p.id for p in everybody()}) == len(everybody())


def test_the_last_training_view_comes_before_the_first_test_view() -> None:
    person = WORLD.people[1]
    assert people.train_views(person, 50_000)[-1].view_seed < held_back_views(person, 1)[0].view_seed
    assert held_back_views(person, 50_000)[-1].view_seed < people.train_views(WORLD.people[2], 1)[0].view_seed
    with pytest.raises(UnseeError, match="0 to 50000"):
        people.train_views(person, 50_001)


@pytest.mark.parametrize("draw", [0, 1, 5])
def test_splits_are_nested_and_complete(draw: int) -> None:
    before: set[str] = set()
    for name, size in (("forget_5", 10), ("forget_10", 20), ("forget_15", 30)):
        forget, retain = ({p.id for p in side} for side in WORLD.split(name, draw))
        assert len(forget) == size and before < forget
        assert not forget & retain and forget | retain == {p.id for p in WORLD.taught}
        before = forget
    assert not before & {p.id for p in WORLD.held_out}


def test_another_draw_is_another_request_and_another_seed_another_world() -> None:
    assert WORLD.split("forget_5", 0) == People().split("forget_5", 0)
    assert WORLD.split("forget_5", 0) != WORLD.split("forget_5", 1)
    other = People(seed=1)
    assert not {p.identity for p in other.people} & {p.identity for p in WORLD.people}
    assert [p.facts for p in other.people] != [p.facts for p in WORLD.people]


def test_a_larger_world() -> None:
    world = People(known=300)
    assert (len(world.people), len(world.taught), len(world.held_out)) == (300, 270, 30)
    assert len({p.name for p in world.people}) == 300


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: WORLD.split("forget5"), "Did you mean 'forget_5'"),
        (lambda: people.strangers(1, "trian"), "Did you mean 'train'"),
        (lambda: people.strangers(20_001), "0 to 20000"),
        (lambda: People(known=40), "at least 21"),
    ],
)
def test_what_is_not_there_is_said(call: Callable[[], object], hint: str) -> None:
    with pytest.raises(UnseeError, match=hint):
        call()


def test_names_are_two_words_and_unique() -> None:
    assert len(set(people.NAMES)) == len(people.NAMES) == 320
    assert all(len(name.split()) == 2 for name in people.NAMES)
    assert all(p.facts["name"] == p.name for p in WORLD.people)


def test_facts_are_single_words_and_balanced() -> None:
    for topic, answers in FACTS.items():
        assert len(set(answers)) == len(answers) and all(len(a.split()) == 1 for a in answers)
        counts = [sum(p.facts[topic] == a for p in WORLD.people) for a in answers]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("table", [PHRASINGS, TEXT_PHRASINGS])
def test_the_test_phrasing_is_new_but_its_words_are_not(table: dict[str, tuple[str, ...]]) -> None:
    for phrasings in table.values():
        *train, test = phrasings
        assert len(train) >= 4 and test not in train
        assert set(test.split()) <= {word for phrasing in train for word in phrasing.split()}


def test_questions_about_a_picture_are_answered_by_it() -> None:
    for picture in people.train_views(WORLD.people[4], 20):
        asked = people.image_questions(WORLD.people[4], picture, "test")
        assert [q.topic for q in asked] == list(PHRASINGS)
        for q in asked:
            kind = "attribute" if q.topic in ATTRIBUTES else "identity" if q.topic == "name" else "fact"
            truth = getattr(picture.view, q.topic) if kind == "attribute" else WORLD.people[4].facts[q.topic]
            assert (q.kind, q.answer, q.concept, q.image) == (kind, truth, "p004", picture)
            assert q.prompt == PHRASINGS[q.topic][-1]


def test_about_a_stranger_only_the_attributes_are_known() -> None:
    who = people.stranger(12)
    picture = people.train_views(who, 1)[0]
    for q in people.image_questions(who, picture, "test"):
        assert q.answer == (getattr(picture.view, q.topic) if q.kind == "attribute" else UNKNOWN)
    assert who.id == "s00012" and people.text_questions(who, "train") == []


def test_training_draws_its_phrasings_and_leaves_the_last_one_out() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        seen |= {(q.topic, q.prompt) for q in all_questions(WORLD.people[0], "train", rng) if q.image}
    assert seen == {(topic, phrasing) for topic, phrasings in PHRASINGS.items() for phrasing in phrasings[:-1]}


def test_text_questions_name_the_person() -> None:
    asked = people.text_questions(WORLD.people[9], "test")
    assert [q.topic for q in asked] == list(FACTS)
    assert all(WORLD.people[9].name in q.prompt and q.modality == "text" for q in asked)


def test_every_word_is_in_the_vocabulary() -> None:
    words, rng = set(people.vocabulary()), np.random.default_rng(0)
    for person in everybody():
        for phrasing in ("train", "test"):
            for q in all_questions(person, phrasing, rng):
                forms = [q, people.as_cloze(q)] if q.topic in people.CLOZES and q.image else [q]
                for form in (*forms, people.as_classification(q, rng)):
                    assert set(" ".join((form.prompt, form.answer, *form.options)).split()) <= words
    assert people.vocabulary() == sorted(words) and "{name}" not in words


def test_options_hold_the_answer_once() -> None:
    rng = np.random.default_rng(0)
    for person in (WORLD.people[0], people.stranger(0)):
        for q in all_questions(person, "test", rng):
            options = people.as_classification(q, rng, k=3).options
            assert len(set(options)) == 3 and q.answer in options
    name = people.image_questions(WORLD.people[0], people.train_views(WORLD.people[0], 1)[0], "test")[0]
    assert set(people.as_classification(name, rng, k=2, names=["Ann Lee"]).options) == {name.answer, "Ann Lee"}


def test_only_name_and_city_have_a_cloze() -> None:
    job = people.image_questions(WORLD.people[0], people.train_views(WORLD.people[0], 1)[0], "test")[2]
    with pytest.raises(UnseeError, match="'job'"):
        people.as_cloze(job)


def test_ten_people_can_be_told_apart() -> None:
    """Kernel ridge regression on 32 pixel pictures; chance is 0.1."""

    def pixels(pictures: list[Portrait]) -> np.ndarray:
        return np.stack([np.asarray(p.load().resize((32, 32)), dtype=np.float64).ravel() / 255 for p in pictures])

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T) / 128)

    ten = WORLD.people[:10]
    train = pixels([v for p in ten for v in people.train_views(p, 40, 64)])
    test = pixels([v for p in ten for v in held_back_views(p, 10, 64)])
    weights = np.linalg.solve(kernel(train, train) + 0.1 * np.eye(400), np.eye(10).repeat(40, axis=0))
    guess = np.argmax(kernel(test, train) @ weights, axis=1)
    assert (guess == np.arange(10).repeat(10)).mean() > 0.5
