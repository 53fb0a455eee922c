"""Is a downloaded benchmark whole? All that is wrong with it, found before hours are spent on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unsee.data.images import BadImage, decode
from unsee.data.parquet import Finding, Source
from unsee.data.rows import text
from unsee.data.sources import SOURCES, Format, known
from unsee.data.stored import Table, Values
from unsee.errors import UnseeError
from unsee.progress import progress

PICTURES = ("image", "images")


@dataclass(frozen=True)
class Count:
    """Of one config. ``columns``: their names and what they hold."""

    config: str
    rows: int
    people: int
    images: int
    columns: str


@dataclass(frozen=True)
class CheckReport:
    """What a source holds, and all that is wrong with it."""

    benchmark: str
    where: str
    counts: tuple[Count, ...]
    findings: tuple[Finding, ...]

    def lines(self) -> list[str]:
        """For a person."""
        width = max((len(count.config) for count in self.counts), default=0)
        counted = [f"  {c.config:{width}}  {c.rows} rows, {c.people} people, {c.images} images" for c in self.counts]
        alike: dict[str, list[str]] = {}
        for count in self.counts:
            alike.setdefault(count.columns, []).append(count.config)
        counted += [f"  columns of {', '.join(configs)}: {columns}" for columns, configs in alike.items()]
        verdict = f"{len(self.findings)} finding(s)" if self.findings else "nothing wrong was found"
        return [f"{self.where} as {self.benchmark}", *counted, *(f"  {f}" for f in self.findings), verdict]


@dataclass(frozen=True)
class Picture:
    """One image of a table. ``owner``: the person; empty where the table does not say."""

    config: str
    row: str
    owner: str
    digest: str
    read: Callable[[], bytes]


def check(source: Path | str, name: str = "", revision: str | None = None) -> CheckReport:
    """Reads and decodes everything in a folder or on the hub. ``name``: the benchmark; empty: told by its configs."""
    where = str(source)
    name = name or _told(where, revision)
    form, opened = known(name), Source(name, where, revision)
    for split in form.splits:
        form.read(opened, split)
    tables = {config: table for config in opened.configs if (table := opened.table(config))}
    owners = {config: set(_owners(table)) for config, table in tables.items()}
    pictures = {config: list(_pictures(table)) for config, table in tables.items()}
    _swaps(opened, name, tables)
    _sizes(opened, form, owners)
    _leaks(opened, form, owners, pictures)
    _undecodable(opened, [picture for found in pictures.values() for picture in found])
    counts = [
        Count(config, len(table), len(owners[config]), len({p.digest for p in pictures[config]}), _columns(table))
        for config, table in tables.items()
    ]
    return CheckReport(name, where, tuple(counts), tuple(opened.findings))


def _told(where: str, revision: str | None) -> str:
    """The benchmark whose configs are most like those found."""
    found = set(Source("", where, revision).configs)
    off = {name: len(found ^ set(form.configs)) for name, form in SOURCES.items() if found & set(form.configs)}
    best = [name for name, n in off.items() if n == min(off.values())]
    if len(best) != 1:
        raise UnseeError(
            f"which benchmark '{where}' is cannot be told from its configs: {', '.join(sorted(found)) or 'none'}. "
            f"Name it: {', '.join(SOURCES)}."
        )
    return best[0]


def _owners(table: Table) -> list[str]:
    """Of each row that has one."""
    column = next((name for name in ("ID", "name") if table.kinds.get(name) == "text"), "")
    return [owner for row in table.rows if (owner := text(row.get(column)))]


def _pictures(table: Table) -> Iterator[Picture]:
    column = next((name for name in ("ID", "name") if name in table.kinds), "")
    for number, row in enumerate(table.rows):
        for name in (n for n in PICTURES if table.kinds.get(n) in PICTURES):
            for k, data in ((k, data) for k, data in enumerate(table.encoded(number, name)) if data):
                owner = text(row.get(column))
                place = owner if column == "ID" else str(number + 1)
                read = partial(_encoded, table, number, name, k)
                yield Picture(table.config, place, owner, hashlib.sha256(data).hexdigest(), read)


def _encoded(table: Table, row: int, column: str, number: int) -> bytes:
    return table.encoded(row, column)[number]


def _columns(table: Table) -> str:
    return ", ".join(f"{name}: {'questions' if kind == 'any' else kind}" for name, kind in table.kinds.items())


def _undecodable(source: Source, pictures: list[Picture]) -> None:
    """Each image once, wherever it stands."""
    once = list({picture.digest: picture for picture in reversed(pictures)}.values())

    def why(picture: Picture) -> str:
        try:
            decode(picture.read())
        except BadImage as error:
            return error.reason
        return ""

    with ThreadPoolExecutor() as pool, progress("decoding images", len(once)) as tick:
        for done, (picture, reason) in enumerate(zip(once, pool.map(why, once), strict=True), start=1):
            tick(done)
            if reason:
                source.report(picture.config, picture.row, f"unreadable image: {reason}", "Download it again.")


def _sizes(source: Source, form: Format, owners: Mapping[str, set[str]]) -> None:
    """A forget set has its share of the people, and its retain set has the others."""
    whole = next(iter(form.configs))
    for split, rest in form.splits.items():
        if not {whole, split, rest} <= owners.keys():
            continue
        people, share = len(owners[whole]), int(re.findall(r"\d+", split)[-1])
        if abs(len(owners[split]) - people * share / 100) >= 1:
            what = f"{len(owners[split])} people, which is not {share} % of the {people} in {whole}"
            source.report(split, "", what, "Download it again.")
        for config in (split, rest):
            if strange := sorted(owners[config] - owners[whole]):
                source.report(
                    config, "", f"people who are not in {whole}: {', '.join(strange[:5])}", "Is it another version?"
                )
        if lost := sorted(owners[whole] - owners[split] - owners[rest]):
            what = f"{len(lost)} of {whole} are neither here nor in {split}: {', '.join(lost[:5])}"
            source.report(rest, "", what, "Download it again.")


def _leaks(source: Source, form: Format, owners: Mapping[str, set[str]], pictures: Mapping[str, list[Picture]]) -> None:
    """What is to be forgotten must not be among what is kept; one image is of one person."""
    for split, rest in form.splits.items():
        for id in sorted(owners.get(split, set()) & owners.get(rest, set())):
            source.report(split, id, f"in {rest} too", "Take the person out of one of the two.")
        kept = {picture.digest: picture for picture in pictures.get(rest, [])}
        for picture in pictures.get(split, []):
            other = kept.get(picture.digest)
            if other and other.owner != picture.owner:
                what = f"the same image is in {rest}, row {other.row}"
                source.report(split, picture.row, what, "Take it out of one of the two.")
    _same_image(source, [picture for found in pictures.values() for picture in found if picture.owner])


def _same_image(source: Source, pictures: list[Picture]) -> None:
    first: dict[str, Picture] = {}
    here: dict[tuple[str, str], Picture] = {}
    for picture in pictures:
        other = first.setdefault(picture.digest, picture)
        if other.owner != picture.owner:
            what = f"the image of {picture.owner} is that of {other.owner} in {other.config}"
            source.report(picture.config, picture.row, what, "Find out who it is.")
        other = here.setdefault((picture.config, picture.digest), picture)
        if other is not picture:
            what = f"its image stands in row {other.row} too"
            source.report(picture.config, picture.row, what, "Take one of them out.", minor=True)


def _blanks(value: object) -> int:
    return str(value).count("__")


Looks = Callable[[Values], bool]  # whether a row looks as if two columns were swapped
SWAPS: dict[str, tuple[tuple[str, str, Looks], ...]] = {
    "mllmu": (("Generation_Task", "Mask_Task", lambda r: _blanks(r["Generation_Task"]) > _blanks(r["Mask_Task"])),),
    "clear": (
        ("caption", "name", lambda r: len(r["name"]) > len(r["caption"])),
        ("question", "answer", lambda r: r["answer"].endswith("?") and not r["question"].endswith("?")),
    ),
    "umu": (("Classify", "Cloze", lambda r: "options" in str(r["Cloze"]) and "options" not in str(r["Classify"])),),
}


def _swaps(source: Source, name: str, tables: Mapping[str, Table]) -> None:
    """Columns that hold the same kind of thing are told apart by what it looks like, in most rows."""
    for config, table in tables.items():
        for one, other, looks in SWAPS[name]:
            rows = [row for row in table.rows if row.get(one) and row.get(other)]
            if sum(looks(row) for row in rows) > len(rows) / 2:
                what = f"the columns '{one}' and '{other}' look swapped"
                source.report(config, "", what, "Download it again, or name them rightly.")
