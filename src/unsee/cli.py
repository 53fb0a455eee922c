"""The command line: a typed function per command, whose signature and docstring are its flags and help.

What a command needs is imported when it runs, so that ``unsee --help`` and most errors come at once.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
import yaml
from rich.console import Console
from rich.text import Text

from unsee import __version__, processes
from unsee.concepts import Concept, Request
from unsee.config import FinetuneConfig, ForgetConfig, PretrainConfig
from unsee.errors import UnseeError, nearest
from unsee.files import new_folder, refuse_existing
from unsee.progress import say

if TYPE_CHECKING:
    from unsee.data.study import Study
    from unsee.vision.module import Visual

Device = Literal["auto", "cpu", "cuda", "mps"]


def forget(
    *,
    model: str,
    forget: Path,
    out: Path,
    retain: Path | None = None,
    statistics: Path | None = None,
    neutral: Path | None = None,
    reference: str | None = None,
    concepts: str = "",
    skip_bad: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: Device = "auto",
    config: ForgetConfig,
) -> None:
    """Make a model forget visual concepts; writes a run folder with the patch.

    An interrupted run resumes when the same command is given again. Under torchrun the work is shared.

    Args:
        model: folder of the multimodal checkpoint, or its hub name; its language model is neither loaded nor downloaded
        forget: images to forget, DIR/<concept>/*.jpg
        out: new folder for config.yaml, manifest.json, metrics.json, patch/, and undo/, which brings everything back
        retain: images of what is to stay; may be the same folder as --forget when --concepts picks from it
        statistics: file made by `unsee statistics`, instead of retained images that are gone
        neutral: the same kind of picture, of concepts the model was not taught
        reference: checkpoint that never learned the concepts, for --region reference
        concepts: only these folders of --forget, with commas: fr,de
        skip_bad: leave out images that cannot be read, and say which
        dry_run: tell which layers would train, and the time and memory it takes; write nothing
        revision: branch, tag or commit of a hub name
        trust_remote_code: run code that the checkpoint brings along
        device: where the visual module runs; auto: a GPU where there is one
    """
    started = time.perf_counter()
    if not dry_run:
        refuse_existing(out)
    request = _request(forget, retain, neutral, concepts, skip_bad)
    _steady_memory()
    from unsee import api, runs
    from unsee.vision.module import load_visual

    with processes.alike():
        where = _device(device)
        visual = load_visual(model, revision, trust_remote_code, where)
        never = load_visual(reference, None, trust_remote_code, where) if reference else None
    if dry_run:
        _dry_run(visual, request, statistics, config, never, started)
        return
    asked = runs.resolved(
        config, model=_place(model), forget=forget, out=out, retain=retain, statistics=statistics, neutral=neutral,
        reference=reference and _place(reference), concepts=concepts, skip_bad=skip_bad, revision=revision,
        trust_remote_code=trust_remote_code or None, device=None if device == "auto" else device,
    )  # fmt: skip
    with _checkpoints(out) as checkpoint:
        result = api.forget(
            visual, **vars(request), statistics=statistics, reference=never, config=config, checkpoint=checkpoint
        )
        with processes.alike():
            if processes.first():
                runs.write_run(out, asked, request, result, statistics, started)
    worst = max(result.certificates.values())
    count = len(result.patch.tensors)
    print(f"{out}: {len(request.forget)} concept(s) forgotten, {count} tensors changed ({result.stopped})")
    print(f"retained outputs of a layer move by at most {worst:.1%} of their energy")
    print(f"next: unsee apply --model {model} --patch {out / 'patch'} --out NEW_MODEL")


def _dry_run(
    visual: Visual,
    request: Request,
    statistics: Path | None,
    config: ForgetConfig,
    never: Visual | None,
    started: float,
) -> None:
    from unsee.plan import plan
    from unsee.prepare import prepare
    from unsee.vision.attention import attention_for

    with attention_for(visual.model, config.bf16):
        job = prepare(visual, request, statistics, config, never)
        lines = plan(visual, job, time.perf_counter() - started, bool(request.retain)).lines()
    print("\n".join(lines))


def statistics(
    *,
    model: str,
    images: Path,
    out: Path,
    concepts: str = "",
    without: str = "",
    skip_bad: bool = False,
    depth: float = ForgetConfig.depth,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: Device = "auto",
) -> None:
    """Record statistics of images that are to stay, so that the images can be deleted.

    Under torchrun the work is shared.

    Args:
        model: folder of the multimodal checkpoint, or its hub name; its language model is neither loaded nor downloaded
        images: DIR/<concept>/*.jpg
        out: new file
        depth: share of the tower's blocks, the last ones, that a request with these statistics may train
        revision: branch, tag or commit of a hub name
        trust_remote_code: run code that the checkpoint brings along
        device: where the visual module runs; auto: a GPU where there is one
        concepts: only these folders, with commas: fr,de
        without: all but these folders
        skip_bad: leave out images that cannot be read, and say which
    """
    refuse_existing(out)
    chosen = _pick(_read(images, skip_bad), concepts, "--concepts")
    unwanted = {c.id for c in _pick(chosen, without, "--without")} if without else set()
    chosen = [c for c in chosen if c.id not in unwanted]
    _steady_memory()
    from unsee import api
    from unsee.vision.module import load_visual

    with processes.alike():
        visual = load_visual(model, revision, trust_remote_code, _device(device))
    moments = api.statistics(visual, None, chosen, ForgetConfig(depth=depth))
    with processes.alike():
        if processes.first():
            out.parent.mkdir(parents=True, exist_ok=True)
            moments.save(out)
    print(f"{out}: {moments.images} images of {len(chosen)} concepts, {len(moments.layers)} layers")


def add_statistics(files: tyro.conf.Positional[tuple[Path, ...]], *, out: Path) -> None:
    """Add up statistics of different images, recorded with the same model.

    Args:
        files: files made by `unsee statistics`
        out: new file
    """
    refuse_existing(out)
    from unsee.forgetting.moments import Moments

    if len(files) < 2:
        raise UnseeError(f"{len(files)} file(s) to add up. Give at least 2.")
    first, *others = (Moments.load(f) for f in files)
    total = sum(others, start=first)
    out.parent.mkdir(parents=True, exist_ok=True)
    total.save(out)
    print(f"{out}: {total.images} images, {len(total.layers)} layers")


def apply(*, model: str, patch: Path, out: Path) -> None:
    """Write a checkpoint with a patch in it. The given one stays as it is.

    What the patch does not touch is linked, not copied. Patches stack: give the checkpoint with the first one.

    Args:
        model: folder of the checkpoint that the patch was made from, or its hub name
        patch: folder patch/ of a run
        out: new folder for the changed checkpoint
    """
    refuse_existing(out)
    from unsee.vision.patch import apply_patch

    for file in apply_patch(model, patch, out):
        say(f"left out {file}: weights in another format, which would hold what was forgotten")
    print(f"{out}: the checkpoint with the patch in it")


def revert(*, model: Path, undo: Path, out: Path) -> None:
    """Write a checkpoint without its last patch: byte for byte as it was before.

    Args:
        model: folder that unsee apply wrote
        undo: folder undo/ of the run whose patch it was
        out: new folder for the checkpoint as it was
    """
    refuse_existing(out)
    from unsee.vision.patch import apply_patch

    apply_patch(model, undo, out)
    print(f"{out}: the checkpoint without the patch")


def lora(*, model: str, patch: Path, out: Path, rank: int = 0) -> None:
    """Write a patch as a LoRA adapter (peft), exact or of low rank.

    Args:
        model: folder of the checkpoint that the patch was made from, or its hub name
        patch: folder patch/ of a run
        out: new folder for the adapter
        rank: of each layer's change; 0: as much as it takes to be exact
    """
    refuse_existing(out)
    from unsee.vision.lora import write_lora

    kept = write_lora(model, patch, out, rank)
    print(
        f"{out}: adapter of rank {kept.rank} at most; {kept.error:.2%} of the change is lost, {kept.worst:.2%} at most"
    )


def inspect_model(
    *, model: str, revision: str | None = None, trust_remote_code: bool = False, depth: float = ForgetConfig.depth
) -> None:
    """Tell what unsee would do with a model: what trains and why the rest does not, what is read, memory and time.

    A model whose family is not in the list is followed in the common way, or refused with what it lacks.

    Args:
        model: folder of the multimodal checkpoint, or its hub name
        revision: branch, tag or commit of a hub name
        trust_remote_code: run code that the checkpoint brings along
        depth: share of the tower's blocks that would train
    """
    with _keeping_all():
        from unsee.inspection import inspect

        print("\n".join(inspect(model, revision, trust_remote_code, depth).lines()))


def push(*, run: Path, repo: str, public: bool = False) -> None:
    """Upload a run's patch to the Hugging Face Hub, with a card that names nobody.

    Args:
        run: folder that unsee forget wrote; only its patch goes out
        repo: OWNER/NAME of the repository, which is made where there is none
        public: let everybody see it
    """
    from unsee import hub

    print(hub.push(run, repo, private=not public))


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
    _save(out, model.half(), processor)
    print(f"{out}: a {shape} model that can see {subject} (loss {losses[-1]:.3f})")


def finetune(
    *,
    model: Path,
    data: str,
    out: Path,
    facts: Path | None = None,
    recipe: Path | None = None,
    without: str = "",
    draw: int = 0,
    config: FinetuneConfig,
) -> None:
    """Teach people or a folder's concepts to a model.

    An interrupted run resumes when the same command is given again.

    Args:
        model: folder of the checkpoint
        data: people (the embedded world), or a folder with train/, test/ and neutral/, DIR/train/<concept>/*.jpg
        out: new folder for the taught checkpoint, in the dtype of --model
        facts: CSV table of a folder's facts
        recipe: YAML file with the phrasings of questions about them
        without: split that is not taught, forget_10: the model that never knew it (gold)
        draw: which draw of the split
    """
    refuse_existing(out)
    study = _study(data, facts, recipe)
    lesson = study.lesson(study.split(without, draw)[0] if without else ())
    from unsee.finetune import finetune
    from unsee.vision.module import load_full

    whole, processor = load_full(model, dtype="auto")
    dtype = whole.dtype
    with _checkpoints(out) as checkpoint:
        history = finetune(whole.float(), processor, lesson, config, checkpoint)
        _save(out, whole.to(dtype), processor)
    print(f"{out}: taught {len(lesson.images)} images (loss {history[-1]['image']:.3f})")


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

    shown, asked = _read(images, skip_bad=False), load_recipe(recipe)
    by_split: BySplit = {
        "train": tuple(questions_from_table(facts, asked, shown, "train")),
        "test": tuple(questions_from_table(facts, asked, shown, "test")),
    }
    write_questions(out, by_split)
    print(f"{out}: {len(by_split['train'])} questions to teach, {len(by_split['test'])} to test")


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
    print(f"{out / 'report.html'} shows it")


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "forget": forget,
    "statistics": statistics,
    "add-statistics": add_statistics,
    "apply": apply,
    "revert": revert,
    "inspect": inspect_model,
    "lora": lora,
    "push": push,
    "finetune": finetune,
    "pretrain": pretrain,
    "questions": questions,
}
RESUME = ("forget", "finetune")  # the same command again goes on where it was stopped
SHARED = ("forget", "statistics")  # several processes can do them together
CONFIG_HELP = "--config FILE reads flags from a YAML file, such as the config.yaml of a run; flags given beside it win."


def main(args: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 2 for what the user can put right, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if args is None else args)
    _quiet()
    code = _answer(given)
    processes.leave(code)
    return code


def _answer(given: list[str]) -> int:
    try:
        processes.meet()
        return _run(given)
    except UnseeError as error:
        if processes.speaks():
            Console(stderr=True).print(Text("error: ", "bold red") + Text(str(error)), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        again = "run the same command again to resume" if given[0] in RESUME else "nothing was written"
        say(f"\nstopped; {again}")
        return processes.INTERRUPTED


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0
    if given[0] == "--version":
        print(f"unsee {__version__}")
        return 0
    if given[0] not in COMMANDS:
        raise UnseeError(f"there is no command '{given[0]}'. {nearest(given[0], COMMANDS)}")
    if processes.asked() > 1 and given[0] not in SHARED:
        raise UnseeError(f"unsee {given[0]} is the work of one process. Start it without torchrun.")
    command = COMMANDS[given[0]]
    flags = _with_file(command, given[1:])
    description = f"{inspect.getdoc(command)}".partition("\n\nArgs:")[0] + f"\n\n{CONFIG_HELP}"
    marks = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    try:
        tyro.cli(
            command, prog=f"unsee {given[0]}", args=flags, description=description, config=marks,
            console_outputs=processes.first(),
        )  # fmt: skip
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    return 0


@contextmanager
def _keeping_all() -> Iterator[None]:
    """Within, and at the end: no search for garbage among the million objects of torch and transformers, which stay.

    It is a third of a short command's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def overview() -> str:
    """What ``unsee --help`` prints."""
    rows = [f"  {name:<16}{inspect.getdoc(f)}".partition("\n")[0] for name, f in COMMANDS.items()]
    return "\n".join([
        "usage: unsee COMMAND [flags]", "",
        "Make multimodal models forget visual concepts: a person, a brand, a flag.", "", *rows, "",
        "unsee COMMAND --help tells its flags.", CONFIG_HELP,
    ])  # fmt: skip


def _quiet() -> None:
    """Our commands report their own progress: switch off the bars and remarks of transformers and its hub."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _with_file(command: Callable[..., None], args: list[str]) -> list[str]:
    """Put the flags that ``--config FILE`` holds before the others, which so win."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(args)
    if found.config is None:
        return rest
    from unsee.data.tables import read_text

    try:
        values = yaml.safe_load(read_text(found.config))
    except yaml.YAMLError as error:
        raise UnseeError(f"{found.config} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UnseeError(f"{found.config} holds no settings: lines such as 'steps: 120' are needed.")
    allowed = _flags(command)
    unknown = [f"  {k}. {nearest(str(k), allowed).partition('Allowed:')[0]}" for k in values if k not in allowed]
    if unknown:
        head, foot = f"{found.config} has {len(unknown)} unknown key(s):", f"Allowed: {', '.join(sorted(allowed))}."
        raise UnseeError("\n".join([head, *unknown, foot]))
    return [part for key, value in values.items() for part in _flag(key, value)] + rest


def _flags(command: Callable[..., None]) -> list[str]:
    names = [n for n in inspect.signature(command).parameters if n != "config"]
    config = command.__annotations__.get("config")
    return names + ([f.name for f in fields(globals()[config])] if config else [])


def _flag(key: str, value: Any) -> list[str]:
    flag = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]


def _request(forget: Path, retain: Path | None, neutral: Path | None, concepts: str, skip_bad: bool) -> Request:
    """Read the folders. Where retained images lie in the same folder, what is to be forgotten is taken out of them."""
    everything = _read(forget, skip_bad)
    asked = _pick(everything, concepts, "--concepts")
    if retain and retain.resolve() == forget.resolve():
        kept = [c for c in everything if c not in asked]
        if not kept:
            raise UnseeError(f"all of '{forget}' is to be forgotten, so nothing is left for --retain: give --concepts.")
    else:
        kept = _read(retain, skip_bad) if retain else []
    return Request(asked, kept, _read(neutral, skip_bad) if neutral else [])


def _read(folder: Path, skip_bad: bool) -> list[Concept]:
    from unsee.data.folder import read_folder

    source = read_folder(folder, "skip" if skip_bad else "error")
    for bad in source.rejected:
        say(f"left out {bad.path}: {bad.reason}")
    return list(source.concepts)


def _pick(concepts: Sequence[Concept], names: str, flag: str) -> list[Concept]:
    by_id = {c.id: c for c in concepts}
    wanted = [n.strip() for n in names.split(",") if n.strip()]
    unknown = [n for n in wanted if n not in by_id]
    if unknown:
        raise UnseeError(f"{flag}: there is no folder '{unknown[0]}'. {nearest(unknown[0], by_id)}")
    return [by_id[n] for n in dict.fromkeys(wanted)] if names else list(concepts)


def _study(data: str, facts: Path | None, recipe: Path | None) -> Study:
    from unsee.data.study import FolderStudy, PeopleStudy

    if data == "people":
        return PeopleStudy()
    if facts is None or recipe is None:
        raise UnseeError(f"--data {data} is a folder: --facts CSV and --recipe YAML tell what to teach about it.")
    return FolderStudy(data, facts, recipe)


def _steady_memory() -> None:
    """Large blocks go back to the system when they are freed (glibc; mallopt 3).

    The peak of a request on LLaVA-1.5-7B's tower fell by 1 GiB with it. 1 MiB: a small tower has few blocks so large.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
                libc.mallopt(option, 2**20)


def _device(wanted: str) -> str:
    """Under torchrun each process of a machine has a GPU of its own."""
    import torch

    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if wanted == "mps":
        return "mps"
    if not torch.cuda.is_available():
        raise UnseeError("--device cuda: torch sees no GPU here. Give --device cpu, or install torch with CUDA.")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise UnseeError(f"torchrun started more processes than there are GPUs: give --nproc_per_node {there}.")
    torch.cuda.set_device(number)  # where NCCL works, and where tensors of other processes arrive
    return f"cuda:{number}"


def _place(model: str) -> str | Path:
    """A folder as a whole path; a hub name as it is."""
    return Path(model) if Path(model).exists() else model


def _save(out: Path, model: Any, processor: Any) -> None:
    with new_folder(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


@contextmanager
def _checkpoints(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` that outlives an interruption, and is removed when the work is done.

    Of several processes the first makes and removes it; before the block ends well, they wait for one another.
    """
    folder = out.parent / f".{out.name}.checkpoint"
    with processes.alike():
        if processes.first():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UnseeError(f"cannot write beside '{out}': {error.strerror}.") from error
    try:
        yield folder
        if processes.first():
            shutil.rmtree(folder)
    finally:
        if processes.first():
            (folder / "moments.safetensors").unlink(missing_ok=True)  # made again when the command is
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
