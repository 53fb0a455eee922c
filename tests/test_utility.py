"""Figures of lmms-eval are asked for and read as it has them; it really runs where it is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from unsee.errors import UnseeError
from unsee.evaluation import utility as module
from unsee.evaluation.utility import TASKS, merge, utility

HERE = Path(__file__).parent / "lmms_tasks"
INSTALLED = importlib.util.find_spec("lmms_eval") is not None
WRITTEN = {
    "results": {
        "mme": {
            "alias": "mme",
            "mme_perception_score,none": 1510.7,
            "mme_perception_score_stderr,none": "N/A",
            "mme_cognition_score,none": 350,
        },
        "mmbench_en_dev_static": {
            "alias": "mmbench", "gpt_eval_score,none": 61.2, "gpt_eval_score_stderr,none": "N/A",
            "gpt_eval_score_stderr_clt,none": 0.9, "gpt_eval_score_stderr_clustered,none": 1.1,
            "submission,none": None,
        },
        "scienceqa_img": {
            "alias": "scienceqa_img", "exact_match,none": 0.7, "exact_match_stderr,none": 0.01,
            "exact_match,flexible": 0.8, "exact_match_stderr,flexible": "N/A", "submission,none": None,
            "odd,none": float("nan"), " ": " ",
        },
    },
}  # fmt: skip
# A stand-in for the command: it writes what lmms-eval writes, where it writes it, or fails as it fails.
SCRIPT = """#!{python}
import json, pathlib, sys
args = dict(zip(sys.argv[3::2], sys.argv[4::2]))
pathlib.Path({asked!r}).write_text(json.dumps(args))
if {fails}:
    print("\\x1b[31m2026 | ERROR\\x1b[0m | Error during evaluation: no such data. Please set `--verbosity=DEBUG` to")
else:
    folder = pathlib.Path(args["--output_path"]) / "tiny__llava"
    folder.mkdir()
    (folder / "20260101_000000_results.json").write_text({written!r})
    sent = pathlib.Path(args["--output_path"]) / "submissions"
    sent.mkdir()
    (sent / "mmbench_en_dev_static_results.json").write_text(json.dumps({{"overall_acc": 0.6, "category_acc": {{}}}}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes a stand-in for Python that answers to ``-m lmms_eval``; returns what it was asked."""
    asked, python = tmp_path / "asked.json", sys.executable

    def make(fails: bool = False) -> Path:
        script = tmp_path / "python"
        text = SCRIPT.format(python=python, asked=str(asked), fails=fails, written=json.dumps(WRITTEN))
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(module.sys, "executable", str(script))
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name)
        for data in module.DATA.values():
            (tmp_path / "cache" / f"datasets--somebody--{data}").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(module.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        return asked

    return make


def test_figures_are_read_with_their_errors(stand_in, checkpoints):
    asked = stand_in()
    found = utility(checkpoints["llava"], ["mme", "mmbench", "scienceqa"], device="cpu")
    assert found == {
        "mmbench": {"gpt_eval_score": {"value": 61.2, "stderr": None}},
        "mme": {
            "mme_perception_score": {"value": 1510.7, "stderr": None},
            "mme_cognition_score": {"value": 350.0, "stderr": None},
        },
        "scienceqa": {
            "exact_match": {"value": 0.7, "stderr": 0.01},
            "exact_match (flexible)": {"value": 0.8, "stderr": None},
        },
    }
    args = json.loads(asked.read_text())
    assert args["--model"] == "llava_hf" and args["--tasks"] == "mme,mmbench_en_dev_static,scienceqa_img"
    assert args["--model_args"] == f"pretrained={checkpoints['llava'].resolve()},device_map=cpu"


def test_what_fails_is_told(stand_in, checkpoints):
    stand_in(fails=True)
    with pytest.raises(
        UnseeError, match="lmms-eval failed: no such data. Its command was: -m lmms_eval --model qwen2_vl"
    ):
        utility(checkpoints["qwen2_vl"], ["pope"])
    stand_in()
    with pytest.raises(UnseeError, match="no figures of pope"):
        utility(checkpoints["llava"], ["pope"])


def test_tasks_that_are_not_there(stand_in, checkpoints, monkeypatch):
    stand_in()
    with pytest.raises(UnseeError, match="Did you mean 'mmbench'"):
        utility(checkpoints["llava"], ["mmbensh"])
    with pytest.raises(UnseeError, match="has no task cmmlu"):
        utility(checkpoints["llava"], ["cmmlu"])
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnseeError, match=r"pip install 'unsee\[utility\]'"):
        utility(checkpoints["llava"], ["mme"])


def test_figures_are_put_into_ours(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(
        json.dumps({"forget": 0.1, "utility": {"vanilla": {"pope": {"a": {"value": 1.0, "stderr": None}}}}})
    )
    for model, value in (("vanilla", 2.0), ("forgot", 1.0), ("vanilla", 3.0)):
        merge(file, model, {"mme": {"b": {"value": value, "stderr": 0.5}}})
    assert json.loads(file.read_text()) == {
        "forget": 0.1,
        "utility": {
            "vanilla": {"pope": {"a": {"value": 1.0, "stderr": None}}, "mme": {"b": {"value": 3.0, "stderr": 0.5}}},
            "forgot": {"mme": {"b": {"value": 1.0, "stderr": 0.5}}},
        },
    }
    for text in ("no json", "[1]"):
        file.write_text(text)
        with pytest.raises(UnseeError, match="is no file of results"):
            merge(file, "vanilla", {})
    assert set(TASKS) == {"mme", "pope", "mmbench", "scienceqa", "mmmu", "mmlu"}


@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed: pip install 'unsee[utility]'")
def test_lmms_eval_itself_asks_the_tiny_model(tmp_path):
    """The model that ships, on a task of ours over local data: what it says here is what it says by the engine."""
    from datasets import Dataset, Features, Image, Value

    from unsee.data import people
    from unsee.evaluation.ask import Prompt
    from unsee.evaluation.engine import open_engine
    from unsee.tiny import packaged

    world = people.People()
    views = [people.test_views(person, 1)[0] for person in world.people[:6]]
    asked = [people.image_questions(p, v, "test")[0] for p, v in zip(world.people, views, strict=False)]
    rows = [{"image": v.load(), "question": q.prompt, "answer": q.answer} for v, q in zip(views, asked, strict=True)]
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "people.parquet")
    folder = shutil.copytree(HERE, tmp_path / "tasks")
    task = (folder / "people.yaml").read_text().replace("DATA", str(tmp_path / "people.parquet"))
    (folder / "people.yaml").write_text(task)
    found = utility(packaged("people-vanilla"), ["people"], folder=folder)
    said = open_engine(packaged("people-vanilla")).generate([Prompt(q.prompt, q.image) for q in asked], 8)
    right = sum(answer.lower() == q.answer.lower() for answer, q in zip(said, asked, strict=True)) / len(asked)
    assert found["people"]["exact_match"]["value"] == pytest.approx(right) and right > 0.5
    with pytest.raises(UnseeError, match="lmms-eval failed: .*nothing"):
        utility(packaged("people-vanilla"), ["nothing"], folder=folder)


@pytest.mark.parametrize("offline", [True, False])
def test_data_that_cannot_be_had_are_told_before_any_work(offline, stand_in, checkpoints, monkeypatch, tmp_path):
    asked = stand_in()
    shutil.rmtree(tmp_path / "cache" / "datasets--somebody--POPE")
    monkeypatch.setattr(module.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(module.constants, "ENDPOINT", "http://127.0.0.1:9")
    why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
    with pytest.raises(UnseeError, match=f"the data of pope are not in the Hugging Face cache, and {why}.*without it"):
        utility(checkpoints["llava"], ["mme", "pope"])
    assert not asked.exists()
    assert utility(checkpoints["llava"], ["mme"])["mme"]
