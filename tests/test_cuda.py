"""On a GPU, all that works there, on the tiny models: ``pytest -m cuda``. Elsewhere they are left out in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.small_job import lent, small_job

from unsee import ForgetConfig, api, finetune, load_visual, read_folder
from unsee.cli import main
from unsee.comparison.bench import Bench, Plan
from unsee.config import FinetuneConfig
from unsee.evaluation.ask import Prompt
from unsee.evaluation.engine import TransformersEngine
from unsee.rivals import METHODS
from unsee.rivals.job import Job
from unsee.tiny import packaged

pytestmark = pytest.mark.cuda
GPU = "cuda:0"
FAST = ["--steps", "4", "--batch", "4", "--replay", "8"]


def sides(images: Path) -> list[str]:
    known = str(images / "known")
    return ["--forget", known, "--retain", known, "--concepts", "ada", "--neutral", str(images / "neutral")]


def test_forgetting_is_what_it_is_on_a_cpu(checkpoint, images):
    known, neutral = (read_folder(images / part).concepts for part in ("known", "neutral"))
    given = {"forget": known[:1], "retain": known[1:3], "neutral": neutral[:2]}
    config = ForgetConfig(steps=4, batch=4, bf16=False, stop=0)
    here, there = (api.forget(load_visual(checkpoint, device=d), **given, config=config) for d in ("cpu", GPU))
    for name, tensor in here.patch.tensors.items():
        assert not there.patch.tensors[name].is_cuda
        torch.testing.assert_close(there.patch.tensors[name], tensor, rtol=1e-2, atol=1e-3)
    assert api.forget(load_visual(checkpoint, device=GPU), **given, config=ForgetConfig(steps=4, batch=4)).delta


def test_the_commands(checkpoint, images, tmp_path):
    model = ["--model", str(checkpoint), "--device", "cuda"]
    stay = str(tmp_path / "stay.safetensors")
    assert main(["statistics", *model, "--images", str(images / "known"), "--out", stay]) == 0
    assert main(["forget", *model, *sides(images), *FAST, "--dry-run", "--out", str(tmp_path / "dry")]) == 0
    assert main(["forget", *model, *sides(images), *FAST, "--out", str(tmp_path / "run")]) in (0, 3)
    lone = ["--forget", str(images / "known"), "--concepts", "ada", "--neutral", str(images / "neutral")]
    again = ["--statistics", stay, "--out", str(tmp_path / "again")]
    assert main(["forget", *model, *lone, *FAST, *again]) in (0, 3)


def test_teaching_and_an_evaluation(tmp_path):
    bench, taught, out = (str(tmp_path / name) for name in ("bench", "taught", "out"))
    assert main(["data", "export", "people", "--format", "mllmu", "--people", "20", "--out", bench]) == 0
    model, source = str(packaged("people-vanilla")), ["--benchmark", "mllmu", "--source", bench, "--split", "forget_5"]
    small = ["--steps", "2", "--batch", "2", "--text-batch", "2", "--questions", "2"]
    assert main(["finetune", "--model", model, *source, *small, "--out", taught]) == 0
    assert main(["evaluate", "--model", taught, *source, "--device", "cuda", "--out", out]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def known(images) -> Iterator[Job]:
    made = small_job("llava")
    made.model.to(GPU)
    job = Job(made.model, made.processor, made.material)
    yield job


@pytest.fixture
def job(known) -> Iterator[Job]:
    yield from lent(known)


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name, job):
    way = METHODS[name]
    small = {"steps": 2, "batch": 2, "examples": 4, "images": 4}
    settings = {k: v for k, v in small.items() if k in way.config.__dataclass_fields__}
    way.forget(job, way.config(**settings))
    with torch.no_grad():
        assert all(f.is_cuda and f.isfinite().all() for f in job.features(job.material.retain[:1]))


@pytest.mark.parametrize("fast", [True, False])
def test_asking(job, fast):
    image = job.material.forget[0].image
    engine = TransformersEngine(job.model, job.processor)
    if not fast:
        vars(engine).update(_packs=False, _pads=False, _scores=False)
    prompts = [Prompt("who is this ?", image), Prompt("what is it ?", image), Prompt("who ?")]
    assert len(engine.generate(prompts, 2)) == len(engine.score(prompts, [("a", "b")] * 3)) == 3


def test_teaching_uses_the_gpu(job):
    class Lesson:
        images = [e.image for e in job.material.forget]
        texts = 0

        def ask(self, image, rng):
            return list(job.material.forget[image].questions)

    job.model.requires_grad_(True)
    finetune.finetune(job.model, job.processor, Lesson(), FinetuneConfig(steps=2, batch=2, text_batch=0))
    assert job.model.device.type == "cuda"


def test_a_comparison_is_measured_on_the_gpu(tmp_path):
    embedded = ("people-vanilla", "people-gold", "people", "", "", "forget_10")
    bench = Bench(Plan(*embedded, trials=0, seeds=1, lr_scale=1.0, steps=2, batch=2, device=GPU), tmp_path)
    run = bench.run(METHODS["ga"], {}, 0)
    assert not run.error and run.peak_bytes > 0 and torch.cuda.get_device_name(0) in run.machine
