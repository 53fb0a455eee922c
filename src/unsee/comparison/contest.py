"""Every method tuned on one request and measured on another of the same study, as far as a folder tells to the end.

The folder holds trials.db (Optuna) and a file for each run; the same call goes on where the last one was stopped, and
adds methods that are new.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from unsee.comparison import tuning
from unsee.comparison.bench import Bench, Plan
from unsee.comparison.outcome import GOLD, REFERENCES, VANILLA, Comparison, Run, Trial
from unsee.errors import UnseeError
from unsee.evaluation import statistics
from unsee.files import locked, write_json
from unsee.progress import progress, silence
from unsee.rivals import METHODS
from unsee.runs import machine
from unsee.untrusted import read_json, shown

PLAN, CLUSTERS, LOCK = "plan.json", "clusters.json", "lock"
OF_THE_MACHINE = ("bf16",)  # what may change when a comparison goes on elsewhere; each run notes its own
LOOK = 30.0  # seconds between two looks at what the workers have done


def contest(plan: Plan, methods: Sequence[str], folder: Path, jobs: int = 1) -> None:
    """Make everything that ``folder`` lacks of the plan. UnseeError: it holds another plan's, or another process
    is at work on it."""
    begin(plan, folder)
    (folder / LOCK).touch()  # a comparison begun before there were locks has none
    with locked(folder / LOCK, "comparison"):
        _go_on(plan, methods, folder, jobs)


def _go_on(plan: Plan, methods: Sequence[str], folder: Path, jobs: int) -> None:
    todo = [name for name in (*([GOLD] if plan.gold else []), VANILLA, *methods) if not done(plan, folder, name)]
    with progress("comparing", sum(sum(_pieces(plan, folder, n)) for n in todo)) as tick:
        for note in _worked(plan, folder, todo, jobs):
            tick(sum(_pieces(plan, folder, n)[0] for n in todo), note)


def _pieces(plan: Plan, folder: Path, name: str) -> tuple[int, int]:
    """Trials and runs of a method that are there, and those that are not."""
    ran = sum(file_of(folder, name, seed).exists() for seed in seeds_of(plan, name))
    tried, trials = 0, 0
    if name not in REFERENCES and plan.trials and (way := plan.method(name)).space:
        tried, trials = len(tuning.logged(folder / tuning.FILE, way)), plan.trials
    return ran + tried, len(seeds_of(plan, name)) + trials - ran - tried


def begin(plan: Plan, folder: Path) -> None:
    file = folder / PLAN
    if file.exists():
        there = _read(file, lambda given: asdict(Plan(**given)))
        if other := [k for k, v in asdict(plan).items() if there[k] != v and k not in OF_THE_MACHINE]:
            raise UnseeError(
                f"'{folder}' holds a comparison with another {', '.join(other)} "
                f"({', '.join(str(there[k]) for k in other)}). Give the same to go on, or name another --out."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UnseeError(f"'{folder}' exists already and holds no comparison. Name another --out.")
    else:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(file, asdict(plan), private=True)


def file_of(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name}-{seed}.json"


def seeds_of(plan: Plan, name: str) -> range:
    return range(1 if name in REFERENCES else plan.seeds)


def done(plan: Plan, folder: Path, name: str) -> bool:
    return all(file_of(folder, name, seed).exists() for seed in seeds_of(plan, name))


def assemble(plan: Plan, folder: Path, command: str) -> Comparison:
    """All that ``folder`` holds by now, methods of earlier calls among it."""
    names = [n for n in (VANILLA, GOLD, *METHODS) if done(plan, folder, n)]
    runs = [_read(file_of(folder, name, seed), _run) for name in names for seed in seeds_of(plan, name)]
    gold = next((run.values["forget_truth_ratio"] for run in runs if run.method == GOLD), None)
    tuned = [plan.method(n) for n in names if n in METHODS and METHODS[n].space and plan.trials]
    return Comparison(
        title=f"{plan.split} of {plan.data}",
        study={k: v for k, v in asdict(plan).items() if k not in OF_THE_MACHINE},
        clusters=_read(folder / CLUSTERS, _clusters),
        runs=tuple(_placed(run, gold) for run in runs),
        trials={way.name: tuple(tuning.logged(folder / tuning.FILE, way)) for way in tuned},
        machine=machine(),
        command=command,
        commit=", ".join(sorted({run.commit for run in runs if run.commit})),
        counted=True,
    )


def _read(file: Path, made: Callable[[Any], Any]) -> Any:
    """What ``made`` makes of a file of a comparison. UnseeError: it is none."""
    given = read_json(file)
    try:
        return made(given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnseeError(
            f"'{file}' is not what a comparison writes there ({shown(error)}). Name another --out, or remove the file "
            f"to have it made again."
        ) from error


def _clusters(given: dict[str, list[str]]) -> dict[str, list[str]]:
    return {str(figure): [str(concept) for concept in of] for figure, of in given.items()}


def _run(given: dict[str, Any]) -> Run:
    run = Run.from_json(given)
    if not all(math.isfinite(value) for value in (*run.means.values(), run.seconds, run.peak_bytes)):
        raise ValueError("a figure that is no number")
    return run


def _placed(run: Run, gold: Sequence[float] | None) -> Run:
    """With its distance to gold: Kolmogorov-Smirnov, of the truth ratios of names and facts to forget."""
    ratios = run.values.get("forget_truth_ratio")
    return replace(run, distance=statistics.ks(ratios, gold)["distance"]) if ratios and gold else run


def _worked(plan: Plan, folder: Path, names: Sequence[str], jobs: int) -> Iterator[str]:
    """Works, and now and then gives what there is to tell."""
    if jobs == 1 or len(names) < 2:
        bench = Bench(plan, folder)
        for name in names:
            for note in _work(bench, name):
                yield f"{name}: {note}"
        return
    if plan.trials:
        tuning.create(folder / tuning.FILE)  # by one of them
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (plan, folder, max(1, torch.get_num_threads() // jobs))) as pool:
        running: dict[Future[str], str] = {pool.submit(_work_here, name): name for name in names}
        try:
            while running:
                ended = wait(running, LOOK, FIRST_COMPLETED).done
                yield "; ".join(f"{running.pop(future)}: {future.result()}" for future in ended)
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
    """The last that there is to tell of a method."""
    return [*_work(_bench[0], name)][-1]


def _work(bench: Bench, name: str) -> Iterator[str]:
    """Tune a method and run it with every seed, as far as the folder does not have it already."""
    if name in REFERENCES:
        with silence():
            run, concepts = bench.reference(name, bench.plan.model if name == VANILLA else bench.plan.gold)
        write_json(bench.folder / CLUSTERS, concepts, private=True)
        write_json(file_of(bench.folder, name, 0), run.to_json(), private=True)
        yield _note([run])
        return
    way = bench.plan.method(name)
    trials: list[Trial] = []
    for trials in bench.tune(way):
        yield f"trial {len(trials)}, score {max((t.score or 0.0) for t in trials):.3f}"
    chosen = tuning.best(trials)
    runs = []
    for seed in seeds_of(bench.plan, name):
        file = file_of(bench.folder, name, seed)
        if not file.exists():
            failed = trials and chosen is None
            with silence():
                run = _failed(name, seed, trials) if failed else bench.run(way, chosen or {}, seed)
            write_json(file, run.to_json(), private=True)
        runs.append(_read(file, _run))
        yield _note(runs)


def _failed(name: str, seed: int, trials: Sequence[Trial]) -> Run:
    why = f"none of {len(trials)} trials ran to its end; the last: {trials[-1].error}"
    return Run(name, seed, {}, {}, {}, None, 0.0, 0, 0, why)


def _note(runs: Sequence[Run]) -> str:
    if runs[0].error:
        return runs[0].error
    shown = ("forget_names", "retain_names", "heldout_names", "forget_attributes", "forget_text")
    found = {n: sum(r.metrics[n]["value"] for r in runs) / len(runs) for n in shown if n in runs[0].metrics}
    return " ".join(f"{n} {v:.3f}" for n, v in found.items())
