"""Every method tuned on one request and measured on another of the same study, as far as a folder tells to the end.

The folder holds trials.db (Optuna) and a file for each run; the same call goes on where the last one was stopped, and
adds methods that are new.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from unsee.comparison import tuning
from unsee.comparison.outcome import Comparison, Run, Trial
from unsee.comparison.score import score
from unsee.data.study import Study, study_of
from unsee.demo import packaged
from unsee.errors import UnseeError
from unsee.evaluation import statistics, tasks
from unsee.files import write_json
from unsee.progress import progress, silence
from unsee.rivals import METHODS, method
from unsee.rivals.job import Job
from unsee.rivals.material import material
from unsee.rivals.method import Method, Real, Training
from unsee.runs import machine, revision
from unsee.vision.module import Pixels, Visual, load_full

VANILLA, GOLD = "vanilla", "gold"
EMBEDDED = ("people-vanilla", "people-gold")  # ship with the package
TEST = tasks.Size(forget=6, retain=1, heldout=3, strangers=60, facts=2, attributes=1)
CHECK = tasks.Size(forget=2, retain=1, heldout=1, strangers=0, facts=1, attributes=1)
MISNAMED = "misnamed"
PLAN, CLUSTERS = "plan.json", "clusters.json"


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
        """Of a method: its paper's, the plan's for all that share the loop, and ``values``, which win."""
        shared = {"steps": self.plan.steps, "batch": self.plan.batch} if issubclass(way.config, Training) else {}
        return way.settings(**shared | values)

    def job(self, draw: int, pixels: dict[str, Pixels]) -> Job:
        return Job(self.model, self.processor, material(self.study, self.plan.split, draw), pixels)

    def clock(self) -> float:
        """Seconds; of the processor where it does the work, so that other work beside this does not count."""
        if self.plan.device == "cpu":
            return time.process_time()
        torch.accelerator.synchronize()
        return time.perf_counter()

    def tune(self, way: Method) -> list[Trial]:
        job = self.job(self.plan.tuning_draw, self.pixels)
        known = self.known

        def measure(values: dict[str, Any]) -> tuning.Measured:
            try:
                way.forget(job, self.settings(way, **values))
                found = _means(tasks.sit(self.model, self.processor, job.exam(self.check), probabilities=False))
            finally:
                job.restore()
            return score(found, known), found

        return tuning.tune(self.folder / tuning.FILE, way, self.plan.trials, 0, measure)

    def run(self, way: Method, chosen: Mapping[str, Any], seed: int) -> Run:
        """One run on the request that is reported, its images opened anew so that its time is all of its own."""
        job = self.job(self.plan.test_draw, {})
        exam, config = self.test, self.settings(way, **chosen, seed=seed)
        try:
            with _peak() as peak:
                started = self.clock()
                way.forget(job, config)
                seconds = self.clock() - started
            items = tasks.sit(self.model, self.processor, job.exam(exam))
            return _run(way.name, seed, chosen, items, exam, seconds, peak(), job.trained)
        except UnseeError as error:
            return Run(way.name, seed, dict(chosen), {}, {}, None, 0.0, 0, 0, str(error))
        finally:
            job.restore()

    def reference(self, name: str, path: str) -> Run:
        """A model as it is: vanilla, or gold."""
        model, _ = _load(path, self.plan.device)
        items = tasks.sit(model, self.processor, self.test)
        columns = _columns(items, self.test)
        concepts = {name: [concept for _, concept in column] for name, column in columns.items()}
        write_json(self.folder / CLUSTERS, concepts)  # the same for all runs
        return _run(name, 0, {}, items, self.test, 0.0, 0, 0)


def _load(path: str, device: str) -> tuple[Any, Any]:
    model, processor = load_full(packaged(path) if path in EMBEDDED else path)
    return model.to(device), processor


def contest(plan: Plan, methods: Sequence[str], folder: Path, jobs: int = 1) -> None:
    """Make everything that ``folder`` lacks of the plan. UnseeError: it holds another plan's."""
    begin(plan, folder)
    todo = [name for name in (*([GOLD] if plan.gold else []), VANILLA, *methods) if not done(plan, folder, name)]
    with progress("comparing", len(todo)) as tick:
        for number, (name, note) in enumerate(_worked(plan, folder, todo, jobs), start=1):
            tick(number, f"{name}: {note}")


def begin(plan: Plan, folder: Path) -> None:
    file = folder / PLAN
    if file.exists():
        there = json.loads(file.read_text(encoding="utf-8"))
        if other := [k for k, v in asdict(plan).items() if there.get(k) != v]:
            raise UnseeError(
                f"'{folder}' holds a comparison with another {', '.join(other)} "
                f"({', '.join(str(there.get(k)) for k in other)}). Give the same to go on, or name another --out."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UnseeError(f"'{folder}' exists already and holds no comparison. Name another --out.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(plan))


def file_of(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name}-{seed}.json"


def seeds_of(plan: Plan, name: str) -> range:
    return range(1 if name in (VANILLA, GOLD) else plan.seeds)


def done(plan: Plan, folder: Path, name: str) -> bool:
    return all(file_of(folder, name, seed).exists() for seed in seeds_of(plan, name))


def assemble(plan: Plan, folder: Path, command: str) -> Comparison:
    """All that ``folder`` holds by now, methods of earlier calls among it."""
    names = [n for n in (VANILLA, GOLD, *METHODS) if done(plan, folder, n)]
    runs = [_read(file_of(folder, name, seed)) for name in names for seed in seeds_of(plan, name)]
    gold = next((run.values["forget_truth_ratio"] for run in runs if run.method == GOLD), None)
    tuned = [plan.method(n) for n in names if n in METHODS and METHODS[n].space and plan.trials]
    return Comparison(
        title=f"{plan.split} of {plan.data}",
        study=asdict(plan),
        clusters=json.loads((folder / CLUSTERS).read_text(encoding="utf-8")),
        runs=tuple(_placed(run, gold) for run in runs),
        trials={way.name: tuple(tuning.logged(folder / tuning.FILE, way)) for way in tuned},
        machine=machine(),
        command=command,
        commit=revision(),
    )


def _read(file: Path) -> Run:
    return Run.from_json(json.loads(file.read_text(encoding="utf-8")))


def _placed(run: Run, gold: Sequence[float] | None) -> Run:
    """With its distance to gold: Kolmogorov-Smirnov, of the truth ratios of names and facts to forget."""
    ratios = run.values.get("forget_truth_ratio")
    return replace(run, distance=statistics.ks(ratios, gold)["distance"]) if ratios and gold else run


def _worked(plan: Plan, folder: Path, names: Sequence[str], jobs: int) -> Iterator[tuple[str, str]]:
    """Each name as it is done, with what came of it."""
    if jobs == 1 or len(names) < 2:
        bench = Bench(plan, folder)
        for name in names:
            with silence():
                note = _work(bench, name)
            yield name, note
        return
    if plan.trials:
        tuning.create(folder / tuning.FILE)  # by one of them
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (plan, folder, max(1, torch.get_num_threads() // jobs))) as pool:
        running = {pool.submit(_work_here, name): name for name in names}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_bench: list[Bench] = []  # of a worker


def _start(plan: Plan, folder: Path, threads: int) -> None:
    """Begin a worker, which ends when the one that started it is gone."""
    torch.set_num_threads(threads)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _bench.append(Bench(plan, folder))


def _work_here(name: str) -> str:
    with silence():
        return _work(_bench[0], name)


def _work(bench: Bench, name: str) -> str:
    """Tune a method and run it with every seed, as far as the folder does not have it already."""
    if name in (VANILLA, GOLD):
        run = bench.reference(name, bench.plan.model if name == VANILLA else bench.plan.gold)
        write_json(file_of(bench.folder, name, 0), run.to_json())
        return _note([run])
    way = bench.plan.method(name)
    trials = bench.tune(way) if bench.plan.trials else []
    chosen = tuning.best(trials)
    runs = []
    for seed in seeds_of(bench.plan, name):
        file = file_of(bench.folder, name, seed)
        if not file.exists():
            failed = trials and chosen is None
            run = _failed(name, seed, trials) if failed else bench.run(way, chosen or {}, seed)
            write_json(file, run.to_json())
        runs.append(_read(file))
    return _note(runs)


def _failed(name: str, seed: int, trials: Sequence[Trial]) -> Run:
    why = f"none of {len(trials)} trials ran to its end; the last: {trials[-1].error}"
    return Run(name, seed, {}, {}, {}, None, 0.0, 0, 0, why)


def _run(
    name: str, seed: int, chosen: Mapping[str, Any], items: list[tasks.Item], exam: tasks.Exam, seconds: float,
    peak: int, trained: int,
) -> Run:  # fmt: skip
    values = {n: [round(float(v), 4) for v, _ in column] for n, column in _columns(items, exam).items()}
    return Run(name, seed, dict(chosen), tasks.metrics(items), values, None, round(seconds, 2), peak, trained)


def _columns(items: Sequence[tasks.Item], exam: tasks.Exam) -> dict[str, list[tuple[float, str]]]:
    """Of each figure, every item's value and concept; which pictures are given another's name among them."""
    asked = [i for i in items if i.group == "forget" and i.question.image and i.question.kind == "identity"]
    return tasks.columns(items) | {MISNAMED: [(i.given in exam.retained, i.question.concept) for i in asked]}


def _means(items: Sequence[tasks.Item]) -> dict[str, float]:
    return {name: sum(v for v, _ in column) / len(column) for name, column in tasks.columns(items).items()}


def _note(runs: Sequence[Run]) -> str:
    if runs[0].error:
        return runs[0].error
    shown = ("forget_names", "retain_names", "heldout_names", "forget_attributes", "forget_text")
    found = {n: sum(r.metrics[n]["value"] for r in runs) / len(runs) for n in shown if n in runs[0].metrics}
    return " ".join(f"{n} {v:.3f}" for n, v in found.items())


@contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """Bytes that are held at most, within, above what was held before; 0 where the system does not tell."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: torch.cuda.max_memory_allocated() - before
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark becomes what is held now
    before = _status("VmRSS")
    yield lambda: max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no Linux
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
