"""The published benchmarks: a row each. From a folder as downloaded, or by a name on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unsee.concepts import Concept, ImageRef, Question
from unsee.data import clear, mllmu, umu
from unsee.data.augment import augment
from unsee.data.benchmark import Benchmark
from unsee.data.parquet import Source
from unsee.data.stored import Columns
from unsee.data.study import Lesson
from unsee.data.world import Layout, World
from unsee.errors import UnseeError, nearest
from unsee.files import new_folder
from unsee.progress import say
from unsee.untrusted import shown

ALTERED = 3  # copies of an image that stands alone: forgetting needs more than one


@dataclass(frozen=True)
class Format:
    """One benchmark's layout. ``splits``: forget sets, each with its retain set. ``configs``: columns needed."""

    read: Callable[[Source, str], Benchmark]
    export: Callable[[World], Layout]
    hub: str
    splits: Mapping[str, str]
    configs: Mapping[str, Columns]


SOURCES: dict[str, Format] = {
    "mllmu": Format(mllmu.read, mllmu.export, mllmu.HUB, mllmu.SPLITS, mllmu.CONFIGS),
    "clear": Format(clear.read, clear.export, clear.HUB, clear.SPLITS, clear.CONFIGS),
    "umu": Format(umu.read, umu.export, umu.HUB, umu.SPLITS, umu.CONFIGS),
}


def open_benchmark(name: str, source: str = "", split: str = "", revision: str | None = None) -> Benchmark:
    """One split of a benchmark. ``source``: a folder or a hub name; empty: its own name on the hub.

    ``revision``: of the hub. Raises an UnseeError that lists every config, column and row that cannot be read; single
    questions that cannot be asked are left out, and said.
    """
    form = known(name)
    if split not in form.splits:
        raise UnseeError(f"split '{split}' of {name}. {nearest(split, form.splits)}")
    opened = Source(name, str(source or form.hub), revision)
    benchmark = form.read(opened, split)
    whole = next(iter(form.configs))
    for config, found in ((split, benchmark.forget), (form.splits[split], benchmark.retain)):
        if strange := [id for id in found if id not in benchmark.concepts]:
            opened.report(
                config, "", f"people who are not in {whole}: {', '.join(strange[:5])}", "Download both again."
            )
    opened.refuse()
    if opened.findings:
        say(f"{opened.where} has {len(opened.findings)} fault(s), read on: `unsee data check` tells them")
    return benchmark


def known(name: str) -> Format:
    if name not in SOURCES:
        raise UnseeError(f"benchmark '{name}'. {nearest(name, SOURCES)}")
    return SOURCES[name]


def lesson(benchmark: Benchmark, without: Collection[str] = (), words: bool = True) -> Lesson:
    """The benchmark's training questions for ``finetune``.

    ``without``: ids whose images are not shown, for a retain-only model. ``words``: what is said of them without an
    image is taught all the same, as forgetting somebody's looks keeps it; False for the benchmarks' own retain-only.
    """
    shown: dict[str, tuple[ImageRef, list[Question]]] = {}
    said: dict[str, list[Question]] = {}
    for question in benchmark.taught:
        gone = question.concept in without
        if question.image is None and not (gone and not words):
            said.setdefault(question.concept, []).append(question)
        elif question.image and not gone:
            shown.setdefault(question.image.id, (question.image, []))[1].append(question)
    asked, recited = [questions for _, questions in shown.values()], list(said.values())
    return Lesson([image for image, _ in shown.values()], len(recited), lambda i, _: asked[i], lambda i, _: recited[i])


def folders(benchmark: Benchmark, out: Path | str) -> Path:
    """Writes ``out/forget/<id>/*.png``, ``retain/…`` and ``real/…``, as ``unsee forget`` takes them.

    Of a person with one image, altered copies stand beside it: a request needs one to learn from and one held back.
    """
    groups = {
        "forget": benchmark.of(benchmark.forget),
        "retain": benchmark.of(benchmark.retain),
        "real": _real(benchmark),
    }
    with new_folder(out, private=True) as root:
        for group, concepts in groups.items():
            for concept in concepts:
                _write(root / group / _plain(concept.id), concept.images)
    return Path(out)


def _real(benchmark: Benchmark) -> list[Concept]:
    """Celebrities, with the images they are asked about."""
    images: dict[str, dict[str, ImageRef]] = {}
    for entry in (e for group in ("real", "faces") for e in benchmark.groups.get(group, [])):
        if entry.question.image:
            images.setdefault(entry.question.concept, {})[entry.question.image.id] = entry.question.image
    return [Concept(id, tuple(found.values())) for id, found in images.items()]


def _write(folder: Path, images: Sequence[ImageRef]) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        opened = image.load()
        opened.save(folder / f"{number:03d}.png")
        if len(images) == 1:
            rng = np.random.default_rng(0)
            for copy in range(ALTERED):
                augment(opened, rng).save(folder / f"{number:03d}_altered_{copy}.png")


def _plain(id: str) -> str:
    """An id comes from a download: it must not lead out of the folder."""
    if shown(id) != id or id.startswith(".") or any(sign in id for sign in "/\\:\0"):
        raise UnseeError(f"the id '{shown(id)}' cannot name a folder. Give the person another id in the tables.")
    return id
