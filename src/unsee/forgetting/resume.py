"""Interrupt a request at any moment and go on later, to the bit: weights, optimiser and history in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.forgetting.moments import load_state, save_state

FILE = "forgetting.safetensors"
EVERY = 10  # steps between two checkpoints
History = list[dict[str, float]]


def origin(config: Mapping[str, Any], tensors: Iterable[Tensor], names: Iterable[str]) -> str:
    """One hash of all that the result depends on: another one, another result."""
    digest = hashlib.sha256(json.dumps([dict(config), list(names)], sort_keys=True).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def save(
    folder: Path, layers: Mapping[str, nn.Linear], optimizer: torch.optim.Optimizer, history: History, origin: str
) -> None:
    """Replace the checkpoint in ``folder``; a reader sees the old one or the new one."""
    tensors = {f"weight.{name}": layer.weight for name, layer in layers.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / FILE, "forgetting", tensors, {"origin": origin, "history": history})


def restore(
    folder: Path, layers: Mapping[str, nn.Linear], optimizer: torch.optim.Optimizer, origin: str
) -> History:
    """Put layers and optimiser where the checkpoint left them; its history has a line for each step done.

    No checkpoint: an empty history. UnseeError: one of another request.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    tensors, info = load_state(file, "forgetting")
    if info["origin"] != origin:
        raise UnseeError(
            f"'{folder}' is left of an interrupted run with other settings, images or another model. "
            f"Give the same again to resume it, or remove it to start anew."
        )
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(tensors[f"weight.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, part = key.split(".", 2)
            state.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return info["history"]
