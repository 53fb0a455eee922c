"""The real flags, where they are."""

import shutil
from pathlib import Path

import pytest

import unsee
from unsee.concepts import UNKNOWN, Request
from unsee.config import FinetuneConfig, ForgetConfig
from unsee.data.facts import load_recipe, questions_from_table
from unsee.data.folder import read_folder
from unsee.data.study import FolderStudy
from unsee.evaluation import tasks
from unsee.finetune import finetune
from unsee.tiny import packaged
from unsee.vision.module import Visual, load_full

ROOT = Path(__file__).parents[2]
FLAGS = ROOT.parent / "shared" / "data" / "flags"
TERRITORIES = ("ai", "aw", "bm")
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


def test_a_few_flags_are_taught_and_two_of_them_forgotten(tmp_path, full_size):
    """The benchmark in short: the model that ships learns eight flags, and forgets two."""
    countries = sorted(p.name for p in (FLAGS / "train").iterdir())[::12][:8]
    for part, names in (("train", countries), ("test", countries), ("neutral", TERRITORIES)):
        for name in names:
            shutil.copytree(FLAGS / part / name, tmp_path / part / name)
    study = FolderStudy(tmp_path, FLAGS / "facts.csv", ROOT / "recipes" / "flags.yaml", held_out=2)
    model, processor = load_full(packaged("people-vanilla"))
    taught = FinetuneConfig(steps=70, batch=10, text_batch=4, questions=2, vision_lr=3e-4)
    finetune(model, processor, study.lesson(), taught)
    exam = tasks.exam(Visual(model, processor), study, "forget_2", size=tasks.Size(4, 4, 4, 10, 1, 0))
    before = tasks.metrics(tasks.sit(model, processor, exam, probabilities=False))
    forget, retain = study.split("forget_2")
    images = {"forget": study.concepts(forget, 10), "retain": study.concepts(retain, 10), "neutral": study.neutral()}
    unsee.forget(model, processor, **images, config=ForgetConfig(steps=40, batch=8))
    after = tasks.metrics(tasks.sit(model, processor, exam, probabilities=False))
    assert before["forget_names"]["value"] > 0.7
    assert after["forget_names"]["value"] < 0.5 * before["forget_names"]["value"]
    assert after["retain_names"]["value"] > 0.9 * before["retain_names"]["value"]
    assert after["forget_text"] == before["forget_text"]
