"""One table, five ways to write it."""

import csv
import io
import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from unsee.errors import UnseeError
from unsee.evaluation.statistics import share
from unsee.evaluation.table import Cell, Column, Row, Table

COLUMNS = (
    Column("forget_names", "names", "lower", "forgotten people named on new pictures"),
    Column("retain", "kept", "higher"),
    Column("log_p", "log p", digits=1),
)
ROWS = (
    Row("vanilla", {"forget_names": Cell(0.97, 0.95, 0.99, 150), "retain": Cell(0.9512, 0.9, 1, 300)}),
    Row("ours", {"forget_names": Cell(0.02, 0, 0.05, 150, p=0.0004), "log_p": Cell(-61.23)}),
)
TABLE = Table("MLLMU-Bench, forget_10", COLUMNS, ROWS, ("p against vanilla",))
NASTY = r"a|b_c <script>\x{y}$5 & 10% #1 ~^ *b* `c` [red]d[/red]"


def shown(table: Table, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_person_reads_value_interval_mark_direction_and_number() -> None:
    text = shown(TABLE)
    for part in (
        "p against vanilla", "MLLMU-Bench, forget_10", "names ↓ (n=150)", "kept ↑ (n=300)", "0.970 [0.950, 0.990]",
        "0.020 [0.000, 0.050]***", "0.951 [0.900, 1.000]", "-61.2", "names: forgotten people named on new pictures",
        "–", "↑ higher is better, ↓ lower is better", "[ ] 95 % interval", "* p < 0.05, ** p < 0.01, *** p < 0.001",
    ):  # fmt: skip
        assert part in text


def test_a_table_too_wide_for_the_terminal_has_its_models_by_columns() -> None:
    columns = tuple(Column(f"x{i}", f"figure {i}") for i in range(8))
    cells = {c.key: Cell(0.5, 0.25, 0.75) for c in columns}
    text = shown(Table("t", columns, (Row("a", cells), Row("b", cells))), width=70)
    assert all(len(line) <= 70 for line in text.splitlines())
    assert text.count("0.500 [0.250, 0.750] │ 0.500 [0.250, 0.750]") == 8


def test_where_the_numbers_differ_each_cell_says_its_own() -> None:
    rows = (Row("a", {"x": Cell(0.5, n=10)}), Row("b", {"x": Cell(0.25, n=8)}))
    text = shown(Table("t", (Column("x", "x"),), rows))
    assert "0.500 (n=10)" in text and "0.250 (n=8)" in text
    assert "interval" not in text and "better" not in text  # notes only where there is something to note


@pytest.mark.parametrize(
    ("p", "mark"), [(0.0009, "***"), (0.001, "**"), (0.01, "*"), (0.049, "*"), (0.05, ""), (1, "")]
)
def test_marks(p: float, mark: str) -> None:
    table = Table("t", (Column("x", "x"),), (Row("a", {"x": Cell(0.5, p=p)}),))
    assert table.csv().endswith(f",{p}\n")
    assert f"| 0.500{mark} |".replace("*", r"\*") in table.markdown()


def test_markdown() -> None:
    assert TABLE.markdown().splitlines()[:6] == [
        r"**MLLMU-Bench, forget\_10**",
        "",
        "| model | names ↓ (n=150) | kept ↑ (n=300) | log p |",
        "|---|---:|---:|---:|",
        r"| vanilla | 0.970 \[0.950, 0.990\] | 0.951 \[0.900, 1.000\] | – |",
        r"| ours | 0.020 \[0.000, 0.050\]\*\*\* | – | -61.2 |",
    ]


def test_latex() -> None:
    lines = TABLE.latex().splitlines()
    assert lines[2] == r"\caption{MLLMU-Bench, forget\_10}"
    assert lines[3] == r"\begin{tabular}{lrrr}"
    assert lines[5] == r"model & names $\downarrow$ (n=150) & kept $\uparrow$ (n=300) & log p \\"
    assert lines[8] == r"ours & 0.020 [0.000, 0.050]*** & -- & $-$61.2 \\"


def test_csv_has_one_line_a_figure() -> None:
    lines = list(csv.reader(io.StringIO(TABLE.csv())))
    assert lines[0] == ["model", "figure", "value", "low", "high", "n", "p"]
    assert lines[1:] == [
        ["vanilla", "forget_names", "0.97", "0.95", "0.99", "150", ""],
        ["vanilla", "retain", "0.9512", "0.9", "1", "300", ""],
        ["ours", "forget_names", "0.02", "0", "0.05", "150", "0.0004"],
        ["ours", "log_p", "-61.23", "", "", "", ""],
    ]


def test_nothing_in_a_name_is_taken_for_a_sign() -> None:
    table = Table(NASTY, (Column("x", NASTY, note=NASTY),), (Row(NASTY, {"x": Cell(1)}),), (NASTY, "two\nlines"))
    assert NASTY in shown(table)
    body = table.markdown()
    assert r"a\|b\_c \<script\>\\x\{y\}\$5 \& 10% \#1 \~^ \*b\* \`c\` \[red\]d\[/red\]" in body
    assert "- two lines\n" in body
    tex = table.latex()
    assert (
        r"a\textbar{}b\_c \textless{}script\textgreater{}\textbackslash{}x\{y\}\$5 \& 10\% \#1 "
        r"\textasciitilde{}\textasciicircum{} *b* `c` [red]d[/red]" in tex
    )
    assert next(csv.reader(io.StringIO(table.csv().split("\n", 1)[1])))[0] == NASTY
    assert Table.read(table.json()) == table


def test_a_line_that_starts_with_a_bracket_or_star_is_not_latex_own() -> None:
    lines = Table("t", (Column("x", "x"),), (Row("[a]", {}), Row("*", {}))).latex().splitlines()
    assert lines[7:9] == [r"{}[a] & -- \\", r"{}* & -- \\"]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    table = Table(NASTY, (Column("x", NASTY, "lower", NASTY),), (Row(NASTY, {"x": Cell(-1, -2, 0, p=0)}),))
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(head + table.latex() + r"\end{document}")
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


numbers = st.floats(allow_nan=False, allow_infinity=False)
interval = st.tuples(numbers, numbers) | st.just((None, None))
cells = st.builds(
    lambda value, ends, n, p: Cell(value, *ends, n, p),
    numbers,
    interval,
    st.none() | st.integers(0, 10**6),
    st.none() | st.floats(0, 1),
)


@given(st.text(), st.dictionaries(st.sampled_from(["x", "y", "z"]), cells), st.lists(st.text()))
def test_json_is_read_back_the_same_and_the_bytes_are_the_same(
    title: str, figures: dict[str, Cell], notes: list[str]
) -> None:
    columns = tuple(Column(key, title, "lower", title, 2) for key in "xyz")
    table = Table(title, columns, (Row("a", figures), Row("b", {})), tuple(notes))
    again = Table.read(table.json())
    assert again == table
    for written in (Table.json, Table.csv, Table.markdown, Table.latex):
        assert written(again) == written(table)
    json.loads(table.json())


def test_files(tmp_path: Path) -> None:
    TABLE.write(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(first) == ["table.csv", "table.json", "table.md", "table.tex"]
    Table.read((tmp_path / "table.json").read_text(encoding="utf-8")).write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_cell_of_a_share() -> None:
    got = Cell.of(share([0, 1, 1, 1], list("abcd")), p=0.5)
    assert (got.value, got.n, got.p) == (0.75, 4, 0.5) and got.low is not None and got.low < 0.75


def test_bad_tables_are_refused() -> None:
    with pytest.raises(UnseeError, match="the column x stands twice"):
        Table("t", (Column("x", "a"), Column("x", "b")), ())
    with pytest.raises(UnseeError, match="the row a stands twice"):
        Table("t", (Column("x", "a"),), (Row("a", {}), Row("a", {})))
    with pytest.raises(UnseeError, match="Did you mean 'retain'"):
        Table("t", COLUMNS, (Row("a", {"retains": Cell(1)}),))
    with pytest.raises(UnseeError, match="Allowed: higher, lower, neither"):
        Column("x", "x", "up")  # type: ignore[arg-type]
    with pytest.raises(UnseeError, match="a figure of nan"):
        Cell(float("nan"))
    with pytest.raises(UnseeError, match="one end"):
        Cell(1, low=0)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"columns": [{"k": 1}]}', "null", TABLE.json().replace("0.97", "NaN")]
)
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(UnseeError, match="figure of nan|not a table that unsee wrote"):
        Table.read(text)


def test_many_figures_have_a_line_each_on_paper() -> None:
    columns = tuple(Column(f"c{i}", f"figure {i}") for i in range(9))
    rows = tuple(Row(m, {c.key: Cell(0.5) for c in columns}) for m in ("ours", "theirs"))
    wide, narrow = Table("t", columns, rows), Table("t", columns[:8], tuple(Row(r.model, {}) for r in rows))
    assert "| model | ours | theirs |" in wide.markdown() and "| figure 8 | 0.500 | 0.500 |" in wide.markdown()
    assert r"\begin{tabular}{lrr}" in wide.latex() and r"figure 8 & 0.500 & 0.500 \\" in wide.latex()
    assert "| ours |" in narrow.markdown() and r"\begin{tabular}{lrrrrrrrr}" in narrow.latex()


COLUMN = {"key": "k", "title": "k"}
WHOLE = {"title": "t", "columns": [COLUMN], "rows": [{"model": "m", "cells": {"k": {"value": 0.5}}}], "notes": []}
HOSTILE = {
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "no notes": json.dumps({k: v for k, v in WHOLE.items() if k != "notes"}),
    "columns that are none": json.dumps(WHOLE | {"columns": 5}),
    "a title that is a number": json.dumps(WHOLE | {"title": 5}),
    "notes that are none": json.dumps(WHOLE | {"notes": [[]]}),
    "digits beyond count": json.dumps(WHOLE | {"columns": [COLUMN | {"digits": 9_000_000}]}),
    "a model without a name": json.dumps(WHOLE | {"rows": [{"model": [], "cells": {}}]}),
    "a value in words": json.dumps(WHOLE | {"rows": [{"model": "m", "cells": {"k": {"value": "x\n"}}}]}),
    "an infinite value": json.dumps(WHOLE | {"rows": [{"model": "m", "cells": {"k": {"value": math.inf}}}]}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_strangers_table_is_read_or_refused_in_one_line(what: str) -> None:
    with pytest.raises(UnseeError) as told:
        Table.read(HOSTILE[what])
    assert "\n" not in str(told.value)


def test_a_table_for_a_paper_holds_nothing_that_a_terminal_obeys() -> None:
    made = Table("t\x1b[31m", (Column("k", "k\u202e"),), (Row("m\x07\udc80", {"k": Cell(0.5)}),), ("n\x9b",))
    for text in (made.markdown(), made.latex()):
        assert not set("\x1b\u202e\x07\x9b\udc80") & set(text)
