"""One table of figures, models by rows: for the terminal, for a paper, for a program, and back."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import rich.table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from unsee.errors import UnseeError, nearest
from unsee.evaluation.statistics import Share
from unsee.files import new_file
from unsee.untrusted import parse_json, shown

Better = Literal["higher", "lower", "neither"]
ARROW = {"higher": " ↑", "lower": " ↓", "neither": ""}
MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
WIDE = 8  # figures beside one another on a page; of more, each has a line
LEGEND = "* p < 0.05, ** p < 0.01, *** p < 0.001"
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "−": "$-$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A figure, its 95 % interval, the items it is a mean of, and the p of its difference from what a note names."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    p: float | None = None

    def __post_init__(self) -> None:
        for number in (self.value, self.low, self.high, self.p):
            if number is not None and not math.isfinite(number):
                raise UnseeError(f"a figure of {number} in a table: leave the cell out where there is no figure.")
        if (self.low is None) != (self.high is None):
            raise UnseeError("an interval with one end: give both low and high, or neither.")

    @classmethod
    def of(cls, share: Share, p: float | None = None) -> Cell:
        return cls(share["value"], share["low"], share["high"], share["n"], p)


@dataclass(frozen=True)
class Column:
    """``key``: its name in files. ``note``: what the figure means, under the table. ``digits``: after the point."""

    key: str
    title: str
    better: Better = "neither"
    note: str = ""
    digits: int = 3

    def __post_init__(self) -> None:
        if self.better not in get_args(Better):
            raise UnseeError(f"column {self.key}, better '{self.better}'. {nearest(self.better, get_args(Better))}")
        if self.digits not in range(18):  # a float has no more
            raise UnseeError(f"column {self.key}, {self.digits} digits: give 0 to 17.")


@dataclass(frozen=True)
class Row:
    """A model, and its figures by the columns' keys; a key left out is a figure that could not be had."""

    model: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        keys = [c.key for c in self.columns]
        for name, given in (("column", keys), ("row", [r.model for r in self.rows])):
            twice = sorted({g for g in given if given.count(g) > 1})
            if twice:
                raise UnseeError(f"the {name} {twice[0]} stands twice in the table: give each its own name.")
        for row in self.rows:
            for key in row.cells:
                if key not in keys:
                    raise UnseeError(f"{row.model} has a figure '{key}' without a column. {nearest(key, keys)}")

    @property
    def footnotes(self) -> list[str]:
        """What each figure means, then the table's own notes, then what the signs mean."""
        notes = [f"{c.title}: {c.note}" for c in self.columns if c.note] + list(self.notes)
        cells = [cell for row in self.rows for cell in row.cells.values()]
        if any(c.better != "neither" for c in self.columns):
            notes.append("↑ higher is better, ↓ lower is better")
        if any(cell.low is not None for cell in cells):
            notes.append("[ ] 95 % interval")
        if any(mark(cell) for cell in cells):
            notes.append(LEGEND)
        return notes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Models by rows; by columns where the table would be wider than the terminal."""
        lines = self._lines()
        table = self._grid(lines)
        if console.measure(table, options=options.update(width=10**6)).maximum > options.max_width:
            table = self._grid(_turned(lines))
        yield table
        yield from (Text(shown(note), style="dim") for note in self.footnotes)

    def _grid(self, lines: list[list[str]]) -> rich.table.Table:
        table = rich.table.Table(title=Text(shown(self.title)), title_justify="left")
        for place, title in enumerate(lines[0]):
            table.add_column(Text(shown(title)), justify="right" if place else "left")
        for line in lines[1:]:
            table.add_row(*(Text(shown(cell)) for cell in line))
        return table

    def markdown(self) -> str:
        given = self._lines(WIDE)
        head, *lines = (_bar(line, _plain) for line in given)
        rule = "|---" + "|---:" * (len(given[0]) - 1) + "|"
        notes = [f"- {_plain(note)}" for note in self.footnotes]
        return "\n".join([f"**{_plain(self.title)}**", "", head, rule, *lines, *([""] if notes else []), *notes]) + "\n"

    def latex(self) -> str:
        r"""A ``table`` for a document with ``\usepackage{booktabs}``; names that are not Latin need LuaLaTeX."""
        lines = self._lines(WIDE)
        body = [_ampersands(line) for line in lines]
        notes = [r"\par\footnotesize " + _latex(note) for note in self.footnotes]
        return "\n".join([
            r"\begin{table}", r"\centering", rf"\caption{{{_latex(self.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}", r"\toprule", body[0], r"\midrule", *body[1:],
            r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}", "",
        ])  # fmt: skip

    def csv(self) -> str:
        """One line a figure: model, figure, value, low, high, n, p; empty where there is none."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["model", "figure", "value", "low", "high", "n", "p"])
        for row in self.rows:
            for c in self.columns:
                if cell := row.cells.get(c.key):
                    writer.writerow([row.model, c.key, cell.value, cell.low, cell.high, cell.n, cell.p])
        return out.getvalue()

    def json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def read(cls, text: str) -> Table:
        """The table that ``json`` wrote."""
        try:
            whole = parse_json(text)
            columns = tuple(Column(**c) for c in whole["columns"])
            rows = tuple(Row(r["model"], {k: Cell(**c) for k, c in r["cells"].items()}) for r in whole["rows"])
            read = cls(whole["title"], columns, rows, tuple(whole["notes"]))
            read.markdown()  # what is no text or no number has no line
            return read
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnseeError(
                f"not a table that unsee wrote ({shown(error)}): give the table.json of an evaluation."
            ) from error

    def write(self, folder: Path) -> None:
        """table.json, table.csv, table.md and table.tex in ``folder``, private; the same bytes for the same table."""
        for suffix, text in (
            ("json", self.json()),
            ("csv", self.csv()),
            ("md", self.markdown()),
            ("tex", self.latex()),
        ):
            with new_file(folder / f"table.{suffix}", private=True) as path:
                path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")

    def _lines(self, most: float = math.inf) -> list[list[str]]:
        """Models by rows; by columns where there are more than ``most`` figures."""
        lines = [["model", *self._titles()], *([row.model, *self._texts(row)] for row in self.rows)]
        return _turned(lines) if len(self.columns) > most else lines

    def _titles(self) -> list[str]:
        titles = []
        for c in self.columns:
            counts = self._counts(c)
            of = f" (n={counts.pop()})" if len(counts) == 1 else ""  # where they differ each cell says it
            titles.append(c.title + ARROW[c.better] + of)
        return titles

    def _counts(self, column: Column) -> set[int | None]:
        return {row.cells[column.key].n for row in self.rows if column.key in row.cells} - {None}

    def _texts(self, row: Row) -> list[str]:
        return [
            _text(row.cells[c.key], c.digits, len(self._counts(c)) > 1) if c.key in row.cells else "–"
            for c in self.columns
        ]


def _turned(lines: list[list[str]]) -> list[list[str]]:
    return [list(line) for line in zip(*lines, strict=True)]


def _text(cell: Cell, digits: int, count: bool) -> str:
    text = f"{cell.value:.{digits}f}"
    if cell.low is not None and cell.high is not None:
        text += f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return text + mark(cell) + (f" (n={cell.n})" if count and cell.n is not None else "")


def mark(cell: Cell) -> str:
    return next((mark for below, mark in MARKS if cell.p is not None and cell.p < below), "")


def _bar(cells: list[str], escape: Callable[[str], str]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"


def _ampersands(cells: list[str]) -> str:
    line = " & ".join(map(_latex, cells)) + r" \\"
    return "{}" + line if line[0] in "[*" else line  # after the end of a line LaTeX would take these as its own


def _plain(text: str) -> str:
    """For Markdown: every sign stands for itself, and a line stays a line."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~$])", r"\\\1", shown(" ".join(text.split())))


def _latex(text: str) -> str:
    """For LaTeX: every sign stands for itself, and a negative number has its minus."""
    text = re.sub(r"(?<![\w.])-(?=\d)", "−", shown(" ".join(text.split())))
    return "".join(_LATEX.get(sign, sign) for sign in text)
