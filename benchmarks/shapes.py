"""Checkpoints of true size in the hub's layout, without a download: real names, shapes, dtypes and shards.

    python benchmarks/shapes.py llava-1.5-7b --out DIR
    python benchmarks/shapes.py llava-1.5-7b --language-scale 11.1 --out DIR

Visual weights are random and written. The language model's are holes in sparse files: they read as zeros and take no
disk, so a checkpoint of 145 GB fits anywhere. ``--language-scale`` gives the same visual module more language layers.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from unsee.files import new_folder, write_json

INDEX = "model.safetensors.index.json"
CODES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
OLD_LLAVA = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
OLD_QWEN = {"model.visual.": "visual.", "model.language_model.": "model."}


@dataclass(frozen=True)
class Shape:
    """A checkpoint on the hub: its config.json and preprocessor_config.json, and how its tensors are laid out."""

    config: dict[str, Any]
    images: dict[str, Any]
    names: dict[str, str]  # prefix of today's module → prefix on disk
    shard: int  # most bytes of one file


def llava(text: dict[str, Any], vision: dict[str, Any], shard: int) -> Shape:
    size, dtype = vision["image_size"], {"torch_dtype": "float16"}
    text = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, **text, **dtype}
    vision = {"model_type": "clip_vision_model", "projection_dim": 768, "patch_size": 14, **vision}
    config = {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "ignore_index": -100,
        "image_token_index": text["vocab_size"] - 64, "pad_token_id": text["vocab_size"] - 63,
        "projector_hidden_act": "gelu", "tie_word_embeddings": False, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "text_config": text, "vision_config": vision, **dtype,
    }  # fmt: skip
    images = {
        "image_processor_type": "CLIPImageProcessor", "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
        "do_rescale": True, "do_resize": True, "resample": 3, "rescale_factor": 1 / 255, **CLIP,
    }  # fmt: skip
    return Shape(config, images, OLD_LLAVA, shard)


def qwen2_vl(width: int, inner: int, layers: int, heads: int, keys: int) -> Shape:
    """Text settings lie at the top of config.json, as they do on the hub."""
    vision = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": width}
    vision |= {"patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2}
    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "hidden_act": "silu",
        "bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
        "vision_token_id": 151654, "image_token_id": 151655, "video_token_id": 151656, "vocab_size": 152064,
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "max_position_embeddings": 32768, "max_window_layers": layers,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32768, "use_sliding_window": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "vision_config": vision,
    }  # fmt: skip
    images = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056, **CLIP}
    images |= {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    return Shape(config, images, OLD_QWEN, 4_000_000_000)


def stack(width: int, inner: int, layers: int, heads: int, **more: int) -> dict[str, Any]:
    """Settings of a transformer."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads, **more}


SHAPES = {
    "llava-1.5-7b": llava(
        stack(4096, 11008, 32, 32, vocab_size=32064), stack(1024, 4096, 24, 16, image_size=336), 5_000_000_000
    ),
    "qwen2-vl-7b": qwen2_vl(3584, 18944, 28, 28, 4),
    "qwen2-vl-72b": qwen2_vl(8192, 29568, 80, 64, 8),
    "tiny-llava": llava(stack(128, 256, 2, 4, vocab_size=4064), stack(64, 256, 5, 4, image_size=56), 2_000_000),
}


def make(shape: str, out: Path, language_scale: float = 1.0, dtype: torch.dtype | None = None) -> Path:
    """Write the checkpoint ``shape`` to the new folder ``out``. ``dtype``: of its tensors; None: the real one."""
    wanted = SHAPES[shape]
    config = scaled(wanted.config, language_scale, dtype)
    with new_folder(out) as folder:
        write_json(folder / "config.json", config)
        ends = {k: config.get(k, default) for k, default in (("bos_token_id", 1), ("eos_token_id", 2))}
        write_json(folder / "generation_config.json", ends)
        write_json(folder / "preprocessor_config.json", wanted.images)
        write_tensors(folder, skeleton(folder), wanted, getattr(torch, config["torch_dtype"]))
    return out


def scaled(config: dict[str, Any], scale: float, dtype: torch.dtype | None) -> dict[str, Any]:
    config = copy.deepcopy(config)
    text = config.get("text_config", config)
    text["num_hidden_layers"] = round(scale * text["num_hidden_layers"])
    if dtype:
        text["torch_dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")
    return config


def skeleton(folder: Path) -> Any:
    """The model that ``folder``'s config.json describes, without memory for its weights."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)


def visual_parameters(model: Any) -> dict[str, Tensor]:
    """Everything outside the language model, by its name in the model."""
    parts = (model.get_decoder(), model.get_output_embeddings())
    language = {id(p) for part in parts for p in part.parameters()}
    return {n: p for n, p in model.named_parameters() if id(p) not in language}


def write_tensors(folder: Path, model: Any, shape: Shape, dtype: torch.dtype) -> None:
    sizes = {on_disk(n, shape.names): tuple(p.shape) for n, p in model.named_parameters()}
    written = {on_disk(n, shape.names) for n in visual_parameters(model)}
    parts, weight_map = shards({n: math.prod(s) * dtype.itemsize for n, s in sizes.items()}, shape.shard), {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_shard(folder / file, {n: sizes[n] for n in sorted(part)}, dtype, written)
        weight_map |= dict.fromkeys(part, file)
    total = sum(map(math.prod, sizes.values())) * dtype.itemsize
    ordered = dict(sorted(weight_map.items()))
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": ordered})


def on_disk(name: str, prefixes: dict[str, str]) -> str:
    old = next((p for p in prefixes if name.startswith(p)), "")
    return prefixes.get(old, "") + name.removeprefix(old)


def shards(sizes: dict[str, int], most: int) -> list[list[str]]:
    """Tensors in the order of the modules, each file filled as far as it goes: the visual module comes first."""
    parts: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if size > room or not parts:
            parts.append([])
            room = most
        parts[-1].append(name)
        room -= size
    return parts


def write_shard(path: Path, sizes: dict[str, tuple[int, ...]], dtype: torch.dtype, written: set[str]) -> None:
    """One safetensors file, in the order of ``sizes``; what is not in ``written`` stays a hole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        start, end = end, end + math.prod(size) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(size), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
        for name in (n for n in sizes if n in written):
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(values(name, sizes[name]).to(dtype).flatten().view(torch.uint8).numpy().data)


def values(name: str, size: tuple[int, ...]) -> Tensor:
    """Random weights that keep activations of moderate size; a tensor's name is its seed."""
    noise = torch.randn(size, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(size) > 1:
        return noise * math.prod(size[1:]) ** -0.5
    return 0.05 * noise + (1.0 if name.endswith(".weight") else 0.0)  # weights of a norm, biases


def weight_files(folder: Path) -> tuple[int, int]:
    """Bytes of the safetensors files of ``folder``: as they look, and on disk."""
    found = [f.stat() for f in folder.glob("*.safetensors")]
    return sum(s.st_size for s in found), sum(512 * s.st_blocks for s in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--language-scale", type=float, default=1.0)
    args = parser.parse_args()
    look, disk = weight_files(make(args.shape, args.out, args.language_scale))
    print(f"{args.out}: {look / 1e9:.2f} GB of weights, {disk / 1e9:.2f} GB on disk")


if __name__ == "__main__":
    main()
