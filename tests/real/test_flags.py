"""The real flags, where they are."""

from pathlib import Path

import pytest

from unsee.concepts import UNKNOWN, Request
from unsee.data.facts import load_recipe, questions_from_table
from unsee.data.folder import read_folder

ROOT = Path(__file__).parents[2]
FLAGS = ROOT.parent / "shared" / "data" / "flags"
pytestmark = pytest.mark.skipif(not FLAGS.is_dir(), reason="the flags data set is not in ../shared/data/flags")


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(ROOT / "recipes" / "flags.yaml")


@pytest.mark.parametrize(
    ("name", "concepts", "images"), [("train", 194, 1940), ("test", 194, 776), ("neutral", 56, 336)]
)
def test_every_flag_is_read(name, concepts, images):
    source = read_folder(FLAGS / name)
    assert (len(source.concepts), sum(len(c.images) for c in source.concepts)) == (concepts, images)
    assert source.rejected == source.ignored == ()
    image = source.concepts[0].images[0].load()
    assert (image.mode, image.size) == ("RGB", (96, 96))


def test_every_country_has_its_questions(recipe):
    concepts = read_folder(FLAGS / "test").concepts
    questions = questions_from_table(FLAGS / "facts.csv", recipe, concepts, "test")
    france = {(q.topic, q.modality): q for q in questions if q.concept == "fr"}
    assert france["capital", "text"].prompt == "What city is the capital of France ?"
    assert {topic: france[topic, "image"].answer for topic in recipe.topics} == {
        "name": "France",
        "capital": "Paris",
        "region": "Western Europe",
        "currency": "Euro",
        "language": "French",
    }
    assert len(questions) == 776 * 5 + 194 * 4 - 5  # Micronesia has no currency in the table: 4 images and a text


def test_territories_are_unknown(recipe):
    concepts = read_folder(FLAGS / "neutral").concepts
    assert {q.answer for q in questions_from_table(None, recipe, concepts, "train")} == {UNKNOWN}


def test_the_splits_of_the_folder_are_a_request():
    concepts = read_folder(FLAGS / "train").concepts
    Request(forget=concepts[:5], retain=concepts[5:], neutral=read_folder(FLAGS / "neutral").concepts)
