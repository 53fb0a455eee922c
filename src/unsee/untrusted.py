"""What strangers wrote: read within bounds of bytes and depth, and shown without what a terminal would obey."""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from unsee.errors import UnseeError

JSON_CAP = 64 * 2**20  # bytes; the index of a 400B model takes 4 MiB
YAML_CAP = 2**20  # bytes; a configuration takes one or two KiB
DEPTH = 100  # brackets within brackets; Python's own reader ends in a RecursionError near a thousand
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # reorder what stands beside


def read_bytes(path: Path | str, cap: int) -> bytes:
    """A regular file's bytes. UnseeError: not there, a pipe or a device, or larger than ``cap`` bytes."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
            raise UnseeError(f"'{path}' is not a regular file.")
        with path.open("rb") as file:
            data = file.read(cap + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UnseeError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}.") from error
    if len(data) > cap:
        raise UnseeError(f"'{path}' is larger than {cap / 2**20:g} MiB, the most that is read of such a file.")
    return data


def read_json(path: Path | str, cap: int = JSON_CAP) -> Any:
    """A JSON file. UnseeError: not readable, or no JSON."""
    data = read_bytes(path, cap)
    try:
        return parse_json(data)
    except ValueError as error:
        raise UnseeError(f"'{path}' is not JSON: {error}.") from error


def parse_json(data: str | bytes) -> Any:
    """JSON, at most DEPTH brackets deep. ValueError: it is not; never a RecursionError."""
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    _shallow(text)
    return json.loads(text)


def _shallow(text: str) -> None:
    """ValueError: brackets outside strings lie more than DEPTH within one another."""
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth, quoted, skip = 0, False, False
    for letter in text:
        if skip:
            skip = False
        elif quoted:
            skip, quoted = letter == "\\", letter != '"'
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
            if depth > DEPTH:
                raise ValueError(f"more than {DEPTH} brackets lie within one another")
        elif letter in "]}":
            depth -= 1


def read_yaml(path: Path | str, cap: int = YAML_CAP) -> Any:
    """A YAML file of plain values, without anchors. UnseeError: not readable, or no such YAML."""
    data = read_bytes(path, cap)
    try:
        text = data.decode("utf-8-sig")
        _plain(text)
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UnseeError(f"'{path}' is not YAML: {error}.") from error


def _plain(text: str) -> None:
    """ValueError: too deep, or with aliases, a few hundred bytes of which can stand for gigabytes."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias (*{event.anchor}); write its value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError(f"more than {DEPTH} collections lie within one another")


def shown(text: object) -> str:
    """``text`` as one line for a terminal, a log or a page: control, direction and undecodable characters escaped.

    Letters of every script, joiners, wide and no-break spaces and emoji stay.
    """
    plain = os.fspath(text) if isinstance(text, os.PathLike) else str(text)
    return "".join(_escaped(c) if _misread(c) else c for c in plain)


def _misread(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in DIRECTIONS


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
