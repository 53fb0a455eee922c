"""One table of a benchmark: its rows, and its images, which stay encoded in a memory-mapped file of ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import PIL.Image

from unsee.data.images import BadImage, decode

KINDS = {"image": "an image", "images": "a list of images", "text": "text", "texts": "a list of texts"}

Columns = Mapping[str, str]  # name → image, images, text, texts or any
Values = dict[str, Any]


@dataclass(frozen=True)
class StoredImage:
    """An image in a table, decoded when it is asked for. ``id``: ``benchmark/person/hash``, ``place``: where it is."""

    id: str
    place: str = field(compare=False)
    table: Table = field(repr=False, compare=False)
    row: int = field(repr=False, compare=False)
    column: str = field(repr=False, compare=False)
    number: int = field(default=0, repr=False, compare=False)

    def bytes(self) -> bytes:
        return self.table.encoded(self.row, self.column)[self.number]

    def load(self) -> PIL.Image.Image:
        try:
            return decode(self.bytes())
        except BadImage as error:
            raise BadImage(Path(self.place), error.reason) from error


class Table:
    """One config. ``rows``: its columns but images, as Python values."""

    def __init__(self, config: str, data: datasets.Dataset) -> None:
        self.config = config
        for name, feature in data.features.items():
            if kind_of(feature) in ("image", "images"):
                raw = datasets.Image(decode=False)
                data = data.cast_column(name, raw if kind_of(feature) == "image" else datasets.List(raw))
        self._data = data
        self.kinds = {name: kind_of(feature) for name, feature in data.features.items()}
        self._pictures = {n: data.select_columns([n]) for n, kind in self.kinds.items() if kind in ("image", "images")}

    def __len__(self) -> int:
        return len(self._data)

    @cached_property
    def rows(self) -> list[Values]:
        texts = [name for name, kind in self.kinds.items() if kind not in ("image", "images")]
        return list(self._data.select_columns(texts)) if texts else [{} for _ in range(len(self))]

    def encoded(self, row: int, column: str) -> list[bytes]:
        """The files in an image column; none where the cell is empty, an empty one where only a name is there."""
        return [cell.get("bytes") or b"" for cell in self._cells(row, column)]

    def file_name(self, row: int, column: str, number: int) -> str:
        """Of an image, as it is noted beside it."""
        return str(self._cells(row, column)[number].get("path") or "")

    def _cells(self, row: int, column: str) -> list[Values]:
        value = self._pictures[column][row][column]
        cells = value if isinstance(value, list) else [value] if value else []
        return [cell or {} for cell in cells]


def kind_of(feature: Any) -> str:
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"}):
        return "image"
    if isinstance(feature, datasets.List | datasets.LargeList):
        inner = kind_of(feature.feature)
        return {"image": "images", "text": "texts"}.get(inner, "any")
    if isinstance(feature, datasets.Value):
        return "text" if any(word in feature.dtype for word in ("string", "int", "null")) else "any"  # null: all empty
    return "any"


def fault_of(table: Table, name: str, kind: str) -> str:
    if name not in table.kinds:
        return f"the column '{name}' is missing; found: {', '.join(table.kinds)}"
    found = table.kinds[name]
    if found == kind or (kind == "any" and found not in ("image", "images")):
        return ""
    return f"the column '{name}' holds {KINDS.get(found, 'something else')}, not {KINDS.get(kind, 'questions')}"
