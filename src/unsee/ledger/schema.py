"""The database's tables, how an older one gets them, and how it is opened."""

from __future__ import annotations

import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from unsee.errors import UnseeError
from unsee.files import Unwritten, refused

BUSY = 10.0  # seconds that a writer waits for another
SECONDS = 10.0  # that one question to the database may take
FILE_CAP, VALUE_CAP = 256 * 2**20, 2**20  # bytes of a database, and of one value in it; a line takes about 1,000
ROW_CAP, LINE_CAP = 1_000_000, 200_000  # rows of a table, and lines of the log: five a request, and one a measurement
ID, HASH = re.compile("[0-9a-f]{8}"), re.compile("[0-9a-f]{64}")
# From version n - 1 to n; PRAGMA user_version says where a database is.
MIGRATIONS = (
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE requests (
        id TEXT PRIMARY KEY, place INTEGER NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 1,
        changed TEXT NOT NULL DEFAULT '{}', batch INTEGER, turn TEXT
    );
    CREATE TABLE images (
        request TEXT NOT NULL REFERENCES requests, concept INTEGER NOT NULL, sha256 TEXT NOT NULL, path TEXT
    );
    CREATE INDEX images_of ON images (request);
    CREATE INDEX images_by ON images (sha256);
    CREATE TABLE retained (sha256 TEXT PRIMARY KEY, turn TEXT);
    CREATE TABLE turns (place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
    CREATE TABLE log (
        number INTEGER PRIMARY KEY, time TEXT NOT NULL, request TEXT NOT NULL, event TEXT NOT NULL,
        body TEXT NOT NULL, before TEXT NOT NULL, hash TEXT NOT NULL
    );
    """,
)
# state → what may follow it. A request goes back to checked to be tried again, or replayed after a rollback.
NEXT = {
    "received": ("checked", "rejected", "rolled back"),
    "checked": ("forgotten", "rejected", "rolled back"),
    "forgotten": ("verified", "checked", "parked", "rolled back"),
    "verified": ("released", "checked", "rolled back"),
    "released": ("checked", "rolled back"),
    "parked": ("checked", "rolled back"),
    "rejected": (),
    "rolled back": (),
}


@contextmanager
def clear(path: Path) -> Iterator[None]:
    """What SQLite says, as one error."""
    try:
        yield
    except UnicodeDecodeError as error:  # in place of sqlite3.Error, where the message quotes a broken schema
        raise UnseeError(f"the ledger's database '{path}' is damaged. Restore it from a copy.") from error
    except sqlite3.Error as error:
        kind = Unwritten if refused(error) else UnseeError
        raise kind(
            f"the ledger's database '{path}' cannot be used: {error}. Nothing of this step was written."
        ) from error


def connect(path: Path) -> sqlite3.Connection:
    """Autocommit: transactions begin and end where ``writing`` says. Deleted content is overwritten with zeros."""
    db = _opened(path, "mode=rw")
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA synchronous = FULL")
    return db


def connect_reading(path: Path) -> sqlite3.Connection:
    """Nothing is written, not even beside the database. Where nobody has it open, no lock is needed either."""
    return _opened(path, "mode=ro" if Path(f"{path}-wal").exists() else "mode=ro&immutable=1")


def _opened(path: Path, how: str) -> sqlite3.Connection:
    """A stranger's file, perhaps: nothing in it is run, and no value of it is larger than what unsee writes."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        _plain_file(file)
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY, isolation_level=None)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_CAP)
    db.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    return db


def _plain_file(path: Path) -> None:
    """UnseeError: a link, a pipe or a folder, or more than a ledger can hold."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnseeError(f"cannot read '{path}': {error.strerror}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise UnseeError(f"'{path}' is not a regular file. Restore the ledger from a copy.")
    if found.st_size > FILE_CAP:
        raise UnseeError(f"'{path}' is larger than {FILE_CAP // 2**20} MiB, the most that is read of a ledger.")


def hurry(db: sqlite3.Connection) -> Callable[[], None]:
    """What begins the time anew that questions to ``db`` may take."""
    until = [time.monotonic() + SECONDS]

    def begin() -> None:
        until[0] = time.monotonic() + SECONDS

    db.set_progress_handler(lambda: time.monotonic() > until[0], 10_000)
    return begin


def refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    """UnseeError: a table, column, index, trigger or view that unsee does not make, or one that is not there."""
    found = set(_schema(db))
    if (number := version(db, path)) != len(MIGRATIONS):
        raise UnseeError(f"the database '{path}' says that its schema is {number}, and it is not. Do not trust it.")
    if odd := sorted(found ^ _own()):
        names = ", ".join(f"{kind} {name[:40]!r}" for kind, name, _, _ in odd[:3])
        raise UnseeError(
            f"the database '{path}' is not made as unsee makes it: {names}. Do not trust it; restore it from a copy."
        )


def _schema(db: sqlite3.Connection) -> Iterator[tuple[str, str, str, str]]:
    for row in db.execute("SELECT type, name, tbl_name, COALESCE(sql, '') FROM sqlite_master LIMIT 1000"):
        yield str(row[0]), str(row[1]), str(row[2]), str(row[3])


@cache
def _own() -> frozenset[tuple[str, str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as db:
        for script in MIGRATIONS:
            db.executescript(script)
        return frozenset(_schema(db))


def version(db: sqlite3.Connection, path: Path) -> int:
    """Of its schema. UnseeError: a newer unsee's."""
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > len(MIGRATIONS):
        raise UnseeError(
            f"'{path}' was written by a newer unsee (schema {found}, this one reads {len(MIGRATIONS)}). Install that."
        )
    return int(found)


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """To this version's schema, one step after the other."""
    done = version(db, path)
    for number, script in enumerate(MIGRATIONS[done:], start=done + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")


# What a column holds


def is_id(value: Any) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def is_hash(value: Any) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_state(value: Any) -> bool:
    return isinstance(value, str) and value in NEXT


def is_path(value: Any) -> bool:
    """Bytes where a name is not UTF-8."""
    return isinstance(value, (str, bytes)) and len(value) > 0


def or_null(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


Kinds = dict[str, Callable[[Any], bool]]
SETTINGS: Kinds = {"name": is_text, "value": is_text}
REQUESTS: Kinds = {
    "id": is_id, "place": is_count, "state": is_state, "attempt": is_count, "changed": is_text,
    "batch": or_null(is_count), "turn": or_null(is_hash),
}  # fmt: skip
IMAGES: Kinds = {"request": is_id, "concept": is_count, "sha256": is_hash, "path": or_null(is_path)}
RETAINED: Kinds = {"sha256": is_hash, "turn": or_null(is_hash)}
TURNS: Kinds = {"place": is_count, "id": is_hash}
LOG: Kinds = {
    "number": is_count, "time": is_text, "request": is_text, "event": is_text, "body": is_text, "before": is_text,
    "hash": is_text,
}  # fmt: skip
