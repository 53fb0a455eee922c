"""Two small multimodal models, built from config with transformers' own classes and a real tokenizer and processor.

They stand in for the models people serve: same classes, same checkpoint layout, about five million parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from unsee.embedded import packaged as packaged
from unsee.errors import UnseeError, nearest

Shape = Literal["llava", "qwen2_vl"]
IMAGE_SIZE = 72  # pixels
PATCH = 12
WIDTH = 192
HEAD = 32  # of these a head has
LANGUAGE_LAYERS = 4
VISION_LAYERS = 6  # of the CLIP tower


def build(shape: str, words: Iterable[str], seed: int = 0) -> tuple[Any, Any]:
    """A fresh model and its processor. ``shape``: llava (CLIP tower, MLP projector) or qwen2_vl."""
    if shape not in get_args(Shape):
        raise UnseeError(f"no tiny model of shape '{shape}'. {nearest(shape, get_args(Shape))}")
    torch.manual_seed(seed)
    return _llava(words) if shape == "llava" else _qwen2_vl(words)


def tokenizer(words: Iterable[str], specials: list[str]) -> PreTrainedTokenizerFast:
    """One token a word: prompts are written with spaces around punctuation."""
    fixed = ["<pad>", "<unk>", "</s>", *specials]
    vocabulary = {w: i for i, w in enumerate([*fixed, *sorted(set(words) - set(fixed))])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=specials,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _text_config(tok: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tok),
        "hidden_size": WIDTH,
        "intermediate_size": 512,
        "num_hidden_layers": LANGUAGE_LAYERS,
        "num_attention_heads": WIDTH // HEAD,
        "num_key_value_heads": WIDTH // HEAD,
        "max_position_embeddings": 512,
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tok.eos_token_id,
        "tie_word_embeddings": False,
    }


def _llava(words: Iterable[str]) -> tuple[Any, Any]:
    tok: Any = tokenizer([*words, "USER:", "ASSISTANT:"], ["<image>"])
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=WIDTH // HEAD,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**_text_config(tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        tie_word_embeddings=False,
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=side),
        tokenizer=tok,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=(
            "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
            "{{ '<image> ' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}"
            "{% if m['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
        ),
    )
    return _finish(LlavaForConditionalGeneration(config), tok), processor


def _qwen2_vl(words: Iterable[str]) -> tuple[Any, Any]:
    specials = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tok: Any = tokenizer([*words, "user", "assistant"], specials)
    ids = {
        name: tok.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    rope = {"rope_type": "default", "type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        text_config={**_text_config(tok), "rope_parameters": rope},
        vision_config={
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "depth": 5,
            "num_heads": WIDTH // HEAD,
            "mlp_ratio": 4,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=False,
    )
    area = {"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2}
    shape: dict[str, Any] = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=area, **shape),
        video_processor=Qwen2VLVideoProcessor(size=area, **shape),
        tokenizer=tok,
        chat_template=(
            "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' }}{% for c in m['content'] %}"
            "{{ '<|vision_start|> <|image_pad|> <|vision_end|> ' if c['type'] == 'image' else c['text'] + ' ' }}"
            "{% endfor %}{{ '</s>' if m['role'] == 'assistant' else '<|im_end|> ' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|> assistant' }}{% endif %}"
        ),
    )
    return _finish(Qwen2VLForConditionalGeneration(config), tok), processor


def _finish(model: Any, tok: PreTrainedTokenizerFast) -> Any:
    model.generation_config.update(pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id, bos_token_id=None)
    model.generation_config.do_sample = False
    return model.eval()
