"""Assemble a multimodal model from pretrained weights that two packages of the Python Package Index carry.

    python -m benchmarks.photographs.assemble --layout internvl --out build/dinov2-smollm2-internvl
    python -m benchmarks.photographs.assemble --layout llava --out build/dinov2-smollm2-llava

Before the checkpoint is put in place it is read again and compared with the files that it was made from: the tower's
features on two drawn pictures, run by ONNX Runtime, and the language model's answers. The packages, 195 MB, are
downloaded once to --cache; an interrupted download or assembly leaves nothing, and the same command begins it again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from benchmarks.photographs import layouts, packages
from benchmarks.photographs.card import card
from benchmarks.photographs.command import told
from benchmarks.photographs.language import answers, read_language, refuse_other
from benchmarks.photographs.tower import MOST, Tower, difference, read_tower, side_of

from unsee.data.people import Portrait, strangers, train_views
from unsee.errors import UnseeError
from unsee.files import new_folder, refuse_existing
from unsee.progress import progress
from unsee.vision.module import Visual, load_full


@dataclass(frozen=True)
class Files:
    """Of the tower (ONNX) and of the language model (GGUF)."""

    tower: Path
    language: Path

    @classmethod
    def fetched(cls, cache: Path) -> Files:
        """Those of the two packages, which lie in ``cache`` from then on."""
        return cls(packages.fetch(packages.TOWER, cache), packages.fetch(packages.LANGUAGE, cache))


@dataclass(frozen=True)
class Checked:
    """What was measured on the checkpoint as it was written."""

    features: float  # the largest difference of one
    answers: list[str]
    image_tokens: int


def assemble(layout: layouts.Layout, files: Files, out: Path, side: int = layouts.SIDE) -> Checked:
    """Write the checkpoint to ``out``, once it was read again and found to be what the files are."""
    refuse_existing(out)
    with progress("assembling", 4) as tick:
        tower = read_tower(files.tower)
        tick(1, "tower read")
        language, tokenizer = read_language(files.language)
        said = answers(language, tokenizer)
        tick(2, "language model read")
        model, processor = layouts.build(layout, tower, language, tokenizer, side=side)
        with new_folder(out) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            tick(3, "written, to be compared")
            checked = check(folder, files.tower, said, tower)
            (folder / "README.md").write_text(card(layout, model, checked), encoding="utf-8")
        tick(4, "compared")
    return checked


def check(folder: Path, file: Path, said: list[str], tower: Tower) -> Checked:
    """UnseeError: the checkpoint in ``folder`` computes something else than the files. ``said``: by the GGUF file.

    ``tower``: what was read of ``file``, which takes pictures of one size.
    """
    model, processor = load_full(folder)
    visual = Visual(model, processor)
    pixels = visual.pixels(pictures())
    shown, side = torch.cat([p["pixel_values"] for p in pixels]), side_of(file)
    shown = torch.nn.functional.interpolate(shown, (side, side), mode="bicubic")
    features = difference(file, layouts.for_side(layouts.tower_of(model), tower, side), shown)
    if not features <= MOST:
        raise UnseeError(f"the tower's features differ from the file's by {features:.2g}, more than {MOST:.0e}.")
    refuse_other(said, answers(model, processor.tokenizer))
    with torch.no_grad():
        return Checked(features, said, len(visual.features(pixels[:1])[0]))


def pictures() -> list[Portrait]:
    """Two drawings to compare towers on."""
    return [train_views(person, 1)[0] for person in strangers(2)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=get_args(layouts.Layout), default="internvl")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the checkpoint")
    parser.add_argument(
        "--side", type=int, default=layouts.SIDE, help="of the square that pictures are made to, in pixels"
    )
    parser.add_argument("--cache", type=Path, default=packages.CACHE, help="folder of the downloaded packages")
    args = parser.parse_args(arguments)

    def work() -> str:
        refuse_existing(args.out)
        layouts.refuse_side(args.side)
        found = assemble(args.layout, Files.fetched(args.cache), args.out, args.side)
        return (
            f"{args.out}: a {args.layout} model, {found.image_tokens} tokens a picture; its tower's features differ "
            f"from the ONNX file's by {found.features:.1e} at most, its language model answers as the GGUF file does"
        )

    return told(work)


if __name__ == "__main__":
    sys.exit(main())
