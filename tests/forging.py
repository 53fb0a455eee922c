"""What a forger of a ledger has: its database, its log made anew with hashes that are right again, its files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unsee.ledger.log import FIRST, digest

Edit = Callable[[str, dict[str, Any]], None]


def sql(ledger: Path, *statements: str, given: tuple[Any, ...] = ()) -> None:
    with closing(sqlite3.connect(ledger / "ledger.db", isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement, given)


def rows(ledger: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(ledger / "ledger.db")) as db:
        return db.execute(statement).fetchall()


def rechain(ledger: Path, edit: Edit = lambda event, body: None, noted: bool = True) -> None:
    """The whole log made anew with other bodies: every hash right again, and ``noted`` in head.json too."""
    before, number = FIRST, 0
    with closing(sqlite3.connect(ledger / "ledger.db")) as db:
        for number, time, request, event, text in db.execute(
            "SELECT number, time, request, event, body FROM log ORDER BY number"
        ).fetchall():
            body = json.loads(text)
            edit(event, body)
            hash = digest(number, time, request, event, body, before)
            given = (json.dumps(body, sort_keys=True), before, hash, number)
            db.execute("UPDATE log SET body = ?, before = ?, hash = ? WHERE number = ?", given)
            before = hash
        db.commit()
    if noted:
        (ledger / "head.json").write_text(json.dumps({"line": number, "hash": before}))


def append(ledger: Path, *lines: tuple[str, str, dict[str, Any]]) -> None:
    """More lines (request, event, body) at the log's end, as unsee would chain them."""
    ((number, before),) = rows(ledger, "SELECT number, hash FROM log ORDER BY number DESC LIMIT 1")
    for request, event, body in lines:
        number, time = number + 1, "2100-01-01T00:00:00.000+00:00"
        hash = digest(number, time, request, event, body, before)
        given = (number, time, request, event, json.dumps(body, sort_keys=True), before, hash)
        sql(ledger, "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)", given=given)
        before = hash
    (ledger / "head.json").write_text(json.dumps({"line": number, "hash": before}))


def setting(ledger: Path, name: str) -> Any:
    return json.loads(rows(ledger, f"SELECT value FROM settings WHERE name = '{name}'")[0][0])


def put(ledger: Path, name: str, value: Any) -> None:
    sql(ledger, "INSERT OR REPLACE INTO settings VALUES (?, ?)", given=(name, json.dumps(value)))


def turn(ledger: Path, number: int = 0) -> Path:
    return ledger / "turns" / rows(ledger, "SELECT id FROM turns ORDER BY place")[number][0][:16]


def resave(file: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    with safe_open(file, "pt") as opened:
        info, tensors = dict(opened.metadata()), {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    change(tensors, info)
    save_file(tensors, file, info)


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def flip(file: Path, place: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


FACTS = ("settings", "retained_rows", "sha256", "rows", "paths", "batch", "changed", "file")


def older(ledger: Path) -> None:
    """As an unsee from before these facts wrote it; no forgery."""

    def edit(event: str, body: dict[str, Any]) -> None:
        for fact in FACTS:
            body.pop(fact, None)
        if event == "checked":
            body.pop("attempt", None)

    put(ledger, "trust", False)
    sql(ledger, "DELETE FROM settings WHERE name LIKE 'secret %'")
    rechain(ledger, edit)
