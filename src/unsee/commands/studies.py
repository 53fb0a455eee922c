"""Small models that know things, made and taught here, and the demo of what forgetting does to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from unsee.commands.shared import checkpoints, read, save
from unsee.config import FinetuneConfig, PretrainConfig
from unsee.errors import UnseeError
from unsee.files import refuse_existing
from unsee.progress import tell

if TYPE_CHECKING:
    from unsee.data.study import Lesson


def pretrain(
    *,
    shape: Literal["llava", "qwen2_vl"],
    out: Path,
    subject: Literal["faces", "flags"] = "faces",
    config: PretrainConfig,
) -> None:
    """Build a tiny model and teach its visual module to see drawn faces, or drawn flags.

    Args:
        shape: the model's architecture
        out: new folder for the checkpoint, in float16
        subject: what is drawn
    """
    refuse_existing(out)
    from unsee import tiny
    from unsee.data import people
    from unsee.pretrain import pictures, pretrain

    model, processor = tiny.build(shape, people.vocabulary(), config.seed)
    losses = pretrain(model, processor, pictures(subject, config.pictures), config)
    save(out, model.half(), processor)
    tell(f"{out}: a {shape} model that can see {subject} (loss {losses[-1]:.3f})")


def finetune(
    *,
    model: Path,
    out: Path,
    data: str = "",
    facts: Path | None = None,
    recipe: Path | None = None,
    benchmark: Literal["mllmu", "clear", "umu"] | None = None,
    source: str = "",
    split: str = "",
    without: str = "",
    draw: int = 0,
    config: FinetuneConfig,
) -> None:
    """Teach people, a folder's concepts or those of a published benchmark to a model.

    An interrupted run resumes when the same command is given again.

    Args:
        model: folder of the checkpoint
        data: people (the embedded world), or a folder with train/, test/ and neutral/, DIR/train/<concept>/*.jpg
        out: new folder for the taught checkpoint, in the dtype of --model
        facts: CSV table of a folder's facts
        recipe: YAML file with the phrasings of questions about them
        benchmark: instead of --data: a published one
        source: the benchmark's folder as downloaded, or a hub name; without it the benchmark's own on the hub
        split: the benchmark's forget set, which is taught with its retain set
        without: split that is not taught, forget_10: the model that never knew it (gold)
        draw: which draw of the split
    """
    refuse_existing(out)
    if bool(data) == bool(benchmark):
        raise UnseeError("what is to be taught? Give --data (people, or a folder) or --benchmark, one of the two.")
    if benchmark:
        lesson = _benchmark_lesson(benchmark, source, split or without, without)
    else:
        from unsee.data.study import study_of

        study = study_of(data, facts, recipe)
        lesson = study.lesson(study.split(without, draw)[0] if without else ())
    from unsee.finetune import finetune
    from unsee.vision.module import load_full

    whole, processor = load_full(model, dtype="auto")
    dtype = whole.dtype
    with checkpoints(out) as checkpoint:
        history = finetune(whole.float(), processor, lesson, config, checkpoint)
        save(out, whole.to(dtype), processor)
    tell(f"{out}: taught {len(lesson.images)} images (loss {history[-1]['image']:.3f})")


def _benchmark_lesson(benchmark: str, source: str, split: str, without: str) -> Lesson:
    from unsee.data.sources import lesson, open_benchmark

    opened = open_benchmark(benchmark, source, split)
    if not without:
        return lesson(opened)
    return lesson(opened, opened.forget if without == split else open_benchmark(benchmark, source, without).forget)


def questions(*, images: Path, recipe: Path, out: Path, facts: Path | None = None) -> None:
    """Make questions.jsonl from a table of facts and a recipe of phrasings.

    Args:
        images: DIR/<concept>/*.jpg
        recipe: YAML file with the phrasings
        out: new file; questions.jsonl in the folder of the images is found there
        facts: CSV table, a row per concept; without it every answer is "unknown"
    """
    refuse_existing(out)
    from unsee.data.facts import load_recipe, questions_from_table
    from unsee.data.questions import BySplit, write_questions

    shown, asked = read(images, skip_bad=False), load_recipe(recipe)
    by_split: BySplit = {
        "train": tuple(questions_from_table(facts, asked, shown, "train")),
        "test": tuple(questions_from_table(facts, asked, shown, "test")),
    }
    write_questions(out, by_split)
    tell(f"{out}: {len(by_split['train'])} questions to teach, {len(by_split['test'])} to test")


def demo(*, out: Path) -> None:
    """Forget twenty of the people that the embedded model knows, and measure everything.

    Args:
        out: new folder for metrics.json and report.html
    """
    from rich.table import Table

    from unsee import demo

    table = Table("", "vanilla", "gold", "unsee")
    for row in demo.summary(demo.run(out)):
        table.add_row(*row)
    Console().print(table)
    tell(f"{out / 'report.html'} shows it")
