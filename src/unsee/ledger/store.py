"""The database of a ledger: requests, the patches on the base, the log. SQLite in WAL mode, one writer at a time."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unsee.errors import UnseeError
from unsee.files import flush, new_file
from unsee.ledger import schema
from unsee.ledger.facts import SECRET, seal_images, seal_paths
from unsee.ledger.log import Line
from unsee.ledger.schema import LINE_CAP, NEXT, ROW_CAP, Kinds, clear, connect, connect_reading, migrate
from unsee.progress import say
from unsee.untrusted import parse_json

FILE, HEAD = "ledger.db", "head.json"


@dataclass(frozen=True)
class Entry:
    """One request. ``changed``: settings that are its own; ``batch``: those of one number are forgotten together, in
    the order of these numbers; ``turn``: id of the patch that forgets it."""

    id: str
    place: int
    state: str
    attempt: int
    changed: dict[str, float]
    batch: int | None
    turn: str | None


@dataclass(frozen=True)
class Image:
    """One image of a request. ``path``: None once the request was released."""

    request: str
    concept: int
    sha256: str
    path: Path | None


class Store:
    """Reads at any time; writes within ``writing`` only, all of a block or nothing."""

    def __init__(self, folder: Path, reading: bool = False) -> None:
        self.folder, self.path = folder, folder / FILE
        if not os.path.lexists(self.path):
            raise UnseeError(f"'{folder}' is no ledger. Make one: unsee requests init --ledger {folder} …")
        with clear(self.path):
            self.db = (connect_reading if reading else connect)(self.path)
            self._begin = schema.hurry(self.db)
            if not reading:
                migrate(self.db, self.path)
            schema.refuse_foreign(self.db, self.path)

    @classmethod
    def create(cls, folder: Path) -> Store:
        """A new database in ``folder``, which is there. Nobody else may read it: it holds paths."""
        os.close(os.open(folder / FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with clear(folder / FILE):
            db = connect(folder / FILE)
            db.execute("PRAGMA journal_mode = WAL")
            db.close()
        return cls(folder)

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, and the hash of its last log line beside the database.

        What notes the hash is on the disk before the transaction ends: where there is no room for it, nothing happened.
        """
        with clear(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._end()
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def _end(self) -> None:
        if not (last := self.last()):
            self.db.execute("COMMIT")
            return
        with new_file(self.folder / HEAD, private=True) as file:
            file.write_text(json.dumps({"line": last.number, "hash": last.hash}, indent=1) + "\n", encoding="utf-8")
            flush(file)
            self.db.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within: what is read is of one moment, whatever another process writes."""
        if self.db.in_transaction:
            yield
            return
        with clear(self.path):
            self.db.execute("BEGIN")
        try:
            yield
        finally:
            self.db.execute("ROLLBACK")

    def rows(self, sql: str, *given: Any) -> list[Any]:
        with clear(self.path):
            self._begin()
            found = self.db.execute(sql, given).fetchmany(ROW_CAP + 1)
        if len(found) > ROW_CAP:
            raise UnseeError(f"a table of '{self.path}' has more than {ROW_CAP:,} rows, the most that is read.")
        return found

    def table(self, name: str, kinds: Kinds, rest: str = "", *given: Any) -> list[Any]:
        """Columns ``kinds`` of a table. UnseeError: one holds what unsee does not write."""
        found = self.rows(f"SELECT {', '.join(kinds)} FROM {name} {rest}", *given)
        for row in found:
            for (column, kind), value in zip(kinds.items(), row, strict=True):
                if not kind(value):
                    raise UnseeError(
                        f"the table {name} of '{self.path}' holds {repr(value)[:60]} as a {column}, which unsee never "
                        f"writes. Restore it from a copy."
                    )
        return found

    def write(self, sql: str, *given: Any) -> None:
        self.db.execute(sql, given)

    # Settings

    def put(self, name: str, value: Any) -> None:
        self.write("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, json.dumps(value))

    def get(self, name: str) -> Any:
        found = self.table("settings", schema.SETTINGS, "WHERE name = ?", name)
        if not found:
            raise UnseeError(f"the ledger's database '{self.path}' lacks '{name}'. Restore it from a copy.")
        return self.parsed(found[0][1], name)

    def parsed(self, text: str, what: str) -> Any:
        """JSON as it was written, to the letter."""
        try:
            found = parse_json(text)
            if json.dumps(found) == text:
                return found
        except ValueError:
            pass
        raise UnseeError(f"'{what}' in the ledger's database '{self.path}' was written by something else than unsee.")

    def drop(self, name: str) -> None:
        self.write("DELETE FROM settings WHERE name = ?", name)

    # The log

    def note(self, request: str, event: str, **body: Any) -> None:
        """Add a line. Nothing in it may name anybody: it stays for ever."""
        line = Line.after(self.last(), datetime.now(UTC).isoformat(timespec="milliseconds"), request, event, body)
        text = json.dumps(line.body, sort_keys=True)
        self.write(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)",
            line.number, line.time, line.request, line.event, text, line.before, line.hash,
        )  # fmt: skip

    def last(self) -> Line | None:
        found = self._lines("ORDER BY number DESC LIMIT 1")
        return found[0] if found else None

    def lines(self, request: str = "") -> list[Line]:
        """All, or those about one request."""
        if self.rows(f"SELECT COUNT(*) FROM (SELECT 1 FROM log LIMIT {LINE_CAP + 1})")[0][0] > LINE_CAP:
            raise UnseeError(f"the log of '{self.path}' has more than {LINE_CAP:,} lines, the most that is read.")
        return self._lines("WHERE ? IN (request, '') ORDER BY number", request)

    def _lines(self, rest: str, *given: Any) -> list[Line]:
        rows = self.table("log", schema.LOG, rest, *given)
        return [Line(r[0], r[1], r[2], r[3], _body(r[4]), r[5], r[6]) for r in rows]

    # Requests

    def add(self, images: Sequence[tuple[int, str, Path]]) -> str:
        """A new request; its images as concept number, hash and path."""
        id, (place,) = secrets.token_hex(4), self.rows("SELECT COALESCE(MAX(place), 0) + 1 FROM requests")[0]
        self.write("INSERT INTO requests (id, place, state) VALUES (?, ?, 'received')", id, place)
        for concept, sha256, path in images:
            self.write("INSERT INTO images VALUES (?, ?, ?, ?)", id, concept, sha256, _written(path))
        secret = secrets.token_hex(16)
        self.put(f"{SECRET}{id}", secret)
        facts = seal_images([(concept, sha256) for concept, sha256, _ in images])
        self.note(id, "received", **facts, paths=seal_paths(secret, [path for _, _, path in images]))
        return id

    def entries(self, *states: str) -> list[Entry]:
        """Requests in the order they came, or only those in one of ``states``."""
        rows = self.table("requests", schema.REQUESTS, "ORDER BY place")
        found = [Entry(r[0], r[1], r[2], r[3], self.parsed(r[4], "changed"), r[5], r[6]) for r in rows]
        return [e for e in found if not states or e.state in states]

    def entry(self, id: str) -> Entry:
        """UnseeError: there is none of this id."""
        known = {e.id: e for e in self.entries()}
        if id not in known:
            some = ", ".join(known) or "none yet"
            raise UnseeError(f"there is no request '{id}' in this ledger. Its requests: {some}.")
        return known[id]

    def move(self, id: str, state: str, **body: Any) -> None:
        """A request into its next state, with what this did. UnseeError: it cannot go there from where it is."""
        now = self.entry(id).state
        if state not in NEXT[now]:
            allowed = ", ".join(NEXT[now]) or "nothing: it is done with"
            raise UnseeError(f"request {id} is {now}, so it cannot become {state}. What may follow: {allowed}.")
        self.write("UPDATE requests SET state = ? WHERE id = ?", state, id)
        self.note(id, state, **body)

    def change(self, id: str, **values: Any) -> None:
        """Set attempt, changed (a dict), batch or turn."""
        for column, value in values.items():
            value = json.dumps(value) if isinstance(value, dict) else value
            self.write(f"UPDATE requests SET {column} = ? WHERE id = ?", value, id)

    def images(self, request: str = "") -> list[Image]:
        """Of one request, or of all."""
        rows = self.table("images", schema.IMAGES, "WHERE ? IN (request, '') ORDER BY rowid", request)
        return [Image(r[0], r[1], r[2], Path(os.fsdecode(r[3])) if r[3] else None) for r in rows]

    def next_batch(self) -> int:
        return int(self.rows("SELECT COALESCE(MAX(batch), 0) + 1 FROM requests")[0][0])

    def let_go(self, request: str) -> None:
        """Drop where the images of a request lie; their hashes stay. What was deleted is overwritten on disk."""
        self.write("UPDATE images SET path = NULL WHERE request = ?", request)
        self.drop(f"{SECRET}{request}")

    def tidy(self) -> None:
        """Bring the write-ahead log, which may hold what was dropped, into the database and empty it.

        Where there is no room for that, what was done is done none the less.
        """
        try:
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            say(
                f"the ledger '{self.folder}' is whole, but paths that it let go of may still be in "
                f"'{self.path.name}-wal', which could not be emptied: {error}. The next command that writes does it."
            )

    # Turns

    def turns(self) -> list[str]:
        """The patches that lie on the base, in their order."""
        return [r[1] for r in self.table("turns", schema.TURNS, "ORDER BY place")]

    def stack(self, turn: str) -> None:
        self.write("INSERT INTO turns VALUES ((SELECT COALESCE(MAX(place), 0) + 1 FROM turns), ?)", turn)

    def unstack(self, turn: str) -> None:
        self.write("DELETE FROM turns WHERE id = ?", turn)
        self.write("UPDATE retained SET turn = NULL WHERE turn = ?", turn)

    # Images in the retained sums, by hash

    def retain(self, hashes: Sequence[str]) -> None:
        self.db.executemany("INSERT OR IGNORE INTO retained VALUES (?, NULL)", [(h,) for h in hashes])

    def retained(self) -> set[str]:
        """Those that are in the sums now."""
        return {r[0] for r in self.table("retained", schema.RETAINED, "WHERE turn IS NULL")}

    def take(self, hashes: Sequence[str], turn: str) -> None:
        self.db.executemany("UPDATE retained SET turn = ? WHERE sha256 = ?", [(turn, h) for h in hashes])


def _body(text: str) -> dict[str, Any]:
    """A line's body; of one that is not as it was written, what no hash is of."""
    try:
        found = parse_json(text)
        if isinstance(found, dict) and json.dumps(found, sort_keys=True) == text:
            return found
    except ValueError:
        pass
    return {"unreadable": text}


def _written(path: Path) -> str | bytes:
    """Bytes where a name is not UTF-8, which SQLite's text has to be."""
    try:
        return f"{path}".encode().decode()
    except UnicodeEncodeError:
        return os.fsencode(path)
