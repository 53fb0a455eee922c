"""Teach an assembled model what is on photographs, and measure what it then knows on pictures that it never saw.

    python -m benchmarks.photographs.teach --set groceries --model build/dinov2-smollm2-internvl --out build/groceries

The photographs lie in ../shared/data/photos. An interrupted run goes on when the same command is given again. With
--result the figures are written as JSON: names and facts on unseen pictures in unseen phrasings, facts asked by name,
and how often a neutral picture is answered "unknown", each with its 95 % interval over concepts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.photographs.command import provenance, told
from benchmarks.photographs.sets import FACTS_BY_TEXT, PHOTOS, SETS, UNKNOWN, chosen, joined
from rich.console import Console
from rich.table import Table

from unsee.commands.shared import checkpoints, save
from unsee.config import FinetuneConfig
from unsee.data.images import load_all
from unsee.data.study import FolderStudy, Lesson
from unsee.errors import UnseeError
from unsee.evaluation import answer, tasks
from unsee.files import refuse_existing, write_json
from unsee.finetune import finetune
from unsee.vision.module import Visual, load_full

STRANGERS = 100  # neutral concepts asked about


def teach(
    lessons: list[Lesson], model: Path, out: Path, config: FinetuneConfig, cache: Path | None = None,
    reader: Path | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Write the taught checkpoint to ``out``; returns the history of its losses.

    ``reader``: a checkpoint of the same model whose language model it gets, as ``read`` writes it. It need not be there
    before the pictures are taught. UnseeError: steps that teach the language model too, or other embeddings.
    """
    refuse_existing(out)
    if reader and config.steps:
        raise UnseeError(f"--reader gives a language model, and {config.steps} steps would teach another. Allowed: 0.")
    whole, processor = load_full(model)
    with checkpoints(out) as checkpoint:
        history = finetune(whole, processor, joined(lessons), config, checkpoint, cache)
        if reader:
            _take(whole, reader)
        save(out, whole, processor)
    return history


def _take(model: Any, reader: Path) -> None:
    """The language model of ``reader``, in place. Its embedding is what the visual module was taught to."""
    other, _ = load_full(reader)
    words, read = (m.get_input_embeddings().weight for m in (model, other))
    if words.shape != read.shape or not torch.equal(words, read):
        raise UnseeError(f"{reader} reads other embeddings. Give the one that `read` made of the same --model.")
    model.model.language_model.load_state_dict(other.model.language_model.state_dict())


def measure(study: FolderStudy, model: Any, processor: Any, views: int, facts: int) -> dict[str, Any]:
    """``views``: unseen pictures of each concept; ``facts``: asked about each, by chance, the same for every model."""
    known = study.questions((*study.taught, *study.held_out), views)
    size = tasks.Size(strangers=STRANGERS, facts=facts)
    groups = {"known": known, "strangers": study.stranger_questions(STRANGERS)}
    groups = {name: tasks.sample(questions, size) for name, questions in groups.items()}
    pixels = answer.open_images(Visual(model, processor), [q for qs in groups.values() for q in qs], load_all)
    return tasks.metrics(tasks.sit(model, processor, tasks.Exam(groups, pixels, {}), probabilities=False))


def table(found: dict[str, dict[str, Any]]) -> Table:
    """Percent with the interval, and the aim."""
    shown = Table("", "names (aim)", "facts by image", "facts by text (aim)", "neutral unknown (aim)")
    for name, figures in found.items():
        aims = {"known_names": SETS[name].names, "known_text": FACTS_BY_TEXT, "strangers_unknown": UNKNOWN}
        columns = ("known_names", "known_facts", "known_text", "strangers_unknown")
        shown.add_row(name, *(_cell(figures[c], aims.get(c)) for c in columns))
    return shown


def _cell(figure: dict[str, float], aim: float | None) -> str:
    value, low, high = (100 * figure[k] for k in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]" + (f" ({100 * aim:.0f})" if aim else "")


def _flags(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=(*SETS, "all"), default="groceries")
    parser.add_argument("--model", type=Path, required=True, help="folder of an assembled checkpoint")
    parser.add_argument("--reader", type=Path, help="take the language model of this checkpoint, which `read` made")
    parser.add_argument("--out", type=Path, required=True, help="folder of the taught one; one that is there is asked")
    parser.add_argument("--without", default="", help="forget_N: pictures of N concepts are left out, for a gold model")
    parser.add_argument("--draw", type=int, default=0, help="which N they are")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the three sets")
    parser.add_argument("--config", default="{}", help="JSON of FinetuneConfig fields that differ from the set's")
    parser.add_argument(
        "--cache", type=Path, help="folder of what the frozen tower gives of each picture, for gold models"
    )
    parser.add_argument("--views", type=int, default=5, help="unseen pictures of each concept asked about; 0: none")
    parser.add_argument("--facts", type=int, default=1, help="facts asked about each")
    parser.add_argument("--result", type=Path, help="new JSON file of the figures")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> str:
    started, made = time.time(), provenance("teach")
    config = replace(SETS[chosen(args.set)[-1]].config, **json.loads(args.config))
    studies = {name: SETS[name].study(args.photos) for name in chosen(args.set)}
    lessons = [s.lesson(s.split(args.without, args.draw)[0] if args.without else ()) for s in studies.values()]
    taught: dict[str, Any] = {}  # of a model that is there already nothing is known
    if not args.out.exists():
        history = teach(lessons, args.model, args.out, config, args.cache, args.reader)
        taught = {"config": asdict(config), "history": history, "seconds": time.time() - started}
    model, processor = load_full(args.out)
    found = {name: measure(s, model, processor, args.views, args.facts) for name, s in studies.items() if args.views}
    if found:
        Console().print(table(found))
    if args.result:
        write_json(args.result, {**made, **taught, "threads": torch.get_num_threads(), "sets": found})
    return f"{args.out}: taught {args.set}"


def main(arguments: list[str] | None = None) -> int:
    args = _flags(arguments)
    return told(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
