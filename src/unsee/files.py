"""Write a file or a folder whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unsee.errors import UnseeError


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """A folder beside ``path``, renamed to it when the block ends well and removed when it does not."""
    path = Path(path)
    refuse_existing(path)
    beside = _beside(path)
    try:
        beside.mkdir(parents=True)
        yield beside
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error
    except UnseeError as error:  # of a file in it: name the place that was asked for
        raise UnseeError(str(error).replace(str(beside), str(path))) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def new_file(path: Path | str) -> Iterator[Path]:
    """A file beside ``path``, flushed to disk and renamed to it when the block ends well; an older one is replaced."""
    path = Path(path)
    beside = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):
            beside.unlink()


@contextmanager
def locked(path: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Within: no other process has the lock ``path`` of the ``what`` that its folder is, or only shared ones.

    The system lets go of it when the process ends, however it ends. UnseeError: another has it, or there is none: made
    again while somebody holds one that was removed, it would let in two.
    """
    try:
        file = path.open("r" if shared else "r+")
    except OSError as error:
        raise UnseeError(f"cannot lock the {what} '{path.parent}': {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UnseeError(
                f"another unsee (process {file.read().strip() or 'unknown'}) is at work on the {what} '{path.parent}'. "
                f"Wait until it is done, then give the same command again."
            ) from error
        if not shared:
            file.truncate(0)
            file.write(f"{os.getpid()}")
            file.flush()
        yield


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.tmp-{os.getpid()}"


def _unwritten(path: Path, error: Exception) -> UnseeError:
    why = error.strerror if isinstance(error, OSError) else None
    return UnseeError(f"could not write '{path}': {why or error}. Nothing was left behind.")


def refuse_existing(path: Path | str) -> None:
    """Refuse an output that would overwrite something."""
    if Path(path).exists():
        raise UnseeError(f"'{path}' exists already. Name another output, or remove it first.")


def write_json(path: Path | str, value: Any) -> None:
    with new_file(path) as file:
        file.write_text(json.dumps(value, indent=1, sort_keys=False, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path | str) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
