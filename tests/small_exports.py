"""Small random files in the layouts of those with pretrained weights: a tower (ONNX), a language model (GGUF)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gguf import GGUFWriter, TokenType
from onnx import TensorProto, helper, numpy_helper

WIDTH, DEPTH, INNER, PATCH = 64, 2, 256, 14  # one head of 64
SIDE, OLD = 56, 6  # pixels of a picture's side; patches of a side of the square whose positions are stored


class Export:
    """An ONNX graph as torch wrote the real one: named vectors, nameless matrices, nodes named after their modules."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, *shape: int, loud: float = 0.1, around: float = 0.0) -> str:
        value = (around + loud * self.rng.standard_normal(shape)).astype(np.float32)
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def shape(self, *numbers: int) -> str:
        name = f"shape_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(numbers, dtype=np.int64), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        out = f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=name, **attributes))
        return out

    def norm(self, name: str, x: str) -> str:
        dotted = f"backbone.{name.replace('/', '.')}"
        scale = self.constant(f"{dotted}.weight", WIDTH, around=1.0)
        bias = self.constant(f"{dotted}.bias", WIDTH)
        return self.node("LayerNormalization", f"/backbone/{name}/Add_1", x, scale, bias, axis=-1, epsilon=1e-6)

    def linear(self, name: str, x: str, inputs: int, outputs: int) -> str:
        matrix = self.constant(f"onnx::MatMul_{len(self.constants)}", inputs, outputs)
        bias = self.constant(f"backbone.{name.replace('/', '.')}.bias", outputs)
        return self.node(
            "Add", f"/backbone/{name}/Add", bias, self.node("MatMul", f"/backbone/{name}/MatMul", x, matrix)
        )

    def embeddings(self) -> str:
        at = "backbone.embeddings."
        kernel = self.constant(f"{at}patch_embeddings.projection.weight", WIDTH, 3, PATCH, PATCH, loud=0.03)
        bias = self.constant(f"{at}patch_embeddings.projection.bias", WIDTH)
        place = "/backbone/embeddings/"
        patches = self.node(
            "Conv", f"{place}Conv", "input_image", kernel, bias, strides=[PATCH, PATCH], kernel_shape=[PATCH, PATCH]
        )
        rows = self.node("Reshape", f"{place}Reshape", patches, self.shape(0, WIDTH, -1))
        rows = self.node("Transpose", f"{place}Transpose", rows, perm=[0, 2, 1])
        count = self.node("Shape", f"{place}Shape", rows, start=0, end=1)
        shape = self.node("Concat", f"{place}Concat", count, self.shape(1, WIDTH), axis=0)
        first = self.node("Expand", f"{place}Expand", self.constant(f"{at}cls_token", 1, 1, WIDTH), shape)
        tokens = self.node("Concat", f"{place}Concat_1", first, rows, axis=1)
        return self.node("Add", f"{place}Add", tokens, self._positions(place))

    def _positions(self, place: str) -> str:
        stored = self.constant("onnx::Reshape_1962", 1, OLD * OLD, WIDTH)
        square = self.node("Reshape", f"{place}Reshape_1", stored, self.shape(1, OLD, OLD, WIDTH))
        square = self.node("Transpose", f"{place}Transpose_1", square, perm=[0, 3, 1, 2])
        sizes = self.shape(1, WIDTH, SIDE // PATCH, SIDE // PATCH)
        square = self.node("Resize", f"{place}Resize", square, "", "", sizes, mode="cubic", cubic_coeff_a=-0.75)
        rows = self.node("Reshape", f"{place}Reshape_2", square, self.shape(1, WIDTH, -1))
        rows = self.node("Transpose", f"{place}Transpose_2", rows, perm=[0, 2, 1])
        return self.node("Concat", f"{place}Concat_6", self.constant("onnx::Concat_1957", 1, 1, WIDTH), rows, axis=1)

    def block(self, x: str, number: int) -> str:
        at = f"encoder/layer.{number}/"
        inside = f"{at}attention/attention/"
        normed = self.norm(f"{at}norm1", x)
        query, key, value = (self.linear(f"{inside}{n}", normed, WIDTH, WIDTH) for n in ("query", "key", "value"))
        scores = self.node("MatMul", f"/backbone/{inside}MatMul", query, self._turned(key))
        scale = self.constant(f"scale_{number}", loud=0.0, around=WIDTH**-0.5)
        scores = self.node(
            "Softmax", f"/backbone/{inside}Softmax", self.node("Mul", f"{at}Mul", scores, scale), axis=-1
        )
        read = self.node("MatMul", f"/backbone/{inside}MatMul_1", scores, value)
        x = self._scaled(f"{at}layer_scale1", x, self.linear(f"{at}attention/output/dense", read, WIDTH, WIDTH))
        inner = self.linear(f"{at}mlp/fc1", self.norm(f"{at}norm2", x), WIDTH, INNER)
        return self._scaled(f"{at}layer_scale2", x, self.linear(f"{at}mlp/fc2", self._gelu(at, inner), INNER, WIDTH))

    def _turned(self, x: str) -> str:
        return self.node("Transpose", f"{x}_turned", x, perm=[0, 2, 1])

    def _gelu(self, at: str, x: str) -> str:
        root = self.constant(f"{at}root", loud=0.0, around=2**0.5)
        one, half = (self.constant(f"{at}{v}", loud=0.0, around=v) for v in (1.0, 0.5))
        erf = self.node("Erf", f"{at}Erf", self.node("Div", f"{at}Div", x, root))
        twice = self.node("Mul", f"{at}Mul_1", x, self.node("Add", f"{at}Add_2", erf, one))
        return self.node("Mul", f"{at}Mul_2", twice, half)

    def _scaled(self, name: str, x: str, change: str) -> str:
        scale = self.constant(f"backbone.{name.replace('/', '.')}.lambda1", WIDTH)
        return self.node("Add", f"{name}/Add", x, self.node("Mul", f"{name}/Mul", change, scale))


def write_tower(path: Path) -> Path:
    """A tower of two blocks, and a head of a saliency network that nothing asks for."""
    export = Export()
    x = export.embeddings()
    for number in range(DEPTH):
        x = export.block(x, number)
    x = export.norm("layernorm", x)
    head = export.constant("decoder.final.weight", WIDTH, 1)
    export.nodes.append(helper.make_node("MatMul", [x, head], ["output_importance"], name="/decoder/MatMul"))
    given = helper.make_tensor_value_info("input_image", TensorProto.FLOAT, ["batch_size", 3, SIDE, SIDE])
    told = helper.make_tensor_value_info("output_importance", TensorProto.FLOAT, None)
    graph = helper.make_graph(export.nodes, "saliency", [given], [told], export.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def letters() -> list[str]:
    """How a byte-level tokenizer writes the 256 bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    odd = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(odd))]


def write_language(path: Path, width: int = 32, depth: int = 2, inner: int = 48) -> Path:
    """A Llama whose embedding is its head, and a tokenizer of single bytes, three pairs and nine words."""
    rng, heads, shared = np.random.default_rng(1), 4, 2
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pairs = ("th", "in", "an")
    merges = [" ".join(p) for p in pairs] + [f"Ġ {p}" for p in pairs] + [f"Ġ{p} {q}" for p in pairs for q in pairs]
    tokens = [*special, *letters(), *(merge.replace(" ", "") for merge in merges)]
    writer = GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(depth)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    some = width // heads * shared
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for i in range(depth):
        shapes |= {f"blk.{i}.attn_norm": (width,), f"blk.{i}.ffn_norm": (width,)}
        shapes |= {f"blk.{i}.attn_{n}": (rows, width) for n, rows in (("q", width), ("k", some), ("v", some))}
        shapes |= {f"blk.{i}.attn_output": (width, width), f"blk.{i}.ffn_down": (width, inner)}
        shapes |= {f"blk.{i}.ffn_gate": (inner, width), f"blk.{i}.ffn_up": (inner, width)}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) * 0.3 + (len(shape) == 1)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
