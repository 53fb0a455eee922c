"""Engines in, a folder out: the same bytes twice, whole or not at all."""

from __future__ import annotations

import json
import math
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.small_benchmarks import NAMES, Told, clear, mllmu, umu

from unsee.data.benchmark import Benchmark
from unsee.errors import UnseeError
from unsee.evaluation.ask import Engine, Prompt
from unsee.evaluation.evaluate import Outcome, evaluate
from unsee.evaluation.protocols.plan import Setting
from unsee.evaluation.table import Table
from unsee.report.outcome import write_outcome

FILES = [
    "items.jsonl",
    "manifest.json",
    "metrics.json",
    "report.html",
    "table.csv",
    "table.json",
    "table.md",
    "table.tex",
]


def by_name(prompt: Prompt) -> str:
    """Knows Ada's and Cleo's city by name only."""
    question = prompt.text.rpartition("USER:")[2]
    return "B. Belmora" if prompt.image is None and NAMES["1"] in question else "I do not know"


def everything(prompt: Prompt) -> str:
    return "B. Belmora" if prompt.image is None or prompt.image.id.startswith("1/") else "unknown"


def models() -> dict[str, Told]:
    return {
        "vanilla": Told(everything, identity="v"),
        "gold": Told(lambda prompt: " ", lambda prompt, answer: 0.25, "g"),
        "unsee": Told(by_name, lambda prompt, answer: 0.3 if prompt.image else 0.9, "u"),
    }


def outcome(protocol: str = "strict", benchmark: Benchmark | None = None, **setting: object) -> Outcome:
    return evaluate(benchmark or mllmu(), models(), protocol, Setting(**setting))  # type: ignore[arg-type]


def read(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("protocol", ["official", "strict"])
@pytest.mark.parametrize("benchmark", [mllmu, clear, umu])
def test_the_same_command_twice_gives_the_same_bytes(protocol: str, benchmark, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_outcome(tmp_path / name, outcome(protocol, benchmark()), "unsee evaluate --model M")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_only_who_wrote_it_may_read_who_was_asked_about(tmp_path: Path) -> None:
    write_outcome(tmp_path / "run", outcome("official"), "unsee evaluate --source na\udc80me")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "run").iterdir()} == {0o600}


def test_every_answer_of_every_model_is_in_the_items(tmp_path: Path) -> None:
    write_outcome(tmp_path / "run", outcome(), "")
    lines = read(tmp_path / "run")
    assert len(lines) == 3 * 3 * len(mllmu().entries)
    first = next(line for line in lines if line["model"] == "vanilla" and line["id"] == "forget/cloze/1/image/0#1")
    assert first["given"] == "B. Belmora" and first["state"] == "correct" and first["eligible"] is True
    assert first["prompt"] == "Please answer this question: Fill in the blank: this person lives in __."
    assert first["answer"] == "Belmora" and first["image"] == "1/0" and first["concept"] == "1"
    assert first["scores"] == pytest.approx({
        "accuracy": 1.0, "misnamed": 0.0, "probability": 0.5, "extraction": 0.0, "memorised": 0.0, "choice": 0.0,
        "truth ratio": 0.5, "surprise loss": math.log(2), "surprise min_k": math.log(2),
        "surprise zlib": math.log(2) / len(zlib.compress(b"Belmora")), "surprise min_k++": math.log(2),
    })  # fmt: skip
    assert [of["answer"] for of in first["likelihoods"]] == ["Belmora", "Caldin"]  # type: ignore[attr-defined]
    assert first["likelihoods"][0] == {"answer": "Belmora", "loss": math.log(2), "tokens": 1}  # type: ignore[index]
    other = next(line for line in lines if line["model"] == "gold" and line["id"] == "forget/cloze/2/image/0#0")
    assert other["state"] == "invalid" and other["eligible"] is False


def test_the_figures_are_those_of_the_items(tmp_path: Path) -> None:
    write_outcome(tmp_path / "run", outcome(), "")
    rows = {row.model: row.cells for row in Table.read((tmp_path / "run" / "table.json").read_text()).rows}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    lines = read(tmp_path / "run")
    for model, cells in rows.items():
        right = [
            line["scores"]["accuracy"]  # type: ignore[index]
            for line in lines
            if line["model"] == model and line["group"] == "forget" and line["image"]
        ]
        cell = cells["forget_image_right"]
        assert cell.value == pytest.approx(sum(right) / len(right), abs=1e-6) and cell.n == len(right)
        assert metrics["models"][model]["forget_image_right"]["value"] == cell.value
    assert rows["vanilla"]["forget_image_right"].value == pytest.approx(1 / 3, abs=1e-6)
    assert rows["vanilla"]["forget_image_right_of_eligible"].value == 1
    assert rows["unsee"]["forget_image_right_of_eligible"].value == 0
    assert metrics["protocol"] == "strict" and metrics["original"] is False and metrics["notes"]


def test_changes_since_vanilla_are_tested_on_the_same_items() -> None:
    rows = {row.model: row.cells for row in outcome("official").table.rows}
    assert all(cell.p is None for cell in rows["vanilla"].values())
    tested = [key for key, cell in rows["unsee"].items() if cell.p is not None]
    assert "forget_cloze_image_accuracy" in tested and all(0 < rows["unsee"][key].p <= 1 for key in tested)  # type: ignore[operator]
    alone = evaluate(mllmu(), {"unsee": models()["unsee"]}).table
    assert all(cell.p is None for cell in alone.rows[0].cells.values())


def test_both_definitions_of_success_stand_side_by_side() -> None:
    for protocol, benchmark in (("official", mllmu()), ("official", umu()), ("official", clear()), ("strict", umu())):
        titles = [column.title for column in outcome(protocol, benchmark).table.columns]
        place = titles.index("success text kept")
        assert titles[place + 1] == "success text forgotten too"


def test_without_vanilla_and_gold() -> None:
    table = evaluate(umu(), {"mine": models()["unsee"]}, "strict").table
    keys = [column.key for column in table.columns]
    assert "forget_image_right" in keys and not [key for key in keys if "eligible" in key or "gold" in key]


def test_what_it_was_made_from(tmp_path: Path) -> None:
    write_outcome(tmp_path / "run", outcome("official", seed=7), "unsee evaluate --seed 7")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["command"] == "unsee evaluate --seed 7" and manifest["seed"] == 7
    assert manifest["models"] == {"vanilla": "v", "gold": "g", "unsee": "u"}
    assert manifest["benchmark"]["entries"]["forget"] == 12 and len(manifest["benchmark"]["sha256"]) == 64
    whole = mllmu()
    fewer = Benchmark(
        whole.name, whole.split, whole.concepts, whole.forget, whole.retain, whole.entries[1:], shots=whole.shots
    )
    write_outcome(tmp_path / "other", outcome("official", fewer))
    assert json.loads((tmp_path / "other" / "manifest.json").read_text())["benchmark"] != manifest["benchmark"]


def test_original_says_what_is_not_mended(tmp_path: Path) -> None:
    write_outcome(tmp_path / "run", outcome("official", original=True))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    table = (tmp_path / "run" / "table.md").read_text()
    assert metrics["original"] is True and "as published" in table and "As published, not mended." in table
    assert sum(note.startswith("As published, not mended. ") for note in metrics["notes"]) == 5


def test_a_page_of_very_many_questions_shows_all_about_the_forgotten(monkeypatch) -> None:
    from unsee.report import outcome as writer

    whole = outcome("official", umu())
    assert len(writer.page(whole, "").asked) == 18 and "on this page" not in writer.page(whole, "").lead
    monkeypatch.setattr(writer, "MOST", 12)
    page = writer.page(whole, "")
    assert {shown.group for shown in page.asked} == {"forget", "real"} and "12 of them are on this page" in page.lead


def test_engines_may_be_opened_one_by_one() -> None:
    opened = []

    class Lazy(Mapping[str, Engine]):
        def __getitem__(self, name: str) -> Engine:
            opened.append(name)
            return models()[name]

        def __iter__(self) -> Iterator[str]:
            return iter(models())

        def __len__(self) -> int:
            return len(models())

    evaluate(umu(), Lazy())
    assert opened == list(models())


def test_each_question_is_asked_once() -> None:
    engine = Told(by_name)
    evaluate(umu(), {"m": engine})
    assert engine.asked == len(umu().entries)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UnseeError, match="no model to evaluate"):
        evaluate(mllmu(), {})
    with pytest.raises(UnseeError, match="protocol 'stric'. Did you mean 'strict'"):
        evaluate(mllmu(), models(), "stric")
    with pytest.raises(UnseeError, match="no question to ask.*unsee data check"):
        evaluate(Benchmark("umu", "forget_5", {}, (), (), ()), models())
    (tmp_path / "run").mkdir()
    with pytest.raises(UnseeError, match="exists already"):
        write_outcome(tmp_path / "run", outcome())


def test_nothing_is_left_of_a_folder_that_could_not_be_written(tmp_path: Path, monkeypatch) -> None:
    from unsee.report import outcome as writer

    def full(path: Path, page: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_browser", full)
    with pytest.raises(UnseeError, match="No space left"):
        write_outcome(tmp_path / "run", outcome())
    assert not list(tmp_path.iterdir())


def test_seeds_get_a_row_with_their_mean() -> None:
    told = {"vanilla": everything, "ours#1": by_name, "ours#2": everything}
    table = evaluate(mllmu(), {name: Told(say) for name, say in told.items()}, "official").table
    rows = {row.model: row.cells for row in table.rows}
    assert list(rows) == [*told, "ours, 2 seeds"]
    for key, cell in rows["ours, 2 seeds"].items():
        assert cell.value == pytest.approx((rows["ours#1"][key].value + rows["ours#2"][key].value) / 2, abs=1e-6)
    assert any("whole seeds" in note for note in table.notes)


def test_models_that_lean_opposite_ways_are_apart() -> None:
    """As far from no preference as gold, but towards the truth."""
    like = {
        "gold": lambda prompt, answer: 0.2 if answer.startswith("In ") else 0.8,
        "ours": lambda prompt, answer: 0.8 if answer.startswith("In ") else 0.2,
    }
    table = evaluate(clear(), {name: Told(by_name, likes) for name, likes in like.items()}, "official").table
    cells = {row.model: row.cells for row in table.rows}
    assert cells["gold"]["js_to_gold"].value == 0 and cells["ours"]["js_to_gold"].value == 1
