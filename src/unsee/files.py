"""Write a file or a folder whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unsee.errors import UnseeError


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """A folder beside ``path``, renamed to it when the block ends well and removed when it does not."""
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.tmp-{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise UnseeError(f"could not write '{path}': {error.strerror or error}. Nothing was left behind.") from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


@contextmanager
def new_file(path: Path | str) -> Iterator[Path]:
    """A file beside ``path``, flushed to disk and renamed to it when the block ends well; an older one is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.tmp-{os.getpid()}"
    try:
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise UnseeError(f"could not write '{path}': {error.strerror or error}. Nothing was left behind.") from error
    finally:
        beside.unlink(missing_ok=True)


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
