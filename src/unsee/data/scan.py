"""A look through a stranger's parquet file, within bounds: a few kilobytes can stand for terabytes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

ROWS = 4_000_000  # of a file; the largest benchmark has some ten thousand
COLUMNS = 1_000
GROWTH = 20  # how many times a file's size its unpacked content may be
SLACK = 256 * 2**20  # bytes beside that
BATCH = 64  # rows unpacked at a time


def scan(file: Path) -> str:
    """What keeps it from being read, in a few words; empty: nothing. All cells are read once, and thrown away."""
    try:
        opened = pq.ParquetFile(file, buffer_size=2**20)  # else a whole column is in memory before its first cell
        about, most = opened.metadata, GROWTH * file.stat().st_size + SLACK
        if about.num_rows > ROWS or about.num_columns > COLUMNS:
            return f"{about.num_rows:,} rows of {about.num_columns:,} columns are more than any benchmark has"
        told = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
        return "" if told <= most and _fits(opened, most) else f"unpacked it is over {GROWTH} times as large"
    except Exception as error:  # pyarrow raises errors of a dozen kinds on broken bytes
        return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _fits(opened: pq.ParquetFile, most: int) -> bool:
    """What the file says of its size need not be so: equal cells are stored once."""
    for batch in opened.iter_batches(batch_size=BATCH, use_threads=False):
        most -= batch.nbytes
        if most < 0:
            return False
        batch.validate(full=True)  # text that is not UTF-8
        batch.to_pylist()  # and dates that Python lacks would end in a traceback when a row is asked for
    return True
