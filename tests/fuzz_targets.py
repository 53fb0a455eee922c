"""What strangers' files are read by, each as a target for a fuzzer: bytes in, an UnseeError or nothing out.

``benchmarks/fuzz.py`` gives them a million inputs, ``tests/test_fuzz.py`` a few hundred of each.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tests import families, small_ledger

from unsee.data.facts import load_recipe
from unsee.data.folder import read_folder
from unsee.data.images import decode
from unsee.data.parquet import Source
from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.replay import Replay
from unsee.ledger.audit import audit
from unsee.ledger.book import Ledger
from unsee.untrusted import parse_json, read_yaml, shown
from unsee.vision import patch as patches
from unsee.vision.checkpoint import Checkpoint
from unsee.vision.patch import Patch

Run = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """``make``: given an empty folder, honest inputs and what reads one. ``cost``: milliseconds an input takes."""

    name: str
    make: Callable[[Path], tuple[list[bytes], Run]]
    cost: float


class Choices:
    """Bytes as a sequence of choices, so that one input is one tree of files; at their end the first choice always."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, most: int) -> int:
        """From 0 to ``most``."""
        self.at += 1
        return self.data[self.at - 1] % (most + 1) if self.at <= len(self.data) else 0

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.number(len(options) - 1)]

    def rest(self, most: int) -> bytes:
        length = self.number(255) % (most + 1)
        self.at += length
        return self.data[self.at - length : self.at]


def _safetensors(data: bytes, file: Path) -> None:
    """First byte 0: the rest is the file. Else its first line is the header, whose length is put before it."""
    if data[:1] == b"\0":
        file.write_bytes(data[1:])
        return
    header, _, body = data[1:].partition(b"\n")
    file.write_bytes(len(header).to_bytes(8, "little") + header + body)


def _seed(file: Path) -> list[bytes]:
    """A safetensors file in both forms."""
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    return [b"\0" + whole, b"\1" + whole[8:end].rstrip() + b"\n" + whole[end:]]


def patch(root: Path) -> tuple[list[bytes], Run]:
    before = {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(2, 2, dtype=torch.bfloat16)}
    after = {name: tensor + 1 for name, tensor in before.items()}
    made, undo = patches.make(before, after, {"method": "cvf", "forgotten": ["0123456789abcdef"]})
    seeds = []
    for number, one in enumerate((made, undo)):
        one.save(root / str(number))
        seeds += _seed(root / str(number) / patches.FILE)

    def run(data: bytes) -> None:
        file = root / patches.FILE
        _safetensors(data, file)
        loaded = Patch.load(file)
        loaded.check(before)

    return seeds, run


def moments(root: Path) -> tuple[list[bytes], Run]:
    x = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    replay = Replay.fit([torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))], "block")
    sums = {"a": x.T @ x}
    one = Moments(sums, {"a": 4}, {"a": "a", "b": "a"}, 2, {"model": "0" * 64}, replay)
    one.save(root / "whole")
    Moments(sums, {"a": 4}, {"a": "a"}, 2).save(root / "plain")

    def run(data: bytes) -> None:
        file = root / "file"
        _safetensors(data, file)
        read = Moments.load(file)
        for layer in read.layers:
            read.mean(layer)
        if read.replay:
            read.replay.draw(2, 2)
        with suppress(UnseeError):
            read + one

    return [*_seed(root / "whole"), *_seed(root / "plain")], run


def model(root: Path) -> tuple[list[bytes], Run]:
    """A folder of a model: a value of one of its JSON files, or bytes of one of its files, changed."""
    whole, spoilt = root / "whole", root / "spoilt"
    built, processor = families.build("llava_clip")
    built.save_pretrained(whole, max_shard_size="100KB")
    processor.save_pretrained(whole)
    names = sorted(p.name for p in whole.iterdir() if p.suffix in (".json", ".safetensors"))
    texts = [name for name in names if name.endswith(".json")]
    values = [None, True, -1, 0, 2**31, 2**62, 1e308, "", "x" * 1000, [], {}, [[[]]], "../../x", "model.safetensors"]

    def run(data: bytes) -> None:
        choices = Choices(data)
        shutil.rmtree(spoilt, ignore_errors=True)
        spoilt.mkdir()
        for name in names:
            os.link(whole / name, spoilt / name)
        how = choices.number(2)
        name = choices.pick(texts if how else names)
        content = (whole / name).read_bytes()
        (spoilt / name).unlink()
        if how:
            content = json.dumps(_changed(json.loads(content), choices, values)).encode()
        else:
            at = choices.number(255) * len(content) // 256
            content = content[:at] + choices.rest(64) + content[at + choices.number(64) :]
        (spoilt / name).write_bytes(content)
        opened = Checkpoint.open(spoilt)
        for tensor in list(opened.visual)[:3]:
            opened.entry(tensor)

    return [bytes([how, name, *range(8)]) for how in range(3) for name in range(6)], run


def _changed(value: Any, choices: Choices, values: Sequence[Any]) -> Any:
    """One value in it is another, or gone, or one more."""
    if isinstance(value, dict) and value and choices.number(7):
        key = choices.pick(sorted(value))
        how = choices.number(3)
        if how == 0:
            return {k: v for k, v in value.items() if k != key}
        if how == 1:
            return value | {choices.pick(["auto_map", "quantization_config", "x" * 300, ""]): choices.pick(values)}
        return value | {key: _changed(value[key], choices, values)}
    return choices.pick(values)


def ledger(root: Path) -> tuple[list[bytes], Run]:
    """Bytes of the database changed, or values in its tables."""
    desk = small_ledger.desk(root / "desk")
    whole = small_ledger.made(desk, root / "whole", "ada", "ben")
    spoilt, database = root / "spoilt", (whole / "ledger.db").read_bytes()
    values = [
        None,
        0,
        -1,
        1.5,
        2**62,
        "",
        "released",
        "x" * 5000,
        b"\xff\x00",
        "[" * 2000,
        "{}",
        "[]",
        "null",
        "\ud7ff",
    ]

    def run(data: bytes) -> None:
        choices = Choices(data)
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(whole, spoilt, copy_function=os.link)
        (spoilt / "ledger.db").unlink()
        changed = bytearray(database)
        if choices.number(1):
            (spoilt / "ledger.db").write_bytes(changed)
            _rewritten(spoilt / "ledger.db", choices, values)
        else:
            for _ in range(1 + choices.number(7)):
                at = (choices.number(255) * 256 + choices.number(255)) * len(changed) // 65536
                changed[at] = choices.number(255)
            (spoilt / "ledger.db").write_bytes(changed)
        opened = Ledger(spoilt)
        opened.store.entries()
        audit(opened)

    return [bytes([kind, *range(start, start + 12)]) for kind in (0, 1) for start in (0, 40, 200)], run


def _rewritten(file: Path, choices: Choices, values: Sequence[Any]) -> None:
    """One to four columns of a table get other values in all rows, past what the schema would refuse."""
    db = sqlite3.connect(file)
    db.execute("PRAGMA ignore_check_constraints = ON")
    tables = [r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    for _ in range(1 + choices.number(3)):
        table = choices.pick(tables)
        columns = [r[1] for r in db.execute(f"PRAGMA table_info({table})")]
        with suppress(sqlite3.Error):
            db.execute(f"UPDATE {table} SET {choices.pick(columns)} = ?", (choices.pick(values),))
    db.commit()
    db.close()


NAMES = [
    "ada", "ben", "a.jpg", "b.PNG", "c.heic", "d", ".hidden", "._a.jpg", "__MACOSX", "@eaDir", "x\ny.jpg",
    "\x1b[2J.png", "e\u0301.jpg", "\u00e9.jpg", os.fsdecode(b"\xff.jpg"), "山田\u3000太郎", "n" * 200,
    "questions.jsonl", "metadata.csv", "Thumbs.db",
]  # fmt: skip


def folder(root: Path) -> tuple[list[bytes], Run]:
    """A tree of concept folders, files, links and pipes with such names."""
    tree, picture = root / "tree", _encoded("PNG", (4, 4))
    (root / "outside.png").write_bytes(picture)

    def run(data: bytes) -> None:
        choices = Choices(data)
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        places = [tree]
        for _ in range(choices.number(12)):
            place = choices.pick(places) / choices.pick(NAMES)
            if os.path.lexists(place):  # never through a link, nor into a pipe
                continue
            kind = choices.number(7)
            if kind < 2:
                place.mkdir()
                places.append(place)
            elif kind == 2:
                place.symlink_to(choices.pick([root / "outside.png", "..", ".", "gone", "ada"]))
            elif kind == 3:
                os.mkfifo(place)
            else:
                place.write_bytes(picture if kind < 6 else choices.rest(40))
        read_folder(tree, choices.pick(["error", "skip"]))

    return [bytes([6, 0, 0, 0, 1, 2, 4, 1, 3, 4]), bytes([3, 0, 17, 6, 20])], run


def questions(root: Path) -> tuple[list[bytes], Run]:
    """questions.jsonl, of a folder that is sound otherwise."""
    return _beside(root, "questions.jsonl", [
        b'{"concept": "ada", "kind": "fact", "topic": "city", "prompt": "Where ?", "answer": "Bath", "image": true, '
        b'"split": "test", "form": "classification", "options": ["Bath", "Rome"]}\n',
    ])  # fmt: skip


def metadata(root: Path) -> tuple[list[bytes], Run]:
    """metadata.csv, of a folder that is sound otherwise."""
    return _beside(root, "metadata.csv", [b"file_name,text\nada/0.png,a face\n", b"file_name;text\r\nada/0.png;x\r\n"])


def _beside(root: Path, name: str, seeds: list[bytes]) -> tuple[list[bytes], Run]:
    (root / "all" / "ada").mkdir(parents=True)
    (root / "all" / "ada" / "0.png").write_bytes(_encoded("PNG", (4, 4)))

    def run(data: bytes) -> None:
        (root / "all" / name).write_bytes(data)
        read_folder(root / "all")

    return seeds, run


def recipe(root: Path) -> tuple[list[bytes], Run]:
    seed = Path("recipes/flags.yaml").read_bytes()

    def run(data: bytes) -> None:
        (root / "recipe.yaml").write_bytes(data)
        load_recipe(root / "recipe.yaml")

    return [seed, seed[:400]], run


def settings(root: Path) -> tuple[list[bytes], Run]:
    def run(data: bytes) -> None:
        (root / "config.yaml").write_bytes(data)
        read_yaml(root / "config.yaml")

    return [
        b"steps: 3\nlr: 1.0e-3\nlayers: ''\n",
        b"{a: [1, 2, &x y], b: {c: null}}\n---\n",
        b"a: !!python/name:os\n",
    ], run


def document(root: Path) -> tuple[list[bytes], Run]:
    def run(data: bytes) -> None:
        with suppress(ValueError):
            shown(parse_json(data))
        printed = shown(data.decode("utf-8", "surrogateescape"))
        if set(printed) & set("\x1b\n\r\x9b\u202e\u2028") or shown(printed) != printed:
            raise AssertionError(printed)

    return [b'{"a": [1, 2.5, "x\\u001b", null, true]}', b"[[[[]]]]", b'"\\"["'], run


def _encoded(kind: str, size: tuple[int, int], **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(noise).save(out, kind, **options)
    return out.getvalue()


def image(root: Path) -> tuple[list[bytes], Run]:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
    seeds = [_encoded(kind, (12, 8)) for kind in kinds]

    def run(data: bytes) -> None:
        decode(data)

    return [*seeds, _encoded("JPEG", (12, 8), exif=exif)], run


def table(root: Path) -> tuple[list[bytes], Run]:
    """A parquet file of a benchmark."""
    cell = {"bytes": _encoded("PNG", (4, 4)), "path": "a.png"}
    out = io.BytesIO()
    pq.write_table(pa.table({"ID": ["1"], "image": [cell], "Question": ['{"a": 1}']}), out)
    place = root / "benchmark" / "Full_Set"
    place.mkdir(parents=True)

    def run(data: bytes) -> None:
        (place / "train-00000-of-00001.parquet").write_bytes(data)
        source = Source("mllmu", str(root / "benchmark"))
        found = source.table("Full_Set")
        if found is not None and len(found) < 100:
            list(found.rows)

    return [out.getvalue()], run


TARGETS = (
    Target("patch", patch, 0.5),
    Target("statistics", moments, 0.5),
    Target("model", model, 10),
    Target("ledger", ledger, 20),
    Target("folder", folder, 1),
    Target("questions", questions, 0.5),
    Target("metadata", metadata, 0.5),
    Target("recipe", recipe, 5),
    Target("settings", settings, 1),
    Target("document", document, 1),
    Target("image", image, 0.5),
    Target("table", table, 10),
)
