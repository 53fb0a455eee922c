"""Answers on disk, so that what was asked once is not asked again and a run that was stopped goes on.

One SQLite file, in write-ahead mode: several processes may read and write it at the same time.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unsee.errors import UnseeError

WAIT = 60.0  # seconds, for another process that writes
TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"


class Cache:
    """Values of JSON by the hash of all they depend on. ``path``: made where it is not there."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # it holds questions that name people
            self._file = sqlite3.connect(self.path, timeout=WAIT)
            self._write_ahead()
            self._file.execute("PRAGMA synchronous=NORMAL")  # whole after a crash; the last answers may be gone
            with self._file:
                self._file.execute(TABLE)

    def _write_ahead(self) -> None:
        """Of two processes that make the file at once SQLite tells one that it is locked, without waiting."""
        until = time.monotonic() + WAIT
        while True:
            try:
                self._file.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def get(self, key: str) -> Any:
        """None where there is nothing."""
        with self._told():
            found = self._file.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
            return json.loads(found[0]) if found else None

    def put(self, key: str, value: Any) -> None:
        with self._told(), self._file:
            text = json.dumps(value, ensure_ascii=False)
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        with self._told():
            return int(self._file.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise UnseeError(
                f"the cache '{self.path}' cannot be used: {error}. Name another file on a disk of this machine, or "
                f"remove this one: it holds nothing but answers that can be asked for again."
            ) from error


def key(*parts: Any) -> str:
    """SHA-256 of values of JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
