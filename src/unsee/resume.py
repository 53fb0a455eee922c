"""Interrupt a training at any moment and go on later, to the bit: weights, optimiser and history in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unsee.errors import UnseeError
from unsee.forgetting.stored import load_state, save_state

FILE = "training.safetensors"
EVERY = 10  # steps of forgetting between two checkpoints; there are a few hundred
History = list[dict[str, float]]


def origin(config: Mapping[str, Any], tensors: Iterable[Tensor], names: Iterable[str]) -> str:
    """One hash of all that the result depends on: another one, another result."""
    digest = hashlib.sha256(json.dumps([dict(config), list(names)], sort_keys=True).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(folder: Path, weights: Mapping[str, Tensor], optimizer: Any, origin: str, step: int, history: History) -> None:
    """Replace the checkpoint in ``folder``; a reader sees the old one or the new one."""
    tensors = {f"weight.{name}": weight for name, weight in weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    lines = [list(line.items()) for line in history]  # a file's header is sorted by key, but a run's figures are not
    save_state(folder / FILE, "training", tensors, {"origin": origin, "step": step, "history": lines})


def restore(folder: Path, weights: Mapping[str, Tensor], optimizer: Any, origin: str) -> tuple[int, History]:
    """Put ``weights`` and optimiser where the checkpoint left them; returns the steps done and the history so far.

    No checkpoint: nothing is done, ``(0, [])``. UnseeError: one of another run.
    """
    file = folder / FILE
    if not file.is_file():
        return 0, []
    tensors, info = load_state(file, "training")
    if info["origin"] != origin:
        raise UnseeError(
            f"'{folder}' is left of an interrupted run with other settings, images or another model. "
            f"Give the same again to resume it, or remove it to start anew."
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"weight.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, part = key.split(".", 2)
            state.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return info["step"], [dict(line) for line in info["history"]]
