"""A patch: the tensors that forgetting changed, and nothing else, with what they were made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unsee.errors import UnseeError
from unsee.files import new_file, new_folder
from unsee.vision.module import load_full

VERSION = 1
FILE = "patch.safetensors"


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values as float32: the same for every dtype the values are exact in."""
    data = tensor.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """One hash for a set of named tensors, whatever their order."""
    lines = "\n".join(f"{name} {tuple(t.shape)} {tensor_hash(t)}" for name, t in sorted(tensors.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class Patch:
    """``tensors``: new values by parameter name. ``base``: hash of each before. ``info``: method, settings, figures."""

    tensors: dict[str, Tensor]
    base: dict[str, str]
    info: dict[str, Any]

    def save(self, folder: Path | str) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        header = {"version": VERSION, "base": self.base, "info": self.info}
        with new_file(folder / FILE) as file:
            save_file(
                {k: v.contiguous() for k, v in self.tensors.items()}, file, metadata={"unsee": json.dumps(header)}
            )

    @classmethod
    def load(cls, folder: Path | str) -> Patch:
        path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
        if not path.is_file():
            raise UnseeError(f"'{folder}' holds no patch. Give the folder patch/ that unsee forget wrote.")
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})["unsee"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (safe_open is no dict)
                return cls(tensors, header["base"], header["info"])
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise UnseeError(f"'{path}' is not a patch of unsee, or is damaged ({error}). Make it again.") from error

    def apply(self, model: Any) -> None:
        """Write the tensors into ``model``. UnseeError, and nothing is changed: another model than it was made from."""
        parameters = dict(model.named_parameters())
        wrong = [n for n in self.tensors if n not in parameters or tensor_hash(parameters[n]) != self.base[n]]
        if wrong:
            raise UnseeError(
                f"the patch was made from another model: {len(wrong)} of {len(self.tensors)} tensors are not as they "
                f"were before it (first: {wrong[0]}). Apply it to the checkpoint it was made from."
            )
        with torch.no_grad():
            for name, value in self.tensors.items():
                parameters[name].copy_(value)


def apply_patch(model: str | Path, patch: str | Path, out: str | Path) -> None:
    """Write the checkpoint ``model`` with ``patch`` in it to the new folder ``out``, in the checkpoint's own dtype."""
    loaded = Patch.load(patch)
    with new_folder(out) as folder:
        whole, processor = load_full(model, dtype="auto")
        loaded.apply(whole)
        whole.save_pretrained(folder)
        processor.save_pretrained(folder)
