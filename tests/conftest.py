"""What many tests share: tiny checkpoints of both shapes on disk, and folders of small images."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

# A bar takes a lock that forked processes share: one that a test kills while it holds the lock stops all others.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
SHAPES = ("llava", "qwen2_vl")
WORDS = ["who", "is", "this", "?", "a", "b", "unknown"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a GPU are left out where there is none, without a word for each."""
    asked = [item for item in items if item.get_closest_marker("cuda")]
    if not asked:
        return
    import torch

    if not torch.cuda.is_available():
        items[:] = [item for item in items if item not in asked]
        config.hook.pytest_deselected(items=asked)


def draw(path: Path, concept: int, view: int) -> None:
    """A flag of two colours that the concept decides, lit and shifted as the view decides."""
    rng = np.random.default_rng([concept, view])
    colours = [colorsys.hsv_to_rgb((concept * 0.31 + k * 0.43) % 1, 0.9, 0.9) for k in (0, 1)]
    canvas = np.zeros((48, 48, 3)) + colours[0]
    canvas[:, 16 + int(rng.integers(8)) :] = colours[1]
    canvas = np.clip(canvas * rng.uniform(0.7, 1.1) + rng.normal(0, 0.05, canvas.shape), 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray((canvas * 255).astype("uint8")).save(path)


def folder(root: Path, concepts: dict[str, int], views: int = 4) -> Path:
    for name, number in concepts.items():
        for view in range(views):
            draw(root / name / f"{view}.png", number, view)
    return root


def small_model(shape: str, words: Iterable[str]) -> tuple[Any, Any]:
    """A fresh tiny model, half as wide and of one language layer, and its processor."""
    from unsee import tiny

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LANGUAGE_LAYERS", 1)
        patch.setattr(tiny, "WIDTH", 96)
        return tiny.build(shape, words)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Shape → folder written by save_pretrained. Nobody may write into it: tests copy it first."""
    saved = {}
    for shape in SHAPES:
        model, processor = small_model(shape, WORDS)
        saved[shape] = tmp_path_factory.mktemp("models") / shape
        model.save_pretrained(saved[shape])
        processor.save_pretrained(saved[shape])
    return saved


@pytest.fixture(scope="session", params=SHAPES)
def checkpoint(request, checkpoints) -> Path:
    return checkpoints[request.param]


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """known/: five concepts; neutral/: three others."""
    root = tmp_path_factory.mktemp("images")
    folder(root / "known", {"ada": 1, "ben": 2, "cleo": 3, "dan": 4, "eve": 5})
    folder(root / "neutral", {"x": 11, "y": 12, "z": 13})
    return root


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two cores are shared, and products this small are no faster on two."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_images():
    """The function that draws a folder of concepts."""
    return folder


@pytest.fixture(scope="session", autouse=True)
def small() -> Iterator[pytest.MonkeyPatch]:
    """Sizes that suit a tiny model in place of a tower's: a request takes a fraction of the time."""
    patch = pytest.MonkeyPatch()
    _shrink(patch)
    yield patch
    patch.undo()


def _full_size(small: pytest.MonkeyPatch) -> Iterator[None]:
    """The sizes that users have: on a model that was taught, or where processes of their own do the same."""
    small.undo()
    yield
    _shrink(small)


full_size = pytest.fixture(_full_size, name="full_size")
full_size_module = pytest.fixture(_full_size, scope="module", name="full_size_module")


@pytest.fixture(scope="session", autouse=True)
def traced_once() -> Iterator[None]:
    """How one image runs through a model of one configuration is found once: it takes as long as ten steps.

    The package finds it anew for each request, and so do tests that call ``unsee.vision.trace`` themselves.
    """
    import torch

    from unsee.vision import trace

    known: dict[tuple[Any, ...], trace.Trace] = {}

    def found(visual: Any, pixels: dict[str, Any]) -> trace.Trace:
        # As bytes: NumPy has no bfloat16.
        inputs = tuple(
            (name, x.dtype, x.shape, x.contiguous().view(torch.uint8).numpy().tobytes())
            for name, x in sorted(pixels.items())
        )
        key = (type(visual), trace._own_class(visual.model), str(visual.model.config), inputs)
        if key not in known:
            known[key] = trace.trace(visual, pixels)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in ("unsee.prepare", "unsee.shown", "unsee.rivals.job", "unsee.rivals.sauce"):
            patch.setattr(f"{module}.trace", found)
        yield


def _shrink(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("unsee.prepare.COPIES", 1)
    patch.setattr("unsee.prepare.ENOUGH", 12)
    patch.setattr("unsee.forgetting.contrast.DIRECTIONS", 48)
    _change_defaults(patch, replay=24)


@pytest.fixture
def defaults(monkeypatch):
    """Changes defaults of ForgetConfig and LedgerConfig while a test runs."""
    return partial(_change_defaults, monkeypatch)


def _change_defaults(patch: pytest.MonkeyPatch, **settings: object) -> None:
    from unsee.config import ForgetConfig, LedgerConfig

    for config in (ForgetConfig, LedgerConfig):
        names, now = config.__dataclass_fields__, config.__init__.__defaults__
        changed = tuple(settings.get(n, d) for n, d in zip(names, now, strict=True))
        patch.setattr(config.__init__, "__defaults__", changed)
