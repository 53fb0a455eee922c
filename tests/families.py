"""Tiny random models of many multimodal families, each with its family's own image processor.

For tests that read, change and write only the vision part of a checkpoint. Classes, checkpoint layout and processor
options are the real ones; only sizes are small. There is no tokenizer: the vocabulary is 64 numbers, and 5, 6, 7 never
mean anything special.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

SIDE, PATCH = 28, 7  # pixels: 4 x 4 patches a tile
VISION_WIDTH, WIDTH = 32, 24  # of the encoder and of the language model: unlike, so that mixing them up fails
IMAGE, VIDEO, START, END = 60, 61, 62, 63  # token ids

SQUARE = {"height": SIDE, "width": SIDE}
GRIDS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]
QWEN_IDS = dict(image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END)
DEPTH, HEADS, INNER = 3, 2, 48
VISION = dict(hidden_size=VISION_WIDTH, intermediate_size=INNER, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
MERGED = dict(patch_size=PATCH, temporal_patch_size=2)
QWEN_VISION = dict(MERGED, depth=DEPTH, num_heads=HEADS, spatial_merge_size=2)
QWEN_WIDTHS = dict(hidden_size=VISION_WIDTH, intermediate_size=INNER, out_hidden_size=WIDTH)


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    """The family's model (eval mode, float32, every parameter random) and its image processor."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model, image_processor = FAMILIES[name]()
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(max(0.1, parameter[0].numel() ** -0.5) * noise)
            else:  # norms and biases stay near where they start; a gate, one number, starts shut: open it
                parameter.add_(0.1 * noise + 0.5 * (parameter.numel() == 1))
    return model.eval(), image_processor


def _model(config: Any) -> Any:
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)


def _text(model_type: str, **settings: Any) -> dict[str, Any]:
    sizes = dict(hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, max_position_embeddings=256)
    heads = dict(num_attention_heads=2, num_key_value_heads=1)
    tokens = dict(vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return dict(sizes | heads | tokens | settings, model_type=model_type)


def _vision(model_type: str, **settings: Any) -> dict[str, Any]:
    return dict(dict(VISION, image_size=SIDE, patch_size=PATCH) | settings, model_type=model_type)


def _rope(**settings: Any) -> dict[str, Any]:
    """Multimodal RoPE: time, height and width share the 6 frequencies of a head."""
    return dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 2, 2], **settings)


def _llava(vision: dict[str, Any], image_processor: Any, **settings: Any) -> tuple[Any, Any]:
    config = hf.LlavaConfig(
        vision_config=vision, text_config=_text("llama"), image_token_index=IMAGE, image_seq_length=16, **settings
    )
    return _model(config), image_processor


def llava_clip() -> tuple[Any, Any]:
    return _llava(_vision("clip_vision_model"), hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE))


def llava_siglip() -> tuple[Any, Any]:
    """With the encoder's pooling head, which image features never use."""
    return _llava(
        _vision("siglip_vision_model"),
        hf.SiglipImageProcessor(size=SQUARE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def _pixtral() -> tuple[dict[str, Any], Any]:
    side = 6 * PATCH
    return _vision("pixtral", image_size=side), hf.PixtralImageProcessor(
        size={"longest_edge": side}, patch_size={"height": PATCH, "width": PATCH}
    )


def llava_pixtral() -> tuple[Any, Any]:
    return _llava(*_pixtral(), vision_feature_layer=-1, vision_feature_select_strategy="full")


def mistral3() -> tuple[Any, Any]:
    """The image processor knows nothing of the 2 x 2 merge: an odd last row or column of patches is dropped."""
    vision, image_processor = _pixtral()
    config = hf.Mistral3Config(vision_config=vision, text_config=_text("mistral", head_dim=12), image_token_index=IMAGE)
    return _model(config), image_processor


def llava_next() -> tuple[Any, Any]:
    config = hf.LlavaNextConfig(
        vision_config=_vision("clip_vision_model"),
        text_config=_text("llama"),
        image_token_index=IMAGE,
        image_grid_pinpoints=GRIDS,
        image_seq_length=16,
    )
    return _model(config), hf.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=GRIDS
    )


def llava_onevision() -> tuple[Any, Any]:
    config = hf.LlavaOnevisionConfig(
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text("qwen2"),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[SIDE, SIDE], *GRIDS],
    )
    return _model(config), hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=[[SIDE, SIDE], *GRIDS])


def _areas(frames: int = 1) -> dict[str, Any]:
    return dict(MERGED, merge_size=2, size={"shortest_edge": frames * 28 * 28, "longest_edge": frames * 56 * 56})


def qwen2_vl() -> tuple[Any, Any]:
    """The only Qwen whose vision hidden_size is the language model's: the encoder's own is embed_dim."""
    config = hf.Qwen2VLConfig(
        vision_config=dict(QWEN_VISION, embed_dim=VISION_WIDTH, hidden_size=WIDTH, mlp_ratio=2),
        text_config=_text("qwen2_vl_text", rope_parameters=_rope()),
        **QWEN_IDS,
    )
    return _model(config), hf.Qwen2VLImageProcessor(**_areas())


def qwen2_5_vl() -> tuple[Any, Any]:
    config = hf.Qwen2_5_VLConfig(
        vision_config=dict(QWEN_VISION | QWEN_WIDTHS, window_size=4 * PATCH, fullatt_block_indexes=[2]),
        text_config=_text("qwen2_5_vl_text", rope_parameters=_rope()),
        **QWEN_IDS,
    )
    return _model(config), hf.Qwen2VLImageProcessor(**_areas())


def qwen3_vl() -> tuple[Any, Any]:
    config = hf.Qwen3VLConfig(
        vision_config=dict(QWEN_VISION | QWEN_WIDTHS, num_position_embeddings=16, deepstack_visual_indexes=[0, 1]),
        text_config=_text("qwen3_vl_text", head_dim=12, rope_parameters=_rope(mrope_interleaved=True)),
        **QWEN_IDS,
    )
    return _model(config), hf.Qwen2VLImageProcessor(**_areas())


def glm4v() -> tuple[Any, Any]:
    """Its areas count the frames: a still image is two."""
    config = hf.Glm4vConfig(
        vision_config=dict(QWEN_VISION | QWEN_WIDTHS, image_size=SIDE),
        text_config=_text("glm4v_text", rope_parameters=_rope()),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
        video_start_token_id=58,
        video_end_token_id=59,
    )
    return _model(config), hf.Glm4vImageProcessor(**_areas(frames=2))


def idefics2() -> tuple[Any, Any]:
    config = hf.Idefics2Config(
        vision_config=_vision("idefics2_vision", image_size=56),
        perceiver_config=dict(
            hidden_size=WIDTH,
            resampler_n_latents=4,
            resampler_depth=2,
            resampler_n_heads=2,
            resampler_head_dim=12,
            num_key_value_heads=1,
        ),
        text_config=_text("mistral"),
        image_token_id=IMAGE,
    )
    return _model(config), hf.Idefics2ImageProcessor(
        size={"shortest_edge": 28, "longest_edge": 56}, do_image_splitting=True
    )


def _idefics3(config_class: Any, image_processor_class: Any) -> tuple[Any, Any]:
    vision = _vision(f"{config_class.model_type}_vision")
    config = config_class(vision_config=vision, text_config=_text("llama"), image_token_id=IMAGE, pad_token_id=0)
    return _model(config), image_processor_class(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True
    )


def idefics3() -> tuple[Any, Any]:
    return _idefics3(hf.Idefics3Config, hf.Idefics3ImageProcessor)


def smolvlm() -> tuple[Any, Any]:
    return _idefics3(hf.SmolVLMConfig, hf.SmolVLMImageProcessor)


def _crops() -> Any:
    return hf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)


def internvl() -> tuple[Any, Any]:
    config = hf.InternVLConfig(
        vision_config=_vision("internvl_vision", layer_scale_init_value=0.5),
        text_config=_text("qwen2"),
        image_token_id=IMAGE,
        image_seq_length=4,
    )
    return _model(config), _crops()


def aya_vision() -> tuple[Any, Any]:
    config = hf.AyaVisionConfig(
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text("cohere2"),
        image_token_index=IMAGE,
    )
    return _model(config), _crops()


def gemma3() -> tuple[Any, Any]:
    config = hf.Gemma3Config(
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text("gemma3_text", head_dim=12, query_pre_attn_scalar=12),
        mm_tokens_per_image=4,
        boi_token_index=START,
        eoi_token_index=END,
        image_token_index=IMAGE,
    )
    return _model(config), hf.Gemma3ImageProcessor(size=SQUARE)


def paligemma() -> tuple[Any, Any]:
    config = hf.PaliGemmaConfig(
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text("gemma", head_dim=12),
        image_token_index=IMAGE,
        vocab_size=64,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return _model(config), hf.SiglipImageProcessor(size=SQUARE)


def mllama() -> tuple[Any, Any]:
    """Two language layers: the second is the cross-attention, which text alone skips."""
    config = hf.MllamaConfig(
        vision_config=_vision(
            "mllama_vision_model",
            num_global_layers=2,
            intermediate_layers_indices=[0, 2],
            vision_output_dim=3 * VISION_WIDTH,
        ),
        text_config=_text("mllama_text_model", num_hidden_layers=2, cross_attention_layers=[1]),
        image_token_index=IMAGE,
    )
    return _model(config), hf.MllamaImageProcessor(size=SQUARE, max_image_tiles=4)


def llama4() -> tuple[Any, Any]:
    """Its forward raises in transformers 5.24 (image_outputs): ask language_model for logits.

    The encoder's intermediate_size is at once the width after the pixel shuffle, 4 patches side by side.
    """
    config = hf.Llama4Config(
        vision_config=_vision(
            "llama4_vision_model",
            intermediate_size=4 * VISION_WIDTH,
            projector_input_dim=40,
            projector_output_dim=40,
            vision_output_dim=40,
        ),
        text_config=_text("llama4_text", head_dim=12, num_local_experts=2, intermediate_size_mlp=32),
        boi_token_index=START,
        eoi_token_index=END,
        image_token_index=IMAGE,
    )
    return _model(config), hf.Llama4ImageProcessor(size=SQUARE, max_patches=4)


def blip_2() -> tuple[Any, Any]:
    """Its forward demands an image: ask language_model for the logits of text alone."""
    config = hf.Blip2Config(
        vision_config=_vision("blip_2_vision_model"),
        qformer_config=dict(VISION, hidden_size=16, vocab_size=64, encoder_hidden_size=VISION_WIDTH),
        text_config=_text("opt", ffn_dim=32, word_embed_proj_dim=WIDTH),
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=IMAGE,
    )
    return _model(config), hf.BlipImageProcessor(size=SQUARE)


def got_ocr2() -> tuple[Any, Any]:
    config = hf.GotOcr2Config(
        vision_config=_vision(
            "got_ocr2_vision", image_size=56, output_channels=16, window_size=4, global_attn_indexes=[2], mlp_dim=INNER
        ),
        text_config=_text("qwen2"),
        image_token_index=IMAGE,
        image_seq_length=4,
    )
    return _model(config), hf.GotOcr2ImageProcessor(size={"height": 56, "width": 56})


def lfm2_vl() -> tuple[Any, Any]:
    config = hf.Lfm2VlConfig(
        vision_config=dict(
            VISION, model_type="siglip2_vision_model", patch_size=PATCH, num_patches=16, vision_use_head=False
        ),
        text_config=_text("lfm2", block_auto_adjust_ff_dim=False),
        image_token_id=IMAGE,
        projector_hidden_size=32,
    )
    tokens = dict(min_image_tokens=2, max_image_tokens=6, max_pixels_tolerance=1.0)
    return _model(config), hf.Lfm2VlImageProcessor(encoder_patch_size=PATCH, tile_size=SIDE, max_tiles=4, **tokens)


SUPPORTED: tuple[str, ...] = tuple(
    "llava_clip llava_siglip llava_pixtral llava_next llava_onevision qwen2_vl qwen2_5_vl qwen3_vl idefics2 idefics3 "
    "smolvlm internvl gemma3 paligemma mistral3 mllama llama4 glm4v aya_vision blip_2".split()
)
OTHERS: tuple[str, ...] = ("got_ocr2", "lfm2_vl")
FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {name: globals()[name] for name in (*SUPPORTED, *OTHERS)}
