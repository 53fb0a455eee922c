"""The embedded people written as MLLMU-Bench, CLEAR and UMU-Bench, read back, taught and laid out in folders."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from tests.exports import made, plain

from unsee.concepts import Concept
from unsee.data.export import FILE, export
from unsee.data.folder import read_folder
from unsee.data.images import load_all
from unsee.data.people import People
from unsee.data.sources import SOURCES, folders, lesson, open_benchmark
from unsee.data.study import PeopleStudy
from unsee.data.world import world
from unsee.errors import UnseeError

FORMATS = sorted(SOURCES)


@pytest.fixture(params=FORMATS)
def name(request) -> str:
    return request.param


def split_of(name: str) -> str:
    """The 10 % split."""
    return list(SOURCES[name].splits)[-1 if name == "clear" else 1]


def test_nothing_is_lost(name) -> None:
    folder, layout = made(name)
    assert layout.benchmarks.keys() == SOURCES[name].splits.keys()
    for split, written in layout.benchmarks.items():
        assert plain(open_benchmark(name, str(folder), split)) == plain(written)


def test_nothing_is_lost_of_another_world(tmp_path) -> None:
    written = export("umu", tmp_path / "other", 27, 1, seed=3).benchmarks["forget_15"]
    read = open_benchmark("umu", str(tmp_path / "other"), "forget_15")
    assert plain(read) == plain(written)
    assert plain(read)["concepts"] != plain(open_benchmark("umu", str(made("umu")[0]), "forget_15"))["concepts"]


def test_the_same_bytes_are_one_image(name) -> None:
    read = open_benchmark(name, str(made(name)[0]), split_of(name))
    images = [e.question.image for e in read.entries if e.question.image]
    images += [image for concept in read.concepts.values() for image in concept.images]
    assert len({id(i) for i in images}) == len({i.id for i in images}) == len({i.bytes() for i in images}) < len(images)


def test_every_group_and_task_is_there() -> None:
    found = {n: {(e.group, e.task) for e in open_benchmark(n, str(made(n)[0]), split_of(n)).entries} for n in FORMATS}
    three = ("classification", "cloze", "generation")
    assert found["mllmu"] == {(g, t) for g in ("forget", "retain", "test", "real") for t in three}
    assert found["umu"] == {(g, t) for g in ("forget", "retain", "real") for t in three}
    kept = {(g, t) for g in ("forget", "retain") for t in ("caption", "name", "qa")}
    assert found["clear"] == kept | {("faces", "name"), ("world", "qa")}


def test_words_stand_apart_from_signs(name) -> None:
    """The embedded models' tokenizer knows whole words."""
    written = made(name)[1].benchmarks[split_of(name)]
    asked = [*written.taught, *(e.question for e in written.entries)]
    own = {p for p in ("caption", "name") if name == "clear"}  # CLEAR's own prompts are as published
    texts = [q.answer for q in asked] + [e.question.prompt for e in written.entries if e.task not in own]
    assert not [text for text in texts if re.search(r"\w[?.,]", text)]


def test_the_people_are_those_that_the_embedded_models_know() -> None:
    study, exported = PeopleStudy(), world(200, 1, 0)
    for percent in (5, 10, 15):
        assert {p.id for p in exported.forget(percent)} == set(study.split(f"forget_{percent}")[0])
    by_id = {p.id: p for p in People().people}
    assert all(by_id[p.id] == p for p in (*exported.people, *exported.celebrities))
    few = world(20, 1, 0)
    assert [len(few.forget(percent)) for percent in (5, 10, 15)] == [1, 2, 3]
    assert {p.id for p in few.forget(5)} < {p.id for p in few.forget(15)} <= set(study.split("forget_5")[0])


def test_the_same_command_writes_the_same_bytes(tmp_path) -> None:
    export("umu", tmp_path / "again", 20, 2)
    for file in sorted(made("umu")[0].glob(f"*/{FILE}")):
        assert file.read_bytes() == (tmp_path / "again" / file.parent.name / FILE).read_bytes()


@pytest.mark.parametrize(
    ("name", "known", "views", "said"),
    [
        ("mlmu", 20, 2, "Did you mean 'mllmu'"),
        ("umu", 19, 2, "19 people to export. Allowed: 20 to 200"),
        ("umu", 201, 2, "Allowed: 20 to 200"),
        ("umu", 20, 0, "0 views of a person to export"),
    ],
)
def test_what_cannot_be_exported(tmp_path, name, known, views, said) -> None:
    with pytest.raises(UnseeError, match=re.escape(said)):
        export(name, tmp_path / "out", known, views)
    assert not list(tmp_path.iterdir())


def test_a_lesson_shows_everybody_but_those_left_out(name) -> None:
    read, rng = open_benchmark(name, str(made(name)[0]), split_of(name)), np.random.default_rng(0)
    whole, gold = lesson(read), lesson(read, without=read.forget)
    for taught in (whole, gold):
        asked = [(image, taught.ask(i, rng)) for i, image in enumerate(taught.images)]
        assert all(questions and all(q.image is image for q in questions) for image, questions in asked)
    shown = {q.concept for i in range(len(gold.images)) for q in gold.ask(i, rng)}
    assert shown == set(read.retain) and len(whole.images) > len(gold.images)
    said = [q for t in range(whole.texts) for q in whole.recite(t, rng)]
    assert all(q.image is None for q in said)
    assert whole.texts == gold.texts == (0 if name == "mllmu" else len(read.concepts))
    silent = lesson(read, without=read.forget, words=False)
    heard = {q.concept for t in range(silent.texts) for q in silent.recite(t, rng)}
    assert heard == (set(read.retain) if silent.texts else set())
    assert sum(len(whole.ask(i, rng)) for i in range(len(whole.images))) + len(said) == len(read.taught)


def test_a_lesson_is_what_finetune_takes() -> None:
    from unsee.config import FinetuneConfig
    from unsee.finetune import finetune
    from unsee.tiny import packaged
    from unsee.vision.module import load_full

    read = open_benchmark("umu", str(made("umu")[0]), "forget_10")
    model, processor = load_full(packaged("people-vanilla"))
    history = finetune(model, processor, lesson(read), FinetuneConfig(steps=1, batch=2, text_batch=2, bf16=False))
    assert history[0]["image"] > 0 and history[0]["text"] > 0


def test_the_embedded_models_know_the_exported_people() -> None:
    """Vanilla answers about the forgotten, and gold, who never saw them, only what it is asked by name."""
    from unsee.evaluation import answer, score
    from unsee.tiny import packaged
    from unsee.vision.module import Visual, load_full

    read = open_benchmark("mllmu", str(made("mllmu")[0]), "forget_10")
    asked = [e.question for e in read.entries if e.group in ("forget", "test") and e.task == "generation"]
    right = {}
    for name in ("people-vanilla", "people-gold"):
        model, processor = load_full(packaged(name))
        visual = Visual(model, processor)
        seen = answer.look(model, processor, answer.open_images(visual, asked, load_all))
        given = answer.answers(model, processor, asked, seen)
        right[name] = {
            mode: np.mean([score.correct(q, a) for q, a in zip(asked, given, strict=True) if q.modality == mode])
            for mode in ("image", "text")
        }
    assert right["people-vanilla"]["image"] > 0.9 and right["people-gold"]["image"] < 0.2
    assert right["people-vanilla"]["text"] > 0.9 and right["people-gold"]["text"] > 0.9


def test_folders_for_a_request(name, tmp_path) -> None:
    read = open_benchmark(name, str(made(name)[0]), split_of(name))
    root = folders(read, tmp_path / "out")
    for group, ids in (("forget", read.forget), ("retain", read.retain)):
        found = read_folder(root / group).concepts
        assert {c.id for c in found} == set(ids)
        assert all(len(c.images) > 1 for c in found)
    real = {c.id for c in read_folder(root / "real").concepts}
    assert real == {e.question.concept for e in read.entries if e.group in ("real", "faces")}
    first = read.concepts[read.forget[0]]
    assert (
        read_folder(root / "forget").concepts[sorted(read.forget).index(first.id)].images[0].load()
        == first.images[0].load()
    )


@pytest.mark.parametrize("id", ["../away", "a/b", ".hidden", "a\\b", "a\u202eb"])
def test_an_id_cannot_lead_out_of_the_folder(tmp_path, id) -> None:
    read = open_benchmark("umu", str(made("umu")[0]), "forget_10")
    image = read.concepts[read.forget[0]].images
    with pytest.raises(UnseeError, match="cannot name a folder"):
        folders(replace(read, concepts={id: Concept(id, image)}, forget=(id,), retain=()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_everybody_has_a_name(name) -> None:
    folder, layout = made(name)
    split, benchmark = next(iter(layout.benchmarks.items()))
    names = open_benchmark(name, str(folder), split).names
    known = {p.id: p.name for p in People().people}
    known |= {name: name for name in known.values()}
    assert {id: names[id] for id in benchmark.concepts} == {id: known[id] for id in benchmark.concepts}
