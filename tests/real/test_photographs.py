"""The pretrained weights, where the two packages that carry them were downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.photographs import assemble, packages, sets
from benchmarks.photographs.tower import MOST

ROOT = Path(__file__).parents[2]
CACHE = ROOT / packages.CACHE
pytestmark = pytest.mark.skipif(
    not CACHE.is_dir(), reason="the packages are not in build/packages: python -m benchmarks.photographs.assemble"
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("layout", "tokens"), [("internvl", 64), ("llava", 256)])
def test_the_pretrained_model_computes_what_its_files_do(layout, tokens, tmp_path):
    files = assemble.Files(packages.fetch(packages.TOWER, CACHE), packages.fetch(packages.LANGUAGE, CACHE))
    checked = assemble.assemble(layout, files, tmp_path / "model")
    assert checked.features <= MOST
    assert checked.image_tokens == tokens
    assert "Paris" in checked.answers[0]


@pytest.mark.skipif(not sets.PHOTOS.is_dir(), reason="the photographs are not in ../shared/data/photos")
@pytest.mark.parametrize(
    ("name", "concepts", "images"), [("groceries", 72, 1224), ("landmarks", 60, 1086), ("people", 154, 2233)]
)
def test_every_photograph_of_a_set_is_taught(name, concepts, images):
    lesson = sets.SETS[name].study().lesson()
    assert lesson.texts == concepts
    assert len(lesson.images) == images
