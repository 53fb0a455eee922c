"""Faster attention is the same attention."""

from __future__ import annotations

import pytest
import torch

from unsee.data.folder import read_folder
from unsee.vision.attention import PACKED, attention_for, packed_attention
from unsee.vision.module import Visual, load_full, load_visual


@pytest.mark.parametrize("lengths", [[4, 4, 4], [2, 5, 3]])
def test_images_of_a_packed_row_see_only_themselves(lengths):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, sum(lengths), 8) for _ in range(3))
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    got, _ = packed_attention(torch.nn.Identity(), q, k, v, None, 0.3, cu_seq_lens_q=ends)
    parts = [
        torch.nn.functional.scaled_dot_product_attention(*(t[:, :, a:b] for t in (q, k, v)), scale=0.3)
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]
    assert torch.allclose(got, torch.cat(parts, 2).transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("bf16", [False, True])
def test_features_are_the_same_and_the_model_is_left_as_it_was(checkpoint, images, bf16):
    visual = load_visual(checkpoint)
    shown = visual.pixels([c.images[0] for c in read_folder(images / "known").concepts])
    before = {id(m): m.config._attn_implementation for m in visual.model.modules() if hasattr(m, "config")}
    with torch.no_grad():
        plain = torch.stack(visual.features(shown))
        with attention_for(visual.model, bf16):
            fast = torch.stack(visual.features(shown))
    assert torch.allclose(plain, fast, atol=1e-5)
    assert before == {id(m): m.config._attn_implementation for m in visual.model.modules() if hasattr(m, "config")}


def test_towers_that_pack_are_found(checkpoints):
    for shape, packs in (("llava", False), ("qwen2_vl", True)):
        model, processor = load_full(checkpoints[shape])
        with attention_for(model, True):
            names = {
                m.config._attn_implementation for m in Visual(model, processor).model.modules() if hasattr(m, "config")
            }
        assert (PACKED in names) == packs and "eager" in names


@pytest.mark.parametrize("sides", [(2, 3, 3), (2, 6, 6)])
def test_a_convolution_is_the_same_whether_or_not_its_kernel_covers_its_input(sides):
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(3, 5, (2, 3, 3), stride=(2, 3, 3))
    shown = torch.randn(4, 3, *sides)
    plain = conv(shown)
    with attention_for(conv, True):
        fast = conv(shown)
    assert fast.shape == plain.shape and torch.allclose(fast, plain, atol=1e-5)
    assert "forward" not in vars(conv)
