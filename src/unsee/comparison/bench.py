"""One model, its study and its exams in a process: a method is tuned here, run here, and asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from unsee import hardware
from unsee.comparison import tuning
from unsee.comparison.figures import MISNAMED
from unsee.comparison.outcome import Run, Trial
from unsee.comparison.score import score
from unsee.data.study import Study, study_of
from unsee.errors import UnseeError
from unsee.evaluation import tasks
from unsee.memory import peak
from unsee.progress import silence
from unsee.rivals import method
from unsee.rivals.job import Job
from unsee.rivals.material import material
from unsee.rivals.method import Method, Real, Training
from unsee.runs import revision
from unsee.vision.module import Pixels, Visual, load_full

TEST = tasks.Size(forget=6, retain=1, heldout=3, strangers=60, facts=2, attributes=1)
CHECK = tasks.Size(forget=2, retain=1, heldout=1, strangers=0, facts=1, attributes=1)


@dataclass(frozen=True)
class Plan:
    """What is compared: each method is tuned on one draw of the split and measured on another."""

    model: str
    gold: str
    data: str
    facts: str
    recipe: str
    split: str
    trials: int
    seeds: int
    lr_scale: float
    steps: int
    batch: int
    device: str
    bf16: bool = True
    test_draw: int = 0
    tuning_draw: int = 1

    def study(self) -> Study:
        return study_of(self.data, self.facts or None, self.recipe or None)

    def method(self, name: str) -> Method:
        """With the learning rates that are tried made larger or smaller for the model."""
        way = method(name)
        rate = way.space.get("lr")
        if not isinstance(rate, Real):
            return way
        return replace(way, space={**way.space, "lr": Real(rate.low * self.lr_scale, rate.high * self.lr_scale)})


class Bench:
    """A model, its study and its exams, loaded once in a process."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self.study = plan, folder, plan.study()
        self.model, self.processor = _load(plan.model, plan.device)
        self.pixels: dict[str, Pixels] = {}

    def exam(self, draw: int, size: tasks.Size) -> tasks.Exam:
        return tasks.exam(Visual(self.model, self.processor), self.study, self.plan.split, draw, size)

    @cached_property
    def test(self) -> tasks.Exam:
        return self.exam(self.plan.test_draw, TEST)

    @cached_property
    def check(self) -> tasks.Exam:
        return self.exam(self.plan.tuning_draw, CHECK)

    @cached_property
    def known(self) -> dict[str, float]:
        """What the untouched model knows on the request that is tuned on."""
        return _means(tasks.sit(self.model, self.processor, self.check, probabilities=False))

    def settings(self, way: Method, **values: Any) -> Any:
        """Of a method: its paper's, the plan's, for all or for those that share the loop, and ``values``, which win."""
        shared = {"batch": self.plan.batch} | ({"steps": self.plan.steps} if self.plan.steps else {})
        given = {"bf16": self.plan.bf16} | (shared if issubclass(way.config, Training) else {})
        return way.settings(**given | values)

    def job(self, draw: int, pixels: dict[str, Pixels]) -> Job:
        return Job(self.model, self.processor, material(self.study, self.plan.split, draw), pixels)

    def clock(self) -> float:
        """Seconds; of the processor where it does the work, so that other work beside this does not count."""
        if self.plan.device == "cpu":
            return time.process_time()
        torch.accelerator.synchronize(torch.device(self.plan.device))
        return time.perf_counter()

    @cached_property
    def machine(self) -> str:
        """What a run's seconds depend on."""
        gpu = self.plan.device.startswith("cuda")  # the command says which: cuda:0
        on = torch.cuda.get_device_name(self.plan.device) if gpu else hardware.processor()
        return f"{on}, {'bfloat16' if self.plan.bf16 else 'float32'}"

    def tune(self, way: Method) -> Iterator[list[Trial]]:
        """The method's trials so far, again after each."""
        if not self.plan.trials:
            return
        job = self.job(self.plan.tuning_draw, self.pixels)
        known = self.known

        def measure(values: dict[str, Any]) -> tuning.Measured:
            try:
                with silence():
                    way.forget(job, self.settings(way, **values))
                    found = _means(tasks.sit(self.model, self.processor, job.exam(self.check), probabilities=False))
            finally:
                job.restore()
            return score(found, known), found

        yield from tuning.tune(self.folder / tuning.FILE, way, self.plan.trials, 0, measure)

    def run(self, way: Method, chosen: Mapping[str, Any], seed: int) -> Run:
        """One run on the request that is reported, its images opened anew so that its time is all of its own."""
        job = self.job(self.plan.test_draw, {})
        exam, config = self.test, self.settings(way, **chosen, seed=seed)
        try:
            with peak(self.plan.device) as most:
                started = self.clock()
                way.forget(job, config)
                seconds = self.clock() - started
            items = tasks.sit(self.model, self.processor, job.exam(exam))
            found = _run(way.name, seed, chosen, items, exam, seconds, most(), job.trained)
            return replace(found, machine=self.machine)
        except UnseeError as error:
            return Run(way.name, seed, dict(chosen), {}, {}, None, 0.0, 0, 0, str(error))
        finally:
            job.restore()

    def reference(self, name: str, path: str) -> tuple[Run, dict[str, list[str]]]:
        """A model as it is, vanilla or gold; and of each figure, the concept of each item: the same for all runs."""
        model, _ = _load(path, self.plan.device)
        items = tasks.sit(model, self.processor, self.test)
        columns = _columns(items, self.test)
        concepts = {figure: [concept for _, concept in column] for figure, column in columns.items()}
        return _run(name, 0, {}, items, self.test, 0.0, 0, 0), concepts


def _load(path: str, device: str) -> tuple[Any, Any]:
    model, processor = load_full(path)
    return model.to(device), processor


def _run(
    name: str, seed: int, chosen: Mapping[str, Any], items: list[tasks.Item], exam: tasks.Exam, seconds: float,
    peak_bytes: int, trained: int,
) -> Run:  # fmt: skip
    values = {n: [round(float(v), 4) for v, _ in column] for n, column in _columns(items, exam).items()}
    return Run(
        name,
        seed,
        dict(chosen),
        tasks.metrics(items),
        values,
        None,
        round(seconds, 2),
        peak_bytes,
        trained,
        commit=revision(),
    )


def _columns(items: Sequence[tasks.Item], exam: tasks.Exam) -> dict[str, list[tuple[float, str]]]:
    """Of each figure, every item's value and concept; which pictures are given another's name among them."""
    asked = [i for i in items if i.group == "forget" and i.question.image and i.question.kind == "identity"]
    return tasks.columns(items) | {MISNAMED: [(i.given in exam.retained, i.question.concept) for i in asked]}


def _means(items: Sequence[tasks.Item]) -> dict[str, float]:
    return {n: round(sum(v for v, _ in column) / len(column), 6) for n, column in tasks.columns(items).items()}
