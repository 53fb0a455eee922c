"""DINOv2-small and SmolLM2 in two layouts of transformers, with a projector between them that nobody has taught."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from benchmarks.photographs.language import END, START, give_rows, with_words
from benchmarks.photographs.names import IN_DINOV2, IN_INTERNVL, renamed
from benchmarks.photographs.tower import Tower
from transformers import (
    CLIPImageProcessor,
    Dinov2Config,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from unsee.errors import UnseeError

Layout = Literal["internvl", "llava"]
SIDE = 224  # pixels
PATCH = 14  # of DINOv2, in pixels
HEAD = 64  # of these an attention head of DINOv2 has
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as DINOv2 was taught
CHAT = (
    f"{{% for m in messages %}}{{{{ '{START}' + m['role'] + '\\n' }}}}{{% for c in m['content'] %}}"
    f"{{{{ 'IMAGE\\n' if c['type'] == 'image' else c['text'] }}}}{{% endfor %}}{{{{ '{END}\\n' }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
)  # SmolLM2's own, without the system's turn, and with a word where an image stands


def build(
    layout: Layout, tower: Tower, language: Any, tokenizer: Any, seed: int = 0, side: int = SIDE
) -> tuple[Any, Any]:
    """A model and its processor. ``side``: of the square that a picture is made to, in pixels."""
    torch.manual_seed(seed)  # of the projector
    made = _internvl if layout == "internvl" else _llava
    model, processor = made(tower, language, tokenizer, side)
    model.generation_config.update(
        pad_token_id=processor.tokenizer.pad_token_id, eos_token_id=processor.tokenizer.eos_token_id,
        bos_token_id=None, do_sample=False,
    )  # fmt: skip
    return model.eval(), processor


def tower_of(model: Any) -> Any:
    """The vision tower of a model of either layout."""
    return model.model.vision_tower


def for_side(module: Any, tower: Tower, side: int) -> Any:
    """``module``, a model's vision tower, for pictures of another ``side``: with positions of ``tower`` for these."""
    config, key = copy.deepcopy(module.config), "embeddings.position_embeddings"
    config.image_size = side if isinstance(config.image_size, int) else [side, side]
    other = type(module)(config).eval()
    other.load_state_dict({**module.state_dict(), key: tower.positions(side // tower.patch)})
    return other


def refuse_side(side: int) -> None:
    """UnseeError: no whole number of patches, two by two, fills a square of ``side`` pixels."""
    if side < 2 * PATCH or side % (2 * PATCH):
        raise UnseeError(f"--side is {side}. Allowed: multiples of {2 * PATCH}, two patches of {PATCH} pixels.")


def _internvl(tower: Tower, language: Any, tokenizer: Any, side: int) -> tuple[Any, Any]:
    """Four patches become one token."""
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tok: Any = with_words(tokenizer, [], named)
    give_rows(language, len(tok))
    patches = side // tower.patch
    tokens = (patches // 2) ** 2
    vision = {
        **_vision(tower), "intermediate_size": tower.inner, "attention_bias": True, "use_mean_pooling": False,
        "patch_size": [tower.patch, tower.patch], "image_size": [side, side],
    }  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=language.config.to_dict(), image_seq_length=tokens,
        image_token_id=tok.context_image_token_id, downsample_ratio=0.5, tie_word_embeddings=True,
    )  # fmt: skip
    model = InternVLForConditionalGeneration(config)
    state = renamed(tower, IN_INTERNVL, "embeddings.position_embeddings", patches)
    _fill(model, state, language)
    square = {"height": side, "width": side}
    # One patch at most: the processor would else cut pictures into tiles, whatever its image processor is set to.
    images = GotOcr2ImageProcessor(
        size=square, crop_to_patches=False, min_patches=1, max_patches=1, image_mean=MEAN, image_std=DEVIATION
    )
    videos = InternVLVideoProcessor(size=square, image_mean=MEAN, image_std=DEVIATION)
    processor = InternVLProcessor(
        image_processor=images, tokenizer=tok, video_processor=videos, image_seq_length=tokens,
        chat_template=CHAT.replace("IMAGE", "<IMG_CONTEXT>"),
    )  # fmt: skip
    return model, processor


def _llava(tower: Tower, language: Any, tokenizer: Any, side: int) -> tuple[Any, Any]:
    """A token a patch."""
    tok: Any = with_words(tokenizer, ["<image>"], {"image_token": "<image>"})
    give_rows(language, len(tok))
    patches = side // tower.patch
    vision = Dinov2Config(
        **_vision(tower), mlp_ratio=tower.inner // tower.width, patch_size=tower.patch, image_size=side
    )
    config = LlavaConfig(
        vision_config=vision, text_config=language.config, image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=patches**2, vision_feature_layer=-1, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    state = renamed(tower, IN_DINOV2, "embeddings.position_embeddings", patches)
    state["embeddings.mask_token"] = torch.zeros(1, tower.width)  # of its training only, and not in the file
    _fill(model, state, language)
    square = {"height": side, "width": side}
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square, image_mean=MEAN, image_std=DEVIATION)
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tok, patch_size=tower.patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token="<image>", chat_template=CHAT.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return model, processor


def _vision(tower: Tower) -> dict[str, Any]:
    return {
        "hidden_size": tower.width, "num_hidden_layers": tower.depth, "layer_norm_eps": 1e-6,
        "num_attention_heads": max(1, tower.width // HEAD),
    }  # fmt: skip


def _fill(model: Any, tower: dict[str, torch.Tensor], language: Any) -> None:
    """Both halves, every tensor of them."""
    tower_of(model).load_state_dict(tower, strict=True)
    model.model.language_model.load_state_dict(language.model.state_dict(), strict=True)
    model.lm_head.load_state_dict(language.lm_head.state_dict(), strict=True)
    model.tie_weights()
