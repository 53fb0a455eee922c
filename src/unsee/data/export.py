"""Write the embedded people in the layout of a published benchmark."""

from __future__ import annotations

from pathlib import Path

import datasets

from unsee.data.parquet import quiet
from unsee.data.sources import known
from unsee.data.world import Layout, world
from unsee.files import new_folder

FILE = "train-00000-of-00001.parquet"


def export(name: str, out: Path | str, known_people: int = 40, views: int = 3, seed: int = 0) -> Layout:
    """Writes ``out/CONFIG/train-00000-of-00001.parquet`` for every config of benchmark ``name``.

    ``known_people``: 20 to 200, of whom 5, 10 and 15 % can be forgotten. ``views``: pictures of a person where the
    benchmark has several. Returns what was written.
    """
    layout = known(name).export(world(known_people, views, seed))
    with new_folder(out) as root, quiet():
        for config, (features, rows) in layout.tables.items():
            (root / config).mkdir()
            table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
            table.to_parquet(root / config / FILE)
    return layout
