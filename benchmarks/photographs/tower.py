"""DINOv2-small out of the ONNX file of a saliency network whose backbone it is.

The export keeps the names of norms, biases, layer scales and embeddings. A matrix is a constant without a name of its
own; the MatMul node that reads it tells which one it is. The positions of the class token and of the patches are two
constants that meet the other embeddings in two nodes known by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from unsee.errors import UnseeError

BACKBONE = "backbone."
MATRICES = (
    *("attention/attention/query", "attention/attention/key", "attention/attention/value"),
    *("attention/output/dense", "mlp/fc1", "mlp/fc2"),
)
POSITION_OF_CLASS, POSITIONS_OF_PATCHES = "/backbone/embeddings/Concat_6", "/backbone/embeddings/Reshape_1"
FEATURES = "/backbone/layernorm/Add_1_output_0"  # what the backbone gives: [pictures, 1 + patches, width]
INPUT = "input_image"
MOST = 1e-4  # by which a feature may differ between the file and the converted tower


@dataclass(frozen=True)
class Tower:
    """``tensors``: by DINOv2's own names, as ``encoder.layer.0.mlp.fc1.weight``, in the orientation of torch."""

    tensors: Mapping[str, Tensor]

    @property
    def width(self) -> int:
        return self.tensors["embeddings.cls_token"].shape[-1]

    @property
    def depth(self) -> int:
        return len([name for name in self.tensors if name.endswith("norm1.weight")])

    @property
    def inner(self) -> int:
        return len(self.tensors["encoder.layer.0.mlp.fc1.bias"])

    @property
    def patch(self) -> int:
        return self.tensors["embeddings.patch_embeddings.projection.weight"].shape[-1]

    def positions(self, side: int) -> Tensor:
        """[1, 1 + side², width]: those of the class token, and of a square of patches, resampled as DINOv2 does."""
        patches = self.tensors["positions"]
        old = round(patches.shape[1] ** 0.5)
        square = patches.unflatten(1, (old, old)).permute(0, 3, 1, 2)
        resampled = nn.functional.interpolate(square, (side, side), mode="bicubic", align_corners=False)
        return torch.cat([self.tensors["position_of_class"], resampled.flatten(2).transpose(1, 2)], dim=1)


def read_tower(path: Path) -> Tower:
    """The backbone's tensors. UnseeError: the file is not of this layout."""
    graph = onnx.load(path).graph
    constants = {c.name: c for c in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    found = {n.removeprefix(BACKBONE): _tensor(c) for n, c in constants.items() if n.startswith(BACKBONE)}
    depth = len([name for name in found if name.endswith("norm1.weight")])
    for name in (f"encoder/layer.{i}/{matrix}" for i in range(depth) for matrix in MATRICES):
        constant = _constant(nodes, constants, f"/backbone/{name}/MatMul", path)
        found[f"{name.replace('/', '.')}.weight"] = constant.T.contiguous()
    found["position_of_class"] = _constant(nodes, constants, POSITION_OF_CLASS, path)
    found["positions"] = _constant(nodes, constants, POSITIONS_OF_PATCHES, path)
    return Tower(found)


def _constant(nodes: Mapping[str, Any], constants: Mapping[str, Any], name: str, path: Path) -> Tensor:
    """The first constant that enters a node."""
    inputs = nodes[name].input if name in nodes else []
    entered = [constants[i] for i in inputs if i in constants]
    if not entered:
        raise UnseeError(f"'{path}' is no export of DINOv2 as it is known here: no constant enters a node {name}.")
    return _tensor(entered[0])


def _tensor(constant: Any) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(constant).copy())


def side_of(path: Path) -> int:
    """Of the pictures that the file takes, in pixels."""
    (given,) = (i for i in onnx.load(path, load_external_data=False).graph.input if i.name == INPUT)
    return int(given.type.tensor_type.shape.dim[-1].dim_value)


def features_of_file(path: Path, pixels: Tensor) -> Tensor:
    """What the backbone in the file itself makes of ``pixels`` [n, 3, side, side], run by ONNX Runtime."""
    import onnxruntime

    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run([FEATURES], {INPUT: pixels.numpy().astype(np.float32)})
    return torch.from_numpy(found)


@torch.no_grad()
def difference(path: Path, tower: nn.Module, pixels: Tensor) -> float:
    """The largest by which a feature of ``pixels`` differs between the file and ``tower``, a module of transformers."""
    ours = tower(pixel_values=pixels).last_hidden_state
    return float((ours - features_of_file(path, pixels)).abs().max())
