"""Moments: what is recorded is XᵀX of the real rows, it adds and subtracts, and a file is whole or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.recorder import WIDE, MomentRecorder

torch.set_num_threads(1)


class Block(nn.Module):
    """q and k read one tensor, out a new one of the same shape, wide another width."""

    def __init__(self, d: int = 6) -> None:
        super().__init__()
        self.q, self.k, self.out, self.wide = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.out(self.q(x) * self.k(input=x)))


def block(d: int = 6) -> Block:
    torch.manual_seed(0)
    return Block(d)


def record(model: Block, batches: list[Tensor], masks: list[Tensor] | None = None) -> Moments:
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    with MomentRecorder(layers) as recorder, torch.no_grad():
        for number, batch in enumerate(batches):
            recorder.mask = masks[number] if masks else None
            model(batch)
            recorder.images += len(batch)
    return recorder.moments({"model": "m"})


def gram(x: Tensor) -> Tensor:
    rows = x.double().reshape(-1, x.shape[-1])
    return rows.T @ rows


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 7), st.integers(0, 99))
def test_moments_are_the_gram_matrix_and_add_over_any_split(sizes: list[int], tokens: int, seed: int) -> None:
    batches = list(torch.randn(sum(sizes), tokens, 6, generator=torch.Generator().manual_seed(seed)).split(sizes))
    model, whole = block(), torch.cat(batches)
    streamed = record(model, batches)
    torch.testing.assert_close(streamed.matrices["q"], gram(whole), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(streamed.mean("k"), gram(whole) / (len(whole) * tokens), rtol=1e-12, atol=1e-12)
    inner = model.q(whole) * model.k(whole)
    torch.testing.assert_close(streamed.matrices["out"], gram(inner.detach()), rtol=1e-5, atol=1e-5)
    added = sum((record(model, [b]) for b in batches[1:]), record(model, batches[:1]))
    assert (added.images, added.counts) == (streamed.images, streamed.counts) == (len(whole), streamed.counts)
    for key in streamed.matrices:
        torch.testing.assert_close(added.matrices[key], streamed.matrices[key], rtol=1e-12, atol=1e-12)


def test_subtraction_undoes_addition() -> None:
    a, b = record(block(), [torch.randn(4, 3, 6)]), record(block(), [torch.randn(2, 5, 6)])
    left = (a + b) - b
    assert (left.images, left.counts, left.layers, left.meta) == (a.images, a.counts, a.layers, a.meta)
    for key, matrix in a.matrices.items():
        torch.testing.assert_close(left.matrices[key], matrix, rtol=1e-13, atol=1e-13)
    nothing = (a + b) - b - a
    assert not any(m.any() for m in nothing.matrices.values())
    with pytest.raises(UnseeError, match="no rows"):
        nothing.mean("q")
    with pytest.raises(UnseeError, match="negative"):
        b - (a + b)


def test_only_layers_with_the_same_input_share_and_memory_used_again_does_not_count() -> None:
    moments = record(block(), [torch.randn(2, 3, 6) for _ in range(3)])
    assert moments.layers == {"q": "q", "k": "q", "out": "out", "wide": "wide"}
    assert set(moments.matrices) == {"q", "out", "wide"}
    one, two, memory = nn.Linear(4, 4), nn.Linear(4, 4), np.ones((2, 4), dtype=np.float32)
    with MomentRecorder({"one": one, "two": two}) as recorder:
        one(torch.from_numpy(memory))  # this tensor is gone before the next takes its address
        memory[:] = 3
        two(torch.from_numpy(memory))
    assert recorder.moments().layers == {"one": "one", "two": "two"}


def test_an_input_changed_in_place_is_not_shared_and_broken_sharing_is_refused() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    x = torch.ones(2, 4)
    with MomentRecorder({"one": one, "two": two}) as recorder:
        one(x)
        two(x.mul_(2))
    assert recorder.moments().layers["two"] == "two"
    with MomentRecorder({"one": one, "two": two}) as recorder:
        one(x), two(x)
        one(x)
        with pytest.raises(UnseeError, match="'one' and 'two' shared"):
            two(x.clone())
    with MomentRecorder({"one": one, "two": two}) as recorder:
        one(x), two(x), one(x)
    with pytest.raises(UnseeError, match="did not run in every batch"):
        recorder.moments()


def test_the_hook_changes_nothing_and_leaves() -> None:
    model, x = block(), torch.randn(2, 3, 6)
    before = model(x)
    with MomentRecorder({"q": model.q}), torch.inference_mode():
        assert torch.equal(model(x), before)
    assert not model.q._forward_pre_hooks


@pytest.mark.parametrize("shape", ["tokens", "images", "packed"])
def test_padding_is_dropped(shape: str) -> None:
    x = torch.randn(3, 4, 6)
    mask = torch.rand(3, 4) > 0.5 if shape != "images" else torch.tensor([True, False, True])
    mask[0] = True
    real = x[mask]
    x[~mask] = float("nan")  # padding may hold anything
    given_x = x.reshape(12, 6) if shape == "packed" else x
    linear = nn.Linear(6, 2)
    with MomentRecorder({"layer": linear}) as recorder:
        recorder.mask = mask
        linear(given_x)
    moments = recorder.moments()
    assert moments.counts == {"layer": real.numel() // 6}
    torch.testing.assert_close(moments.matrices["layer"], gram(real))


def test_bad_inputs_name_the_layer() -> None:
    model = block()
    x = torch.randn(2, 3, 6)
    for bad in (float("nan"), float("inf")):
        x[1, 2, 3] = bad
        with pytest.raises(UnseeError, match="layer 'q'"):
            record(model, [x])
    ones = torch.ones(2, 3, 6)
    for mask in (torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3), torch.ones(2, 3, 6, dtype=torch.bool)):
        with pytest.raises(UnseeError, match="recorder.mask"):
            record(model, [ones], [mask])
    with MomentRecorder({"unused": nn.Linear(2, 2)}) as recorder:
        pass
    with pytest.raises(UnseeError, match="unused"):
        recorder.moments()
    with pytest.raises(UnseeError, match="at least one"):
        MomentRecorder({})


def test_only_comparable_moments_combine() -> None:
    a = record(block(), [torch.ones(1, 1, 6)])
    with pytest.raises(UnseeError, match="meta differ in model"):
        a + Moments(a.matrices, a.counts, a.layers, 1, {"model": "other"})
    with pytest.raises(UnseeError, match="layers differ in k"):
        a - Moments(a.matrices, a.counts, {**a.layers, "k": "out"}, 1, a.meta)
    with pytest.raises(UnseeError, match="'q' is"):
        a + record(block(7), [torch.ones(1, 1, 7)])
    with pytest.raises(UnseeError, match="Recorded: q"):
        a.mean("nowhere")


def test_a_file_comes_back_byte_identical(tmp_path) -> None:
    a = record(block(), [torch.randn(2, 3, 6)])
    a.save(tmp_path / "a")
    b = Moments.load(tmp_path / "a")
    b.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (b.counts, b.layers, b.images, b.meta) == (a.counts, a.layers, a.images, a.meta)
    assert all(torch.equal(a.matrices[k], b.matrices[k]) for k in a.matrices)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(UnseeError, match="could not write"):
        a.save(tmp_path / "a" / "file")


def test_a_damaged_or_foreign_file_is_refused(tmp_path) -> None:
    record(block(), [torch.randn(2, 3, 6)]).save(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    cases = {
        "cut": good[:-10],
        "stub": good[:20],
        "empty": b"",
        "text": b"hello world, not a tensor in sight",
        "newer": good.replace(b'\\"version\\": 2', b'\\"version\\": 9'),
        "settled": good.replace(b'\\"moments\\"', b'\\"settled\\"'),
        "lacking": good.replace(b'\\"counts\\"', b'\\"amount\\"'),
        "other key": good.replace(b'\\"counts\\": {\\"out', b'\\"counts\\": {\\"oot'),
    }
    for name, data in cases.items():
        assert data != good, name
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(UnseeError, match="not a whole file of moments"):
            Moments.load(tmp_path / "bad")
    save_file({"weight": torch.ones(2)}, tmp_path / "bad")
    with pytest.raises(UnseeError, match="its header does not say so"):
        Moments.load(tmp_path / "bad")
    with pytest.raises(UnseeError, match="there is no file"):
        Moments.load(tmp_path / "absent")


def test_products_of_wide_inputs_are_not_rounded_to_bfloat16():
    """Within autocast the factors are, as the layer's own are; the products would no longer be a second moment."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(WIDE, 4)
    rows = torch.randn(600, WIDE) + 3  # a mean as large as what a tower's inputs have
    with MomentRecorder({"wide": layer}) as recorder, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(rows)
    found = recorder.moments().matrices["wide"]
    exact = rows.bfloat16().double()
    torch.testing.assert_close(found, exact.T @ exact, rtol=1e-4, atol=0.0)
    values = torch.linalg.eigvalsh(found)
    assert values[0] > -1e-6 * values[-1]
