"""The database's tables, how an older one gets them, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unsee.errors import UnseeError
from unsee.files import Unwritten, refused

BUSY = 10.0  # seconds that a writer waits for another
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
    except sqlite3.Error as error:
        kind = Unwritten if refused(error) else UnseeError
        raise kind(
            f"the ledger's database '{path}' cannot be used: {error}. Nothing of this step was written."
        ) from error


def connect(path: Path) -> sqlite3.Connection:
    """Autocommit: transactions begin and end where ``writing`` says. Deleted content is overwritten with zeros."""
    db = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA synchronous = FULL")
    return db


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """To this version's schema, one step after the other."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise UnseeError(
            f"'{path}' was written by a newer unsee (schema {version}, this one reads {len(MIGRATIONS)}). Install that."
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
