"""What frozen layers make of an image is taken from disk, with the bytes that computing it anew would give."""

from __future__ import annotations

import shutil
import stat

import pytest
import torch

from unsee.cli import main
from unsee.data.folder import read_folder
from unsee.errors import UnseeError
from unsee.feature_cache import FeatureCache
from unsee.vision.blocks import Upper, upper_layers
from unsee.vision.module import load_visual
from unsee.vision.trace import trace


@pytest.fixture
def visual(checkpoint):
    return load_visual(checkpoint)


@pytest.fixture
def shown(visual, images):
    return visual.pixels([c.images[0] for c in read_folder(images / "known").concepts])


def cached(visual, shown, folder, depth=0.3):
    layers = trace(visual, shown[0]).linears
    trained = upper_layers(layers, depth)
    cache = FeatureCache.below(folder, visual, trained)
    return Upper(visual, layers, trained, shown[:2], bf16=False, cache=cache)


def looked(upper, shown):
    return torch.stack(upper.look([dict(p) for p in shown], lambda features: features.mean(0)))


def refuse(*_):
    raise AssertionError("it was computed again")


@pytest.mark.parametrize("depth", [0, 0.3])
def test_a_second_look_computes_nothing_below(depth, visual, shown, tmp_path, monkeypatch):
    first = looked(cached(visual, shown, tmp_path, depth), shown)
    again = cached(visual, shown, tmp_path, depth)
    monkeypatch.setattr(again, "_entered", refuse)
    assert torch.equal(looked(again, shown), first)
    assert torch.allclose(first, torch.stack([f.mean(0) for f in visual.features(shown)]), atol=1e-5)


def test_what_is_there_already_changes_no_bit(visual, shown, tmp_path):
    whole = looked(cached(visual, shown, tmp_path / "a"), shown)
    looked(cached(visual, shown, tmp_path / "b"), shown[1:2])
    assert torch.equal(looked(cached(visual, shown, tmp_path / "b"), shown), whole)


def test_other_weights_below_are_another_tower(visual, shown, tmp_path, monkeypatch):
    looked(cached(visual, shown, tmp_path), shown)
    layers = trace(visual, shown[0]).linears
    late = upper_layers(layers, 0.3)
    with torch.no_grad():
        visual.model.get_submodule(late[0]).weight.mul_(1.1)
    upper = cached(visual, shown, tmp_path)
    with monkeypatch.context() as one:
        one.setattr(upper, "_entered", refuse)
        looked(upper, shown)
    with torch.no_grad():
        visual.model.get_submodule(next(n for n in layers if n not in late)).weight.mul_(1.1)
    upper = cached(visual, shown, tmp_path)
    monkeypatch.setattr(upper, "_entered", refuse)
    with pytest.raises(AssertionError, match="computed again"):
        looked(upper, shown)


def test_a_damaged_file_is_refused(visual, shown, tmp_path):
    looked(cached(visual, shown, tmp_path), shown[:1])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UnseeError, match="not a whole file of features"):
        looked(cached(visual, shown, tmp_path), shown[:1])


def test_another_request_on_the_same_images_begins_at_once(checkpoints, images, tmp_path, monkeypatch):
    def patch(cache, out, *flags):
        given = {"model": checkpoints["llava"], "forget": images / "known", "retain": images / "known",
                 "neutral": images / "neutral", "cache": tmp_path / cache, "out": tmp_path / out}  # fmt: skip
        asked = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        few = ["--concepts", "ada", "--steps", "2", "--batch", "2", "--most-left", "9"]
        assert main(["forget", *asked, *few, *flags]) == 0
        return (tmp_path / out / "patch" / "patch.safetensors").read_bytes()

    patch("first", "one")
    with monkeypatch.context() as one:
        one.setattr(Upper, "_entered", refuse)
        stricter = patch("first", "two", "--penalty", "900")
    assert stricter == patch("second", "three", "--penalty", "900")
    files = list((tmp_path / "first").iterdir())
    assert files and all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files)
    shutil.rmtree(tmp_path / "first")
