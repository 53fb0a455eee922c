"""Whether the parquet files of a config are all there: their names tell, as does a look into each."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from unsee.data import apart
from unsee.data.pixels import BadImage

LFS = b"version https://git-lfs"
SHARD = re.compile(r"^(.*?)-?(\d+)-of-(\d+)(?:-[0-9a-f]+)?\.parquet$")  # train-00000-of-00002[-HASH].parquet
PART = re.compile(r"^()(\d+)()\.parquet$")  # 0000.parquet, of which the name tells no total
FEW = 5


def lost(files: Sequence[Path]) -> Iterator[str]:
    """What is wrong with the files' numbers: missing ones, the same twice, those of another download."""
    groups: dict[str, dict[str, list[int]]] = {}
    plain: list[str] = []
    for file in files:
        if found := SHARD.match(file.name) or PART.match(file.name):
            name, number, total = found.groups()
            groups.setdefault(name, {}).setdefault(total, []).append(int(number))
        else:
            plain.append(file.name)
    if groups and plain:
        yield f"{plain[0]} lies beside numbered parts, so rows may be there twice"
    for totals in groups.values():
        if len(totals) > 1:
            sets = " and ".join(f"of {int(total)}" if total else "without a total" for total in sorted(totals))
            yield f"parts of different downloads lie beside one another, {sets}"
        for total, numbers in totals.items():
            yield from _gaps(numbers, int(total) if total else max(numbers) + 1)


def _gaps(numbers: Sequence[int], total: int) -> Iterator[str]:
    there = set(numbers)
    if len(there) < len(numbers):
        yield f"part {min(n for n in there if numbers.count(n) > 1)} is there twice"
    if over := sorted(n for n in there if n >= total):
        yield f"part {over[0]} is more than the {total} there are"
    if missing := total - len(there) + len(over):
        named = ", ".join(map(str, islice((n for n in range(total) if n not in there), FEW)))
        yield f"{missing} of {total} parts are missing: {named}{' …' if missing > FEW else ''}"


def broken(file: Path) -> str:
    """Why a file is no parquet file that can be read; empty if it is one."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited on for ever
            return "is not a regular file"
        with file.open("rb") as opened:
            if opened.read(len(LFS)) == LFS:
                return "is a pointer of Git LFS: run `git lfs pull` where it was cloned"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    try:
        apart.scan(file)
    except BadImage as error:
        return f"cannot be read: {error.reason}"
    return ""
