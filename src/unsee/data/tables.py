"""CSV and JSONL files as rows with line numbers, every error named with its file and line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsee.errors import UnseeError
from unsee.untrusted import parse_json, read_bytes, shown

SHOWN = 20  # a list of a thousand like errors helps nobody
SPAN = 1000  # characters of one error that are shown
CAP = 64 * 2**20  # bytes of a table
LINE = 256 * 2**10  # characters of one line of JSON; a question takes some hundred
LONE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    line: int
    values: dict[str, Any]


def read_text(path: Path) -> str:
    """A text file, in UTF-8 with or without the mark that spreadsheets put in front."""
    try:
        return read_bytes(path, CAP).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnseeError(
            f"'{shown(path)}' is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error


def read_csv(path: Path) -> list[Row]:
    """The rows of a CSV file with a header; each row has as many cells as the header."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        cells = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UnseeError(f"'{shown(path)}', line {reader.line_num}: {error}.") from error
    if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
        raise UnseeError(f"'{shown(path)}': the cells are not parted by commas: {shown(header[0])[:80]}. Save it so.")
    if len(set(header)) < len(header):
        raise UnseeError(f"'{shown(path)}': a column stands twice in the header: {shown(', '.join(header))[:SPAN]}.")
    uneven = [
        f"line {line}: {len(row)} cells, the header has {len(header)}" for line, row in cells if len(row) != len(header)
    ]
    refuse(path, uneven)
    return [Row(line, dict(zip(header, row, strict=True))) for line, row in cells]


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a file with one JSON object per line; blank lines are allowed."""
    rows: list[Row] = []
    errors: list[str] = []
    for line, text in enumerate(read_text(path).split("\n"), start=1):  # not splitlines: it also breaks at U+2028
        if not text.strip():
            continue
        if len(text) > LINE:
            errors.append(f"line {line}: more than {LINE:,} characters")
            continue
        try:
            rows.append(Row(line, _object(text)))
        except ValueError as error:
            errors.append(f"line {line}: {error}")
    refuse(path, errors)
    return rows


def refuse(path: Path, errors: Sequence[str]) -> None:
    """Raises one error that lists what is wrong with a file, if anything is."""
    if errors:
        more = [f"… and {len(errors) - SHOWN} more"] if len(errors) > SHOWN else []
        told = [f"  {cut(error)}" for error in (*errors[:SHOWN], *more)]
        raise UnseeError(f"{shown(path)} has {len(errors)} error(s):", *told)


def cut(text: str) -> str:
    """One line that a terminal can show, whatever a file had in it."""
    whole = shown(text)
    return whole if len(whole) <= SPAN else f"{whole[:SPAN]} …"


def _object(text: str) -> dict[str, Any]:
    value = parse_json(text)
    if LONE.search(text):  # half a character, which cannot be written again
        json.dumps(value, ensure_ascii=False).encode()
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object {{…}} is needed, not {text.strip()[:40]}")
    return value
