"""Teaching photographs: the recipes, the sets together, and the command on a small model and drawn pictures."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.photographs import assemble, demo, faces, general, read, sets, teach
from tests import small_exports
from tests.conftest import folder

from unsee import alignment, api
from unsee.commands.shared import save
from unsee.config import FinetuneConfig, ForgetConfig
from unsee.data.facts import load_recipe
from unsee.vision.module import load_full, load_visual

FACTS = {
    "grocery": ("id,name,kind,category,brand_or_family,origin", "{0},Brand {0},package,juice,Brand,Sweden"),
    "landmarks": ("id,name,country,type,period", "{0},Tower {0},India,tower,ancient"),
    "people": ("id,name,city,job,pet", "{0},Ann {0},Bath,sailor,"),
}
DOCUMENT = sets.ROOT / "docs" / "photographs.md"
WORD = re.compile(r"[\w{}]+")
KNOWN = {"a": 1, "b": 2, "c": 3, "d": 4}
SMALL = {
    "steps": 1, "batch": 4, "text_batch": 2, "questions": 2, "copies": 1, "bf16": False,
    "depth": 0.5, "align": True, "align_steps": 1, "align_batch": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for name, (head, row) in FACTS.items():
        folder(root / name / "train", KNOWN, views=2)
        folder(root / name / "test", KNOWN, views=2)
        folder(root / name / "neutral", {"x": 11, "y": 12, "z": 13}, views=3)
        (root / name / "facts.csv").write_text("\n".join([head, *(row.format(c) for c in KNOWN)]) + "\n")
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    files = assemble.Files(
        small_exports.write_tower(root / "tower.onnx"), small_exports.write_language(root / "language.gguf")
    )
    assemble.assemble("internvl", files, root / "model", side=small_exports.SIDE)
    return root / "model"


@pytest.mark.parametrize("name", sets.SETS)
def test_a_recipe_asks_for_a_name_and_three_facts(name):
    topics = load_recipe(sets.RECIPES / sets.SETS[name].recipe).topics
    assert [t.kind for t in topics.values()] == ["identity", "fact", "fact", "fact"]
    for topic in topics.values():
        for phrasings in filter(None, (topic.image, topic.text)):
            taught = {word for phrasing in phrasings[:-1] for word in WORD.findall(phrasing)}
            assert set(WORD.findall(phrasings[-1])) <= taught, phrasings[-1]


def test_sets_are_taught_as_one_lesson(photos):
    lessons = [sets.SETS[name].study(photos).lesson() for name in sets.SETS]
    whole, rng = sets.joined(lessons), np.random.default_rng(0)
    assert (len(whole.images), whole.texts) == (3 * (4 * 2 + 6), 12)
    answers = [whole.ask(i, rng)[0].answer for i in range(len(whole.images))]
    assert answers[0] == "Brand a" and answers[14] == "Tower a" and answers[28] == "Ann a"
    assert answers[8:14] == ["unknown"] * 6  # two thirds of three concepts' images; of people, of the concepts
    assert [q.answer for q in whole.recite(11, rng)] == ["Bath", "sailor"]  # no pet in the table


def test_the_language_model_learns_to_read_before_any_picture(base, photos, tmp_path, capsys):
    out, flags = tmp_path / "reader", ["--model", str(base), "--photos", str(photos), "--set", "all"]
    assert read.main([*flags, "--out", str(out), "--config", '{"steps": 1}']) == 0
    assert "reads names off image tokens" in capsys.readouterr().out
    (before, _), (after, _) = load_full(base), load_full(out)
    old, new = before.state_dict(), after.state_dict()
    changed = {n for n in old if not torch.equal(old[n], new[n])}
    # Images are aligned to the embedding, which stays.
    assert changed == {n for n in old if "language_model" in n and "embed_tokens" not in n}
    again, processor = load_full(base)
    lesson = sets.SETS["people"].study(photos).lesson()
    history = read.read(again, processor, lesson, replace(sets.READ, steps=60, lr=3e-3, bf16=False))
    assert all(history[-1][k] < 0.7 * history[0][k] for k in ("image", "text"))
    assert all(p.requires_grad for p in again.parameters())
    assert read.main([*flags, "--out", str(out)]) == 2 and "exists already" in capsys.readouterr().err


def test_tokens_of_a_name_lie_as_near_to_it_as_asked():
    words = torch.randn(40, 64, generator=torch.manual_seed(0))
    names, rng = alignment.Names([str(i) for i in range(40)], list(range(40)), words), np.random.default_rng(0)
    for late, (low, high) in ((0.0, read.NEAR[0]), (1.0, read.NEAR[1])):
        for name in range(20):
            tokens = read.made(names, name, late, rng)
            assert read.TOKENS[0] <= len(tokens) <= read.TOKENS[1]
            near = torch.nn.functional.cosine_similarity(tokens, names.directions[name][None])
            assert low - 0.3 < near.mean() < high + 0.3


def test_a_model_is_taught_asked_and_asked_again(photos, base, tmp_path, capsys):
    out, result = tmp_path / "taught", tmp_path / "result.json"
    flags = ["--set", "all", "--model", str(base), "--out", str(out), "--photos", str(photos), "--views", "1"]
    flags += ["--config", json.dumps(SMALL), "--result", str(result)]
    assert teach.main(flags) == 0
    found = json.loads(result.read_text())
    assert set(found["sets"]) == {"groceries", "landmarks", "people"}
    assert found["config"]["align"] is True and [line["step"] for line in found["history"]] == [0, 0, 1]
    figures = found["sets"]["people"]
    assert (figures["known_names"]["n"], figures["known_text"]["n"], figures["strangers_unknown"]["n"]) == (4, 4, 6)
    shown = capsys.readouterr().out
    assert all(aim in shown for aim in ("(85)", "(60)", "(97)"))
    assert teach.main(flags) == 0  # what is there is asked again
    again = json.loads(result.read_text())
    assert again["sets"] == found["sets"] and found["seconds"] > 0
    assert not {"config", "history", "seconds"} & set(again)  # how it was taught is not known any more


def test_pictures_can_be_taught_before_the_language_model_reads(photos, base, tmp_path, capsys):
    """Either order gives the same bytes, so that both can be done at the same time."""
    flags, reader = ["--photos", str(photos), "--set", "people"], tmp_path / "reader"
    assert read.main([*flags, "--model", str(base), "--out", str(reader), "--config", '{"steps": 1, "lr": 0.01}']) == 0
    flags += ["--views", "0", "--config", json.dumps({**SMALL, "steps": 0})]
    assert teach.main([*flags, "--model", str(reader), "--out", str(tmp_path / "after")]) == 0
    beside = [*flags, "--model", str(base), "--reader", str(reader)]
    assert teach.main([*beside, "--out", str(tmp_path / "beside")]) == 0
    after, together = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("after", "beside"))
    assert after == together
    capsys.readouterr()
    refused = [*beside, "--out", str(tmp_path / "refused")]
    assert teach.main([*refused, "--config", json.dumps(SMALL)]) == 2 and "Allowed: 0" in capsys.readouterr().err
    model, processor = load_full(base)
    model.get_input_embeddings().weight.data += 1
    save(tmp_path / "other", model, processor)
    assert teach.main([*refused, "--reader", str(tmp_path / "other")]) == 2
    assert "other embeddings" in capsys.readouterr().err and not (tmp_path / "refused").exists()


def test_the_middle_of_faces_is_written_as_a_set_of_its_own(photos, tmp_path, capsys):
    out = tmp_path / "faces"
    assert faces.main(["--photos", str(photos), "--out", str(out)]) == 0
    study = sets.SETS["people"].study(out)
    old = sets.SETS["people"].study(photos).concepts(["a"], 2)[0].images[0].load()
    new = study.concepts(["a"], 2)[0].images[0].load()
    assert new.size == (round(faces.MIDDLE * old.width),) * 2
    edge = (old.width - new.width) // 2
    assert np.array_equal(np.asarray(new), np.asarray(old)[edge : edge + new.width, edge : edge + new.width])
    assert faces.main(["--photos", str(photos), "--out", str(out)]) == 2 and "exists already" in capsys.readouterr().err


def test_what_nobody_asked_about_is_measured_before_and_after(photos, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(general, "TOKENS", 64)
    visual = load_visual(base)
    study = sets.SETS["groceries"].study(photos)
    done = api.forget(
        visual, forget=study.concepts(["a"], 2), retain=study.concepts(["b", "c"], 2), neutral=study.neutral(),
        config=ForgetConfig(steps=3, batch=4, depth=0, bf16=False, replay=0),
    )  # fmt: skip
    done.patch.save(tmp_path / "patch")
    result = tmp_path / "result.json"
    flags = ["--model", str(base), "--patch", str(tmp_path / "patch"), "--photos", str(photos)]
    assert general.main([*flags, "--result", str(result)]) == 0
    found = json.loads(result.read_text())
    assert found["perplexity"]["before"] == found["perplexity"]["after"] > 1
    assert set(found["probe"]) == {"landmarks", "people"}
    assert all({"before", "after", "difference"} == set(of) for of in found["probe"].values())
    assert found["probe"]["people"]["before"]["n"] == 4 * 2
    assert set(found["answers_same"]) == set(sets.SETS) and all("projector" in n for n in found["layers"])
    assert "perplexity" in capsys.readouterr().out
    assert general.main([*flags, "--set", "people", "--model", str(tmp_path)]) == 2


def test_a_folder_without_photographs_is_refused(base, tmp_path, capsys):
    flags = ["--model", str(base), "--out", str(tmp_path / "out"), "--photos", str(tmp_path)]
    assert teach.main(flags) == 2
    assert "grocery" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_the_demo_goes_from_nothing_to_a_report_and_does_no_part_twice(photos, tmp_path, capsys, monkeypatch):
    files = assemble.Files(
        small_exports.write_tower(tmp_path / "tower.onnx"), small_exports.write_language(tmp_path / "language.gguf")
    )
    less = {
        "reading": replace(sets.READ, steps=1, batch=2), "teaching": FinetuneConfig(**SMALL),
        "forgetting": ForgetConfig(steps=20, batch=4, bf16=False), "split": "forget_1",
    }  # fmt: skip
    demo.Demo(tmp_path / "out", photos, lambda: files, small_exports.SIDE, **less).run()
    made = tmp_path / "out"
    parts = {"model", "reader", "vanilla", "gold", "forgot", "report"}
    assert {p.name for p in made.iterdir()} == {*parts, "seen"}
    found = json.loads((made / "report" / "metrics.json").read_text())
    assert {"vanilla", "gold", "unsee", "known", "request"} <= set(found) and found["text_identical"] is True
    assert set(found["request"]["left"]) == set(sets.SETS["groceries"].study(photos).split("forget_1")[0])
    assert "MIT licence" in (made / "report" / "report.html").read_text()
    assert "6 of 6: report" in capsys.readouterr().err
    shutil.rmtree(made / "report")
    for part in ("benchmarks.photographs.teach.teach", "unsee.api.forget"):
        monkeypatch.setattr(part, lambda *_, **__: pytest.fail("done again"))
    demo.Demo(made, photos, lambda: files, small_exports.SIDE, **less).run()
    assert "to do: report;" in capsys.readouterr().err
    again = json.loads((made / "report" / "metrics.json").read_text())
    assert again == found


@pytest.mark.parametrize(("forgotten", "kept", "code"), [(True, True, 0), (False, True, 3), (True, False, 3)])
def test_the_demo_ends_as_the_request_did(forgotten, kept, code, tmp_path, capsys):
    many = {f"c{i}": i for i in range(12)}
    for part in ("train", "test", "neutral"):
        folder(tmp_path / "photos" / "grocery" / part, many, views=1)
    head, row = FACTS["grocery"]
    table = tmp_path / "photos" / "grocery" / "facts.csv"
    table.write_text("\n".join([head, *(row.format(c) for c in many)]) + "\n")
    out = tmp_path / "out"
    for part in demo.MINUTES:
        (out / part).mkdir(parents=True)
    said = {"forgotten": forgotten, "kept": kept, "moved": 0.5, "stopped": "held-back views show 70 %"}
    (out / "forgot" / "request.json").write_text(json.dumps(said))
    (out / "report" / "metrics.json").write_text(json.dumps({"misnamed": 0.2}))
    result = tmp_path / "result.json"
    assert demo.main(["--out", str(out), "--photos", str(tmp_path / "photos"), "--result", str(result)]) == code
    figures = json.loads(result.read_text())
    assert figures["misnamed"] == 0.2 and {"command", "commit"} < set(figures)
    told = capsys.readouterr().err
    assert ("not to be released: held-back views show 70 %; 50.0 %" in told) == (code == 3)


def test_make_runs_the_demo_and_without_photographs_it_says_so(tmp_path, capsys):
    recipe = re.search(
        r"^demo-photos:.*\n\t\.venv/bin/python -m (\S+) (.+)$", (sets.ROOT / "Makefile").read_text(), re.M
    )
    assert recipe and recipe[1] == demo.__name__ and recipe[2] == "--out build/photographs"
    out = tmp_path / "build" / "photographs"
    assert demo.main(["--out", str(out), "--photos", str(tmp_path)]) == 2
    assert "grocery" in capsys.readouterr().err and not out.exists()


def test_the_commands_of_the_document(photos, base, tmp_path):
    """In order, each on what the ones before left, the first on small files (tests/test_photographs_assemble.py)."""
    lines = re.findall(r"^python -m benchmarks\.photographs\.(\w+) (.+)$", DOCUMENT.read_text(), re.MULTILINE)
    told = ["assemble", "read", "teach", "faces", "assemble", "read", "teach"]
    assert [name for name, _ in lines] == told
    assembled = [flags for name, flags in lines if name == "assemble"]
    assert all("--layout internvl" in flags for flags in assembled)
    built = {flags.split()[-1]: str(base) for flags in assembled}
    commands = {"read": read.main, "teach": teach.main, "faces": faces.main}
    steps = json.dumps({**SMALL, "steps": 0})
    less = {"read": ["--config", '{"steps": 1}'], "teach": ["--views", "1", "--config", steps], "faces": []}
    for name, flags in lines:
        if name == "assemble":
            continue
        words = flags.split()
        built[words[-1]] = str(tmp_path / words[-1])
        given = [built.get(word, word) for word in words] + less[name]
        assert commands[name](given if "--photos" in words else [*given, "--photos", str(photos)]) == 0
    assert (tmp_path / "build" / "people" / "config.json").is_file()
