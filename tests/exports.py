"""Small exports of the embedded people, made once, and copies of them in which something is changed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from unsee.concepts import ImageRef, Question
from unsee.data.benchmark import Benchmark, Entry
from unsee.data.export import FILE, export
from unsee.data.world import Layout

_ROOT = TemporaryDirectory(prefix="unsee-exports-")
datasets.config.HF_DATASETS_CACHE = f"{_ROOT.name}/cache"  # tests write nothing into the user's

Rows = list[dict[str, Any]]


@cache
def made(name: str) -> tuple[Path, Layout]:
    """20 people, two views of each. Nobody may write into it."""
    out = Path(_ROOT.name) / name
    return out, export(name, out, 20, 2)


def copy(name: str, to: Path) -> Path:
    shutil.copytree(made(name)[0], to)
    return to


def change(
    root: Path, config: str, edit: Callable[[Rows], Any] = lambda rows: None, names: dict[str, str] | None = None
) -> None:
    """Edits the rows of a config in place, renames columns; a column renamed to nothing goes."""
    path = root / config / FILE
    table = pq.read_table(path)
    rows = table.to_pylist()
    edit(rows)
    table = pa.Table.from_pylist(rows, schema=table.schema.remove_metadata())
    renamed = table.rename_columns([(names or {}).get(n, n) for n in table.column_names])
    pq.write_table(renamed.drop_columns([n for n in renamed.column_names if not n]), path)


def plain(benchmark: Benchmark) -> dict[str, Any]:
    """All of a benchmark, with each image as a hash of its pixels."""
    seen: dict[str, str] = {}

    def pixels(image: ImageRef) -> str:
        if image.id not in seen:
            loaded = image.load()
            seen[image.id] = hashlib.sha256(repr(loaded.size).encode() + loaded.tobytes()).hexdigest()
        return seen[image.id]

    def asked(question: Question) -> tuple[Any, ...]:
        return (*astuple(replace(question, image=None)), pixels(question.image) if question.image else None)

    def entry(e: Entry) -> tuple[Any, ...]:
        return (e.id, e.group, e.task, e.pair, e.paraphrase, e.perturbed, e.letter, asked(e.question))

    return {
        "name": benchmark.name, "split": benchmark.split, "forget": benchmark.forget, "retain": benchmark.retain,
        "concepts": {id: [pixels(image) for image in c.images] for id, c in benchmark.concepts.items()},
        "entries": [entry(e) for e in benchmark.entries], "shots": [entry(e) for e in benchmark.shots],
        "taught": [asked(q) for q in benchmark.taught],
    }  # fmt: skip
