"""What DINOv2's tensors are called in the two vision towers of transformers that take them as they are."""

from __future__ import annotations

from benchmarks.photographs.tower import Tower
from torch import Tensor

# In the order in which they are replaced: longer parts first.
IN_DINOV2 = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
IN_INTERNVL = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.projection_layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "layer_scale1.lambda1": "lambda_1",
    "layer_scale2.lambda1": "lambda_2",
}
APART = ("positions", "position_of_class")


def renamed(tower: Tower, names: dict[str, str], positions: str, side: int) -> dict[str, Tensor]:
    """The tower's tensors under other ``names``, with ``positions`` for a square of ``side`` patches."""
    found = {positions: tower.positions(side)}
    for name, tensor in tower.tensors.items():
        if name not in APART:
            for old, new in names.items():
                name = name.replace(old, new)
            found[name] = tensor
    return found
