"""The files of a checkpoint in a new folder: which are taken, and which are left out and why."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unsee.errors import UnseeError
from unsee.progress import say
from unsee.untrusted import read_json, shown
from unsee.vision.checkpoint import Checkpoint
from unsee.vision.folder import CONFIG, INDEXES, OTHER_FORMATS

FORMAT = "weights in another format, which would hold what was forgotten"
BESIDE = "weights beside those that are loaded, which would hold what was forgotten"
UNUSED = "an index of weights that are left out"
TWIN = "another name of weights that are taken"
TOLD = 20  # files
FOLDER, NOTHING, SPECIAL = "a link to a folder", "a link to nothing", "not a regular file"


@dataclass
class Files:
    """Below a checkpoint's folder. ``kept``: file → what is copied. ``left``: what is left out → why. ``away``: links
    that lead out of it."""

    kept: dict[Path, Path] = field(default_factory=dict)
    left: dict[Path, str] = field(default_factory=dict)
    away: list[Path] = field(default_factory=list)


def files_of(checkpoint: Checkpoint) -> Files:
    """UnseeError: a link leads out of the folder: what lies there is the reader's own, or nobody's to pass on.

    Weights that are loaded may lie elsewhere, each checked to hold what the model asks for; a hub's files lie in its
    cache.
    """
    served = {Path(f) for f in checkpoint.shards.values()}
    found = _sorted(checkpoint.folder, served)
    for file in [f for f in found.kept if f not in served]:
        if why := _stale(checkpoint, file):
            found.left[file] = why
            del found.kept[file]
    if found.away:
        raise UnseeError(
            f"'{shown(checkpoint.name)}' has {len(found.away)} link(s) that lead out of it, first "
            f"{shown(found.away[0])}. unsee copies nothing from elsewhere: remove them, or put the files there."
        )
    if missing := {*served, Path(CONFIG)} - found.kept.keys():
        raise UnseeError(f"'{shown(checkpoint.name)}' changed while it was read: {shown(min(missing))} is gone.")
    return found


def _stale(checkpoint: Checkpoint, file: Path) -> str:
    """Why a file that is not loaded is left out; empty: it is no weights."""
    if file.suffix in OTHER_FORMATS:
        return FORMAT
    if file.suffix == ".safetensors":
        return BESIDE
    if INDEXES.search(file.name) and str(file) != checkpoint.index:
        return "" if _harmless(checkpoint, file) else UNUSED
    return ""


def _harmless(checkpoint: Checkpoint, index: Path) -> bool:
    """It names the files that are taken, and no others."""
    if len(index.parts) > 1:
        return False
    try:
        found = read_json(checkpoint.folder / index)
        return set(found["weight_map"].values()) == set(checkpoint.shards.values())
    except (UnseeError, LookupError, TypeError, AttributeError):
        return False


def _sorted(root: Path, served: set[Path]) -> Files:
    found, homes = Files(), _homes(root)
    weights = {_identity(root / f): f for f in served if (root / f).exists()}
    for path in _walk(root):
        file, real = path.relative_to(root), Path(os.path.realpath(path))
        if path.is_symlink() and not real.exists():
            found.left[file] = NOTHING
        elif not any(real.is_relative_to(home) for home in homes) and file not in served:
            found.away.append(file)
        elif path.is_dir():
            found.left[file] = FOLDER
        elif not stat.S_ISREG(real.stat().st_mode):
            found.left[file] = SPECIAL
        elif file not in served and _identity(real) in weights:
            found.left[file] = f"{TWIN}, {shown(weights[_identity(real)])}"
        else:
            found.kept[file] = real
    return found


def _homes(root: Path) -> list[Path]:
    """Where a checkpoint's files may lie: in its folder; of a snapshot in the hub's cache, among its blobs too."""
    real = Path(os.path.realpath(root))
    blobs = real.parent.parent / "blobs"
    cached = real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--") and blobs.is_dir()
    return [real, Path(os.path.realpath(blobs))] if cached else [real]


def _walk(root: Path) -> Iterator[Path]:
    """Everything below but hidden files, in order. Links to folders are named, not followed: they may go round."""
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def room(checkpoint: Checkpoint, out: str | Path, touched: set[str]) -> None:
    """UnseeError: no space for ``touched``; for all shards, where there can be no links to them."""
    place = Path(out).absolute().parent
    while not place.exists():
        place = place.parent
    shards = [(f, (checkpoint.folder / f).stat()) for f in sorted(set(checkpoint.shards.values()))]
    wanted = sum(s.st_size for f, s in shards if f in touched or s.st_dev != place.stat().st_dev)
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise UnseeError(
            f"the patched checkpoint takes {wanted / 2**30:.1f} GiB and '{shown(place)}' has {free / 2**30:.1f} free. "
            f"Make room, or give --out elsewhere."
        )


def put(real: Path, target: Path, link: bool) -> None:
    """A hard link of a shard, whose bytes nobody changes in place; a copy of what a program may rewrite."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(real, target)
            return
        except OSError:  # another file system, or one without links
            say(f"copying {shown(target.name)}: it cannot be linked there")
    try:
        shutil.copyfile(real, target)
    except PermissionError as error:
        raise UnseeError(f"cannot read '{shown(real)}': {error.strerror}. Make it readable, or remove it.") from error


def told(left: Mapping[str, str]) -> list[str]:
    """A line for each file that was left out, up to TOLD of them."""
    lines = [f"left out {shown(file)[:200]}: {why}" for file, why in list(left.items())[:TOLD]]
    return [*lines, *([f"left out {len(left) - TOLD} more"] if len(left) > TOLD else [])]
