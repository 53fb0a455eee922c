"""Write a file or a folder whole or not at all, alone, and private where it holds names or features.

What is being written lies beside its place under a random hidden name, under a lock beside both. A process that was
killed leaves the two behind; the next one that writes in that folder finds the lock free, and removes them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from unsee.errors import UnseeError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OURS = re.compile(r"\.(.+)\.unsee-(?:[0-9a-f]{16}|lock)", re.DOTALL)  # no other program's file is ever swept
SHORT, LONG = 0.3, 10.0  # seconds to wait for another process that writes a folder, and a file
REFUSED = re.compile(r"No space left on device|File too large|Disk quota exceeded|Read-only file system|disk is full")
_at_work: set[tuple[int, Path]] = set()  # by thread: what it has locked, and the folders that are its own
_unfinished: set[Path] = set()
finished: list[Path] = []  # what this process put in place, for who is interrupted and asks


class Unwritten(UnseeError):
    """The system did not write, which the user can mend; the same command again then does."""


@contextmanager
def new_folder(path: Path | str, private: bool = False) -> Iterator[Path]:
    """A folder beside ``path``, renamed to it when the block ends well and removed when it does not.

    ``private``: nobody else may read it, nor what is in it.
    """
    path = Path(path)
    refuse_existing(path)
    with _told(path), at_work(path), _beside(path) as beside:
        refuse_existing(path)  # another may have been quicker
        beside.mkdir(mode=0o700 if private else 0o777)
        with own(beside):
            yield beside
        if private:
            _close_to_others(beside)
        _flush(beside)
        os.replace(beside, path)
        _done(path)


@contextmanager
def new_file(path: Path | str, private: bool = False) -> Iterator[Path]:
    """A file beside ``path``, flushed to disk and renamed to it when the block ends well; an older one is replaced.

    ``private``: nobody else may read it.
    """
    path = Path(path)
    with _told(path), at_work(path, LONG), _beside(path) as beside:
        if private:
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield beside
        if private:
            beside.chmod(0o600)  # whatever wrote it may have made it anew
        flush(beside)
        os.replace(beside, path)
        _done(path)


def write_json(path: Path | str, value: Any, private: bool = False) -> None:
    with new_file(path, private) as file:
        file.write_bytes(text_bytes(json.dumps(value, indent=1, sort_keys=False, ensure_ascii=False) + "\n"))


def text_bytes(text: str) -> bytes:
    r"""UTF-8; a byte of a file's name that is not, which Python holds as a lone surrogate, as JSON's escape \udcXX."""
    return text.encode("utf-8", "backslashreplace")


# One process at a time


@contextmanager
def at_work(path: Path | str, wait: float = SHORT) -> Iterator[None]:
    """Within: no other process writes ``path``. What killed ones left in its folder is gone.

    UnseeError: another is at work on it, and still after ``wait`` seconds. In a block of its own, or in a folder that
    is its own, a process need not ask.
    """
    path = _whole(Path(path))
    thread = threading.get_ident()
    if any((thread, place) in _at_work for place in (path, *path.parents)):
        with _made(path.parent):
            yield
        return
    with _made(path.parent):
        lock = _lock(path)
        try:
            lock.acquire(timeout=wait, poll_interval=0.02)
        except Timeout as error:
            raise UnseeError(
                f"another unsee is at work on '{path}'. Wait until it is done, then give the same command again, or "
                f"name another output."
            ) from error
        _at_work.add((thread, path))
        try:
            sweep(path.parent)
            yield
        finally:
            _at_work.discard((thread, path))
            _unlock(lock)


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Within: only this process writes in ``folder``, whose name no other knows or which it has locked."""
    key = threading.get_ident(), _whole(folder)
    _at_work.add(key)
    try:
        yield
    finally:
        _at_work.discard(key)


def sweep(folder: Path | str) -> None:
    """Remove what killed processes left half written in ``folder``, and nothing that a live one is at work on."""
    found: dict[str, list[Path]] = {}
    with suppress(OSError):  # a folder that can be written but not listed
        for entry in os.scandir(folder):
            if match := OURS.fullmatch(entry.name):
                found.setdefault(match[1], []).append(Path(entry.path))
    for name, left in found.items():
        path = _whole(Path(folder) / name)
        if (threading.get_ident(), path) in _at_work:
            _remove([p for p in left if not _is_lock(p) and _whole(p) not in _unfinished])
            continue
        lock = _lock(path)
        with suppress(Timeout, OSError):  # somebody is at work on it, or it is somebody else's
            lock.acquire(timeout=0)
            _remove([p for p in left if not _is_lock(p)])
            _unlock(lock)


def abandon() -> list[Path]:
    """Remove what this process has half written, where an interruption came between; what could not be removed."""
    _remove(_unfinished)
    left = [p for p in _unfinished if p.exists()]
    _unfinished.clear()
    return left


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
        if not _taken(file, shared):
            file.seek(0)
            raise UnseeError(
                f"another unsee (process {file.read().strip() or 'unknown'}) is at work on the {what} '{path.parent}'. "
                f"Wait until it is done, then give the same command again."
            )
        if not shared:
            with suppress(OSError):  # a full disk: it only tells others who it is
                file.truncate(0)
                file.write(f"{os.getpid()}")
                file.flush()
        yield


def _taken(file: IO[str], shared: bool) -> bool:
    """Not by filelock: its lock for readers and a writer is a database of its own beside the file, which a ledger on
    a read-only disk cannot have, and an older unsee would not see.
    """
    try:
        if fcntl:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:  # readers keep one another out, too
            import msvcrt

            file.seek(2**30)  # beyond what is read; the lock is of the byte that comes next
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            file.seek(0)
    except OSError:
        return False
    return True


def _lock(path: Path) -> FileLock:
    return FileLock(path.parent / f".{path.name}.unsee-lock")


def _is_lock(path: Path) -> bool:
    return path.name.endswith(".unsee-lock")


def _unlock(lock: FileLock) -> None:
    """Let go of it, and leave no file. Who waits for it looks whether the file it locked is still there (filelock)."""
    place = Path(lock.lock_file)
    if fcntl:  # before: afterwards it may be another's
        place.unlink(missing_ok=True)
    lock.release()
    if not fcntl:  # Windows removes no file that somebody has opened
        with suppress(OSError):
            place.unlink()


# Beside its place


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name for what will be ``path``; whatever has it is removed at the end."""
    beside = path.parent / f".{path.name}.unsee-{secrets.token_hex(8)}"
    whole = _whole(beside)
    _unfinished.add(whole)
    try:
        yield beside
    except UnseeError as error:  # of a file in it: name the place that was asked for
        error.args = tuple(str(line).replace(str(beside), str(path)) for line in error.args)
        raise
    finally:
        _remove([beside])
        if not beside.exists():
            _unfinished.discard(whole)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """With ``folder``, which goes again with those above it that were made here where the block does not end well."""
    new = [p for p in (folder, *folder.parents) if not p.exists()]
    if not new and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), f"{folder}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: somebody else uses it now
            for part in new:
                part.rmdir()
        raise


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, SafetensorError)) and not refused(error):
            raise
        why = refused(error) or getattr(error, "strerror", None) or error
        raise Unwritten(f"could not write '{path}': {why}. Nothing of it was left behind.") from error


def refused(error: BaseException | None) -> str:
    """Why the disk took no more, where that is what ``error`` comes from, whatever library put it in its words."""
    while error and not isinstance(error, UnseeError):
        if isinstance(error, sqlite3.OperationalError) and "disk I/O error" in str(error):
            return "disk I/O error"
        if found := REFUSED.search(str(error)):
            return found[0]
        error = error.__cause__ or error.__context__
    return ""


def _done(path: Path) -> None:
    _flush_folder(path.parent)
    if not any((threading.get_ident(), place) in _at_work for place in _whole(path).parents):
        finished.append(path)


def _remove(paths: Any) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _whole(path: Path) -> Path:
    """The place whatever way leads to it; ``path`` itself may be a link."""
    return Path(os.path.realpath(path.parent)) / path.name


def _close_to_others(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        os.chmod(place, 0o700)
        for name in files:
            file = os.path.join(place, name)
            if not os.path.islink(file) and os.stat(file).st_nlink == 1:  # others are somebody else's file, too
                os.chmod(file, 0o600)


def _flush(folder: Path) -> None:
    """All of it to the disk, so that what is renamed is whole after a crash. Eight at a time take a third as long."""
    places = [(place, files) for place, _, files in os.walk(folder)]
    files = [Path(place) / name for place, names in places for name in names]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(flush, [f for f in files if f.is_file() and not f.is_symlink()]))
    for place, _ in places:
        _flush_folder(Path(place))


def flush(file: Path) -> None:
    """What was written to it is on the disk."""
    with file.open("rb" if fcntl else "r+b") as written:  # Windows flushes only what may be written
        os.fsync(written.fileno())


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows, some network disks and folders that cannot be listed have no such thing
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def refuse_existing(path: Path | str) -> None:
    """Refuse an output that would overwrite something, or whose name would be of no use."""
    if "\0" in os.fspath(path):
        raise UnseeError(f"'{path}' has a null character in it, which no name may have.")
    if not _is_utf8(path):
        raise UnseeError(f"'{path}' is not UTF-8, and safetensors opens no file of such a name. Name another output.")
    if os.path.lexists(path):
        _clear_beside(Path(path))
        raise UnseeError(f"'{path}' exists already. Name another output, or remove it first.")


def checkpoint_of(out: Path) -> Path:
    """The hidden folder from which a command that was interrupted goes on."""
    return out.parent / f".{out.name}.checkpoint"


def _clear_beside(out: Path) -> None:
    """What a command left that was killed after it had put its output in place."""
    sweep(out.parent)
    done = out.is_dir() and any(out.iterdir())  # an empty folder is somebody else's doing
    if done and checkpoint_of(out).is_dir() and (threading.get_ident(), _whole(out)) not in _at_work:
        with suppress(UnseeError, OSError), at_work(out):  # or another is about to do it
            shutil.rmtree(checkpoint_of(out), ignore_errors=True)


def _is_utf8(path: Path | str) -> bool:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def sha256(path: Path | str) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
