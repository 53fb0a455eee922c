"""Statistics from a stranger are sums that some images could have, or they are refused before any work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unsee.cli import main
from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.replay import Replay

KEY = "layer"
Parts = tuple[dict[str, Any], dict[str, Tensor]]


def some() -> Moments:
    torch.manual_seed(0)
    rows = torch.randn(40, 6, dtype=torch.float64)
    replay = Replay.fit([torch.randn(3, 2, 4) for _ in range(5)], "block")
    return Moments({KEY: rows.T @ rows}, {KEY: 40}, {KEY: KEY, "other": KEY}, 15, {"model": "m"}, replay)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("good") / "s.safetensors"
    some().save(file)
    return file


def changed(good: Path, out: Path, change: Callable[..., Any]) -> Path:
    with safe_open(good, "pt") as file:
        header, tensors = json.loads(file.metadata()["unsee"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    found = change(header, tensors)
    save_file(tensors, out, {"unsee": found if isinstance(found, str) else json.dumps(header)})
    return out


def said(**values: Any) -> Callable[..., Any]:
    return lambda h, t: h.update(values)


def counts(value: Any) -> Callable[..., Any]:
    return said(counts={KEY: value})


def replay(**values: Any) -> Callable[..., Any]:
    return lambda h, t: h["replay"].update(values)


def matrix(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda h, t: t.update({KEY: change(t[KEY]).contiguous()})


def part(name: str, change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda h, t: t.update({f"replay.{name}": change(t[f"replay.{name}"]).contiguous()})


def off_diagonal(m: Tensor) -> Tensor:
    """Finite and symmetric, but no x xᵀ: two inputs go together more than each with itself."""
    m = m.clone()
    m[0, 1] = m[1, 0] = 10 * m.abs().max()
    return m


STRANGE: dict[str, Callable[..., Any]] = {
    "deep": lambda h, t: "[" * 100_000,
    "null": lambda h, t: "null",
    "negative images": said(images=-5),
    "no images": said(images=0),
    "endless images": said(images=10**30),
    "images that are text": said(images="5"),
    "NaN images": lambda h, t: json.dumps(h).replace('"images": 15, "kind"', '"images": NaN, "kind"'),
    "negative rows": counts(-3),
    "no rows": counts(0),
    "half a row": counts(1.5),
    "endless rows": counts(10**400),
    "no layers": said(layers={}),
    "layers in a list": said(layers=[KEY]),
    "layers of others": said(layers={KEY: "other"}),
    "meta in a list": said(meta=[]),
    "a later version": said(version=99),
    "another kind": said(kind="settled"),
    "NaN": matrix(lambda m: m * float("nan")),
    "one Inf": matrix(lambda m: m + torch.diag(torch.tensor([0, 0, 0, 0, 0, float("inf")]))),
    "negative": matrix(lambda m: -m),
    "not symmetric": matrix(torch.triu),
    "of no inputs": matrix(off_diagonal),
    "zero": matrix(torch.zeros_like),
    "huge": matrix(lambda m: m * 1e300),
    "replay huge": part("between", lambda x: x * 1e30),
    "not square": matrix(lambda m: m[:3]),
    "float32": matrix(lambda m: m.float()),
    "a vector": matrix(lambda m: m[0]),
    "nothing": matrix(lambda m: m[:0, :0]),
    "one more": lambda h, t: t.update(x=torch.eye(2, dtype=torch.float64)),
    "none": lambda h, t: (t.pop(KEY), h.update(counts={}, layers={})),
    "replay NaN": part("mean", lambda x: x * float("nan")),
    "replay whole numbers": part("mean", lambda x: x.to(torch.int64)),
    "replay one number": part("mean", lambda x: torch.tensor(1.0)),
    "replay flat": part("between", lambda x: x.flatten()),
    "replay of many directions": part("between", lambda x: torch.randn(20_000, x.shape[1])),
    "replay of another width": part("within", lambda x: x[:, :3]),
    "replay without a part": lambda h, t: t.pop("replay.within") is None or None,
    "replay with one more": lambda h, t: t.update({"replay.more": torch.ones(2)}),
    "replay of no concepts": replay(concepts=0),
    "replay of negative concepts": replay(concepts=-7, images=-9),
    "replay of more concepts than images": replay(concepts=16),
    "replay of endless concepts": replay(concepts=10**400),
    "replay of a negative shape": replay(shape=[-1, -8]),
    "replay of an endless shape": replay(shape=[2**40, 2**40]),
    "replay of a shape in words": replay(shape=["a"]),
    "replay of a block that is none": replay(block=5),
    "replay in a list": said(replay=[1]),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_sums_that_no_images_have(kind, good, tmp_path):
    file = changed(good, tmp_path / "s.safetensors", STRANGE[kind])
    with pytest.raises(UnseeError, match="is not a whole file of moments written by unsee") as error:
        Moments.load(file)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["another width", "another layer", "no layer"])
def test_layers_that_the_model_lacks(change):
    model = torch.nn.ModuleDict({KEY: torch.nn.Linear(7 if change == "another width" else 6, 2)})
    moments = some() if change == "another width" else replace(some(), layers={"../x": KEY})
    if change == "another layer":
        model = torch.nn.ModuleDict({"other": torch.nn.ReLU()})
        moments = replace(some(), layers={"other": KEY})
    with pytest.raises(UnseeError, match="of 6 inputs, and the model has none such"):
        moments.refuse_unlike(model, moments.layers)


def test_nobody_else_may_read_them(good):
    assert good.stat().st_mode & 0o777 == 0o600


def test_sums_and_differences_of_many_are_read(tmp_path):
    """With the rounding that they have."""
    one = some()
    total = one
    for _ in range(20):
        total = total + one
    for _ in range(20):
        total = total - one
    total.save(tmp_path / "s.safetensors")
    assert torch.equal(Moments.load(tmp_path / "s.safetensors").matrices[KEY], total.matrices[KEY])


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a header of 100 MB"])
def test_a_file_that_is_none(kind, tmp_path, capsys):
    file = tmp_path / "s.safetensors"
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a device":
        file.symlink_to("/dev/zero")
    elif kind == "a folder":
        file.mkdir()
    else:
        file.write_bytes((100 * 2**20).to_bytes(8, "little"))
        os.truncate(file, 100 * 2**20 + 8)
    given = str(file)
    assert main(["add-statistics", given, given, "--out", str(tmp_path / "sum.safetensors")]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "is not a whole file of moments" in said
    assert not (tmp_path / "sum.safetensors").exists()


def test_many_tensors_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("unsee.forgetting.stored.TENSORS", 10)
    tensors = {f"{i}": torch.zeros(1, 1, dtype=torch.float64) for i in range(11)}
    save_file(tensors, tmp_path / "s", {"unsee": json.dumps({"kind": "moments", "version": 2})})
    with pytest.raises(UnseeError, match="11 tensors"):
        Moments.load(tmp_path / "s")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_are_statistics_or_refused(good, data):
    whole = good.read_bytes()
    spoilt = bytearray(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 9, 40]))])
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    file = good.with_name("spoilt")
    file.write_bytes(spoilt)
    try:
        found = Moments.load(file)
    except UnseeError as error:
        assert "\n" not in str(error)
    else:
        assert all(torch.isfinite(m).all() for m in found.matrices.values())
