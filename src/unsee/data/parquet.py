"""A benchmark's tables as the Hugging Face hub has them: a folder of parquet files per config, or a name on the hub.

``CONFIG/train-00000-of-00001.parquet``, its shards, ``CONFIG/train/0000.parquet`` and both of them under ``data/`` are
read alike.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from unsee import hub
from unsee.data.shards import broken, lost
from unsee.data.stored import Columns, StoredImage, Table, fault_of
from unsee.data.tables import SHOWN, cut
from unsee.errors import UnseeError
from unsee.untrusted import parse_json

AGAIN = "Download it again."
LITERAL = 256 * 2**10  # characters; Python's own reader takes a kilobyte for each few of them


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do. ``row``: an ID or a number; empty: of the whole config.

    ``minor``: reading goes on, without the question if it cannot be asked.
    """

    config: str
    row: str
    what: str
    todo: str
    minor: bool = False

    def __str__(self) -> str:
        return cut(f"{self.config}{f', row {self.row}' if self.row else ''}: {self.what}. {self.todo}")


class Source:
    """All configs of one benchmark, and what was found wrong while they were read."""

    def __init__(self, benchmark: str, where: str, revision: str | None = None) -> None:
        if not Path(where).is_dir() and not hub.NAME.fullmatch(where):
            raise UnseeError(f"'{where}' is no folder here. Give the benchmark's folder, or a hub name: OWNER/NAME.")
        self.benchmark, self.where, self.revision = benchmark, where, revision
        self.findings: dict[Finding, None] = {}  # in order, each once
        self._tables: dict[str, Table | None] = {}
        self.asked: dict[tuple[str, ...], str] = {}  # what was asked, and by which entry
        self.names: dict[str, str] = {}  # of people, as their profiles have them
        self._seen: dict[str, StoredImage] = {}

    @cached_property
    def configs(self) -> list[str]:
        if Path(self.where).is_dir():
            return sorted({name for folder in self._folders for name in _subfolders(folder)} - {"data"})
        with _hub(self.where):
            return datasets.get_dataset_config_names(self.where, revision=self.revision)

    @property
    def _folders(self) -> list[Path]:
        return [folder for folder in (Path(self.where), Path(self.where) / "data") if folder.is_dir()]

    def report(self, config: str, row: Any, what: str, todo: str, minor: bool = False) -> None:
        self.findings[Finding(config, str(row), what, todo, minor)] = None

    def refuse(self) -> None:
        """One error that lists all that reading stumbled over, if anything was."""
        bad = [str(finding) for finding in self.findings if not finding.minor]
        if bad:
            more = [f"… and {len(bad) - SHOWN} more: unsee data check {self.where}"] if len(bad) > SHOWN else []
            head = f"{self.where} cannot be read as {self.benchmark}, {len(bad)} error(s):"
            raise UnseeError(head, *(f"  {line}" for line in (*bad[:SHOWN], *more)))

    def has(self, config: str, column: str) -> bool:
        table = self.table(config) if config in self.configs else None
        return table is not None and column in table.kinds

    def open(self, config: str, columns: Columns) -> Table | None:
        """A config that must be there, with columns of these kinds; what is missing is reported."""
        if config not in self.configs:
            found = ", ".join(self.configs) or "no config at all"
            self.report(config, "", f"the config is missing; found: {found}", "Download the whole repository.")
            return None
        table = self.table(config)
        if table is None:
            return None
        faults = [fault for name, kind in columns.items() if (fault := fault_of(table, name, kind))]
        for fault in faults:
            self.report(config, "", fault, f"The columns needed: {', '.join(columns)}. Is it another version?")
        return None if faults else table

    def table(self, config: str) -> Table | None:
        if config not in self._tables:
            self._tables[config] = self._read(config)
        return self._tables[config]

    def _read(self, config: str) -> Table | None:
        if not Path(self.where).is_dir():
            with _hub(self.where), quiet():
                return Table(config, datasets.load_dataset(self.where, config, split="train", revision=self.revision))
        files = next((found for folder in self._folders if (found := _files(folder / config))), [])
        if not files:
            self.report(config, "", "the folder has no parquet file", AGAIN)
            return None
        faults = [*lost(files), *(f"{file.name} {why}" for file in files if (why := broken(file)))]
        for fault in faults:
            self.report(config, "", fault, AGAIN)
        return None if faults else self._table(config, files)

    def _table(self, config: str, files: Sequence[Path]) -> Table | None:
        named = [str(file) for file in files]
        try:
            with quiet():  # not load_dataset("parquet"), which tells a server of the hub of each call
                return Table(config, datasets.Dataset.from_parquet(named, features=_features(files[0])))
        except Exception as error:  # of the library that reads, and of a dozen kinds where columns do not fit
            self.report(config, "", f"the parquet files cannot be read: {error.__cause__ or error}", AGAIN)
            return None

    def images(self, table: Table, row: int, column: str, owner: str) -> list[StoredImage]:
        """Those of one cell; the same bytes are the same image wherever they stand."""
        found = table.encoded(row, column)
        if not found:
            todo = "What is asked about it is left out; download it again."
            self.report(table.config, row + 1, f"the column '{column}' is empty", todo, minor=True)
        for number, data in enumerate(found):
            if not data:
                name = table.file_name(row, column, number)
                what = f"the column '{column}' has the name of a file{f', {name},' if name else ''} and no image"
                self.report(table.config, row + 1, what, "Download it with its images, or embed them.")
        return [self._image(table, row, column, owner, number, data) for number, data in enumerate(found) if data]

    def _image(self, table: Table, row: int, column: str, owner: str, number: int, data: bytes) -> StoredImage:
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._seen:
            place = f"{table.config}, row {row + 1}, column {column}"
            name = f"{self.benchmark}/{owner}/{digest[:12]}"
            self._seen[digest] = StoredImage(name, place, table, row, column, number)
        return self._seen[digest]

    def parsed(self, config: str, row: Any, column: str, value: Any) -> Any:
        """A value that may be JSON, or a Python literal, inside a string; None was reported."""
        if value is None:
            self.report(config, row, f"'{column}' is empty", AGAIN, minor=True)
        if not isinstance(value, str):
            return value
        try:
            return _literal(value)
        except (ValueError, RecursionError, MemoryError) as error:
            self.report(config, row, f"'{column}' holds no JSON: {error}; it starts {value[:40]!r}", AGAIN)
            return None


def _literal(text: str) -> Any:
    """UMU-Bench's own code reads its columns as Python literals, others as JSON."""
    try:
        return parse_json(text)
    except ValueError as error:
        if len(text) > LITERAL:
            raise
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise error from None


def _features(file: Path) -> datasets.Features:
    """What the columns hold, by the note of ``datasets`` in the file; without it where a newer version wrote it."""
    schema = pq.read_schema(file)
    try:
        return datasets.Features.from_arrow_schema(schema)
    except Exception:  # ValueError of a type of another version, and others where the note is garbled
        return datasets.Features.from_arrow_schema(schema.remove_metadata())


def _subfolders(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.parquet")) or sorted((folder / "train").glob("*.parquet"))
    return [file for file in found if file.name.startswith("train")] or found


def repository(name: str) -> Path:
    """The parquet files of a hub repository that is no data set, brought to the hub's cache."""
    from huggingface_hub import snapshot_download

    with _hub(name):
        return Path(snapshot_download(name, allow_patterns="*.parquet"))


@contextmanager
def _hub(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnseeError(
            f"'{name}' is no folder here, and could not be had from the hub: {why}. "
            "Give the folder it was downloaded to, or go online."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of ``datasets``."""
    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
