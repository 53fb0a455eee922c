"""The published benchmarks: look at a download, make one of embedded people, and put one to models."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console

from unsee import processes
from unsee.commands.shared import Device, checkpoints, device_of
from unsee.errors import UnseeError
from unsee.files import refuse_existing
from unsee.progress import say, tell

if TYPE_CHECKING:
    from unsee.evaluation.ask import Engine

Name = Literal["mllmu", "clear", "umu"]


def evaluate(
    *,
    model: str,
    benchmark: Name,
    split: str,
    out: Path,
    source: str = "",
    protocol: Literal["official", "strict"] = "official",
    original: bool = False,
    compare: tuple[str, ...] = (),
    seed: int = 0,
    batch: int = 32,
    cache: Path | None = None,
    backend: Literal["transformers", "vllm"] = "transformers",
    device: Device = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Put a benchmark to a model, and to others beside it; writes answers, tables and a page.

    An interrupted run goes on when the same command is given again. Under torchrun the work is shared.

    Args:
        model: folder of the checkpoint, or its hub name
        benchmark: mllmu (arXiv 2410.22108), clear (2410.18057) or umu
        split: its forget set: forget_10, forget05
        out: new folder
        source: the benchmark's folder as downloaded, or a hub name; without it the benchmark's own on the hub
        protocol: official: prompts, examples and scoring as published; strict: what these miss
        original: as the published code does it, its faults included, but with a seed
        compare: other models, NAME=MODEL; vanilla (before forgetting) and gold (never taught the forgotten) are known;
            NAME#1=… NAME#2=… differ in their seed, and get a row with their mean
        seed: of all that is chosen by chance
        batch: prompts at once
        cache: file of answers to keep and to use again; without it, it goes when the run is done
        backend: what answers
        device: where the model runs; auto: a GPU where there is one
        revision: branch, tag or commit of --model
        trust_remote_code: run code that a checkpoint brings along
    """
    refuse_existing(out)
    models = _named(model, compare)
    from unsee.data.sources import open_benchmark
    from unsee.evaluation.engine import open_engine
    from unsee.evaluation.evaluate import evaluate as put
    from unsee.evaluation.protocols.plan import Setting
    from unsee.report.outcome import write_outcome
    from unsee.vision.checkpoint import Checkpoint

    with processes.alike():
        opened = open_benchmark(benchmark, source, split)
        found = [Checkpoint.open(m, None if n else revision, trust_remote_code) for n, m in enumerate(models.values())]
    setting = Setting("llava" if found[0].config.model_type == "llava" else "chat", original, seed)
    given = {"model": model, "benchmark": benchmark, "source": source, "split": split, "protocol": protocol}
    with checkpoints(out) as folder:
        answers = cache or folder / "answers.sqlite"
        how = (trust_remote_code, backend, device_of(device), answers, batch)
        engines = _OneByOne(
            {n: partial(open_engine, c.name, c.revision, *how) for n, c in zip(models, found, strict=True)}
        )
        outcome = put(opened, engines, protocol, setting)
        with processes.alike():
            if processes.first():
                write_outcome(out, outcome, _command(given, compare, original, seed))
        if not cache and processes.first():
            for file in folder.glob("answers.sqlite*"):
                file.unlink()
    Console().print(outcome.table)
    tell(f"{out / 'report.html'} shows every answer")


def _named(model: str, compare: Sequence[str]) -> dict[str, str]:
    """Models by the names that the table has for them: vanilla and gold first."""
    pairs = [pair.partition("=") for pair in compare]
    if odd := [pair for pair, (name, sign, place) in zip(compare, pairs, strict=True) if not (name and sign and place)]:
        raise UnseeError(f"--compare {odd[0]}: write NAME=MODEL, such as vanilla=FOLDER.")
    names = ["model", *(name for name, _, _ in pairs)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UnseeError(f"--compare: the name '{min(twice)}' stands twice. 'model' is the one of --model.")
    return {"model": model, **{name: place for name, _, place in pairs}}


def _command(given: Mapping[str, str], compare: Sequence[str], original: bool, seed: int) -> str:
    """All that the result hangs on."""
    flags = [part for name, value in given.items() if value for part in (f"--{name}", value)]
    flags += ["--compare", *compare] if compare else []
    flags += ["--original"] if original else []
    return shlex.join(["unsee", "evaluate", *flags, "--seed", str(seed)])


class _OneByOne(Mapping[str, "Engine"]):
    """Engines that are opened when they are asked for: no two models are in memory at once."""

    def __init__(self, open_of: Mapping[str, Callable[[], Engine]]) -> None:
        self.open_of = open_of

    def __getitem__(self, name: str) -> Engine:
        say(f"asking {name}")
        return self.open_of[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.open_of)

    def __len__(self) -> int:
        return len(self.open_of)


def data_check(
    source: tyro.conf.Positional[str], *, benchmark: Name | None = None, revision: str | None = None
) -> None:
    """Tell whether a downloaded benchmark is whole: counts, and all that is wrong with it. Exit code 2: something is.

    Args:
        source: folder as downloaded, or a hub name
        benchmark: mllmu, clear or umu; without it, told by its configs
        revision: branch, tag or commit of a hub name
    """
    from unsee.data.check import check

    report = check(source, benchmark or "", revision)
    tell(*report.lines())
    if report.findings:
        raise UnseeError(
            f"{source} has {len(report.findings)} fault(s). Download it again, or mend the rows named above."
        )


def data_export(
    world: tyro.conf.Positional[Literal["people"]], *, format: Name, out: Path, people: int = 40, views: int = 3,
    seed: int = 0,
) -> None:  # fmt: skip
    """Write the embedded people in the layout of a published benchmark, to try everything without a download.

    Args:
        world: people
        format: mllmu, clear or umu
        out: new folder
        people: how many; 5, 10 and 15 % of them can be forgotten
        views: pictures of a person, where the benchmark has several
        seed: which people
    """
    refuse_existing(out)
    from unsee.data.export import export

    export(format, out, people, views, seed)
    tell(f"{out}: {people} people as {format}")


def data_folders(*, benchmark: Name, split: str, out: Path, source: str = "") -> None:
    """Write a benchmark's images as folders that unsee forget takes: OUT/forget, OUT/retain, OUT/real.

    Args:
        benchmark: mllmu, clear or umu
        split: its forget set: forget_10, forget05
        out: new folder
        source: the benchmark's folder as downloaded, or a hub name; without it the benchmark's own on the hub
    """
    refuse_existing(out)
    from unsee.data.sources import folders, open_benchmark

    opened = open_benchmark(benchmark, source, split)
    folders(opened, out)
    tell(f"{out}: {len(opened.forget)} people to forget, {len(opened.retain)} to retain")


def utility(
    *, model: str, tasks: str = "mme,pope,mmbench,scienceqa,mmmu,mmlu", results: Path, task_folder: Path | None = None,
    limit: int | None = None, device: Device = "auto",
) -> None:  # fmt: skip
    """Measure what else a model can do, by lmms-eval (pip install 'unsee[utility]').

    Args:
        model: folder of the checkpoint, or its hub name
        tasks: with commas between
        results: metrics.json of an evaluation, into which the figures go
        task_folder: folder with lmms-eval tasks of your own
        limit: questions of each task, to try it
        device: where the model runs; auto: a GPU where there is one
    """
    from unsee.evaluation.utility import merge, utility

    if not results.is_file():
        raise UnseeError(f"'{results}' is no file. Give the metrics.json that unsee evaluate wrote.")
    figures = utility(model, [t.strip() for t in tasks.split(",")], device_of(device), task_folder, limit)
    merge(results, model, figures)
    for task, metrics in figures.items():
        tell(f"{task}: " + ", ".join(f"{name} {figure['value']:.4g}" for name, figure in metrics.items()))
