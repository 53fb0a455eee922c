"""What several commands need: reading folders, choosing a device, writing a checkpoint."""

from __future__ import annotations

import gc
import os
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unsee import processes
from unsee.concepts import Concept
from unsee.errors import UnseeError, nearest
from unsee.files import Unwritten, at_work, checkpoint_of, new_folder, own, refuse_existing, sweep
from unsee.progress import say
from unsee.untrusted import shown

if TYPE_CHECKING:
    from unsee.vision.module import Visual

Device = Literal["auto", "cpu", "cuda", "mps"]


def read(folder: Path, skip_bad: bool) -> list[Concept]:
    from unsee.data.folder import read_folder
    from unsee.data.listing import counted, suffixes

    source = read_folder(folder, "skip" if skip_bad else "error")
    for bad in source.rejected:
        say(f"left out {shown(bad.path)}: {bad.reason}")
    if source.ignored:
        say(f"{shown(folder)}: {len(source.ignored)} file(s) are not read: {counted(suffixes(source.ignored))}")
    return list(source.concepts)


def fitting(visual: Visual, concepts: Sequence[Concept]) -> list[Concept]:
    """Without the pictures whose size the model cannot be shown, for --skip-bad. UnseeError: nothing is left of one."""
    from unsee.prepare import misfits

    bad = misfits(visual, concepts)
    for image, reason in bad.items():
        say(f"left out {shown(image)}: {reason}")
    left = [replace(c, images=tuple(i for i in c.images if i.id not in bad)) for c in concepts]
    if empty := [c.id for c in left if not c.images]:
        raise UnseeError(f"no picture that the model can be shown is left of '{shown(empty[0])}'. Leave it out.")
    return left


def pick(concepts: Sequence[Concept], names: str, flag: str) -> list[Concept]:
    """Those of ``names``, between commas; all, where it is empty."""
    by_id = {c.id: c for c in concepts}
    return [by_id[n] for n in dict.fromkeys(_named(names, list(by_id), flag))] if names else list(concepts)


def _named(names: str, there: Sequence[str], flag: str) -> Iterator[str]:
    """A folder's name may have commas too: of what could be meant, the longest that is there."""
    words, most = names.split(","), 1 + max((n.count(",") for n in there), default=0)
    while words:
        tried = [",".join(words[:n]) for n in range(min(most, len(words)), 0, -1)]
        name = next((name for given in tried if (name := _meant(given, there))), "")
        if name:
            yield name
        elif given := words[0].strip():
            raise UnseeError(f"{flag}: there is no folder '{shown(given)}'. {nearest(given, there)}")
        del words[: 1 + name.count(",")]


def _meant(given: str, there: Sequence[str]) -> str:
    """Blanks around it, and how its accents are stored, which nobody sees, count where there is one as it stands."""
    if given in there or given.strip() in there:
        return given if given in there else given.strip()
    alike = [n for n in there if unicodedata.normalize("NFC", n) == unicodedata.normalize("NFC", given.strip())]
    return alike[0] if len(alike) == 1 else ""


def place(model: str) -> str | Path:
    """A folder as a whole path; a hub name as it is."""
    return Path(model) if Path(model).exists() else model


def device_of(wanted: str) -> str:
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


@contextmanager
def keeping_all() -> Iterator[None]:
    """Within, and at the end: no search for garbage among the million objects of torch and transformers, which stay.

    It is a third of a short command's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def save(out: Path, model: Any, processor: Any) -> None:
    with new_folder(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


@contextmanager
def only_here(out: Path) -> Iterator[None]:
    """Within: no other command works on ``out``, which is not there yet. The first of several processes sees to it."""
    with ExitStack() as held:
        with processes.alike():
            if processes.first():
                with beside(out):
                    held.enter_context(at_work(out))
                refuse_existing(out)  # another may have been quicker
        yield


@contextmanager
def beside(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritten(f"cannot write beside '{out}': {error.strerror}.") from error


@contextmanager
def checkpoints(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` that outlives an interruption, and is removed when the work is done.

    Of several processes the first makes and removes it; before the block ends well, they wait for one another.
    """
    folder = checkpoint_of(out)
    with only_here(out), own(folder):
        with processes.alike():
            if processes.first():
                with beside(out):
                    folder.mkdir(mode=0o700, exist_ok=True)
                sweep(folder)
        try:
            yield folder
            if processes.first():
                shutil.rmtree(folder)
        finally:
            if processes.first():
                (folder / "moments.safetensors").unlink(missing_ok=True)  # made again when the command is
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
