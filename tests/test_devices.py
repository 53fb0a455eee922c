"""Where everything lies, tried on a device that is not the CPU: no tensor of the one meets one of the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from tests.elsewhere import AWAY, Misplaced, elsewhere
from tests.small_job import small_job

from unsee import ForgetConfig, api, finetune, pretrain, training
from unsee.comparison.bench import Bench
from unsee.config import FinetuneConfig, PretrainConfig
from unsee.evaluation import answer
from unsee.evaluation.ask import Prompt
from unsee.evaluation.engine import TransformersEngine
from unsee.memory import peak
from unsee.rivals import METHODS
from unsee.rivals.job import Job
from unsee.vision.module import Visual

CONFIG = ForgetConfig(steps=1, batch=2, replay=4, lookalikes=4, settled=0)


@pytest.fixture(autouse=True)
def away() -> Iterator[None]:
    with elsewhere():
        yield


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def jobs(request) -> Job:
    return _away(request.param)


@pytest.fixture(scope="module")
def llava() -> Job:
    return _away("llava")


@cache
def _away(shape: str) -> Job:
    job = small_job(shape)
    with elsewhere():
        job.model.to(AWAY)
        return Job(job.model, job.processor, job.material)


@pytest.fixture
def job(jobs) -> Iterator[Job]:
    yield jobs
    jobs.model.requires_grad_(False)
    jobs.restore()


def test_a_cpu_tensor_is_found_out():
    there, here = torch.ones(3, device=AWAY), torch.ones(3)
    with pytest.raises(Misplaced):
        there + here
    with pytest.raises(Misplaced):
        torch.nn.functional.embedding(torch.zeros(2, dtype=torch.long), torch.ones(4, 3, device=AWAY))
    assert (there * torch.tensor(2.0)).is_meta and not (there.cpu() + here).is_meta
    assert torch.tensor([4, 2]).to(AWAY).max().item() == 4


class Lesson:
    """What the job's material teaches."""

    texts = 2

    def __init__(self, job: Job) -> None:
        self.material = job.material
        self.images = [e.image for e in job.material.forget]

    def ask(self, image: int, rng: Any) -> list[Any]:
        return list(self.material.forget[image].questions)

    def recite(self, text: int, rng: Any) -> list[Any]:
        return list(self.material.text[text].questions)


class Accelerator:
    """Of a machine whose device is AWAY, where the model is already."""

    device = AWAY

    def __init__(self, **_: Any) -> None: ...

    def prepare(self, *parts: Any) -> Any:
        return parts

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, most: float) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, most)


@pytest.fixture
def adam(monkeypatch):
    """torch has no fused one of meta."""
    real = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused, **settings: real(*args, **settings))


def test_teaching(job, monkeypatch, adam):
    monkeypatch.setattr(training, "Accelerator", Accelerator)
    job.model.requires_grad_(True)
    config = FinetuneConfig(steps=1, batch=2, text_batch=2, questions=2)
    history = finetune.finetune(job.model, job.processor, Lesson(job), config)
    assert len(history) == 1 and job.model.device == AWAY


def test_learning_to_see(job, adam):
    job.model.requires_grad_(True)
    shown = pretrain.pictures("faces", 4)
    assert len(pretrain.pretrain(job.model, job.processor, shown, PretrainConfig(steps=1, batch=2))) == 1


@pytest.mark.parametrize("fast", [True, False])
def test_asking(llava, fast):
    job = llava
    image = job.material.forget[0].image
    prompts = [Prompt("who is this ?", image), Prompt("what is it ?", image), Prompt("who ?")]
    engine = TransformersEngine(job.model, job.processor)
    if not fast:
        vars(engine).update(_packs=False, _pads=False, _scores=False)
    assert len(engine.generate(prompts, 2)) == len(engine.score(prompts, [("a", "b")] * 3)) == 3
    assert engine.identity


def test_questions_of_the_embedded_world(job):
    image = job.material.forget[0].image
    seen = answer.look(job.model, job.processor, {image.id: job.visual.pixels([image])[0]})
    asked = [q for q in job.material.forget[0].questions if q.image and q.image.id == image.id]
    assert len(answer.answers(job.model, job.processor, asked, seen)) == len(asked) > 0
    assert answer.probabilities(job.model, job.processor, asked, [("a", "b")] * len(asked), seen)


def test_forgetting_with_statistics(llava):
    visual, given = Visual(llava.model, llava.processor), llava.material.request
    moments = api.statistics(visual, None, given.retain, CONFIG)
    assert {m.device.type for m in moments.matrices.values()} == {"cpu"}
    done = api.forget(visual, forget=given.forget, statistics=moments, neutral=given.neutral, config=CONFIG)
    assert {t.device.type for t in done.patch.tensors.values()} == {"cpu"}


ALIKE = ("noop", "noise", "prompt", "unsee-projector")  # what they do others do too


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ALIKE])
def test_every_method(name, llava):
    way = METHODS[name]
    small = {"steps": 1, "batch": 2, "bf16": True, "replay": 0, "examples": 2, "images": 2}
    small |= {"searches": 2, "held": 2, "fisher_examples": 2, "saliency_examples": 2}
    settings = {k: v for k, v in small.items() if k in way.config.__dataclass_fields__}
    try:
        way.forget(llava, way.config(**settings))
        with torch.no_grad():
            assert all(f.device == AWAY for f in llava.features(llava.material.retain[:1]))
    finally:
        llava.restore()


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_a_comparison_measures_the_gpu_that_it_runs_on(device, monkeypatch):
    asked = []
    for name, value in {
        "get_device_name": "One GPU", "reset_peak_memory_stats": None, "memory_allocated": 3, "max_memory_allocated": 8,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda where=None, value=value: asked.append(where) or value)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda where: asked.append(str(where)))
    bench = object.__new__(Bench)
    bench.plan = type("Plan", (), {"device": device, "bf16": True})
    assert bench.machine == "One GPU, bfloat16" and bench.clock() > 0
    with peak(device) as most:
        assert most() == 5
    assert set(asked) == {device}
