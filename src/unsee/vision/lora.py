"""A patch as a LoRA adapter that peft loads: the change of each layer as a product of two narrow matrices."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from unsee.errors import UnseeError
from unsee.files import new_folder
from unsee.vision.patch import Trust, open_both

ROUNDING = 1e-6  # singular values below this share of the largest are rounding


@dataclass(frozen=True)
class Kept:
    """``rank``: the largest of a layer. ``error``: share of the change that is lost (Frobenius); ``worst``: of one."""

    rank: int
    error: float
    worst: float


def write_lora(model: str | Path, patch: str | Path, out: str | Path, rank: int = 0, trust: bool = False) -> Kept:
    """Write adapter_config.json and adapter_model.safetensors. ``rank`` 0: as many directions as the change has.

    The best approximation of each layer's change (Eckart and Young 1936). ``trust``: run the code that the model brings
    along. UnseeError: another model, or a patch that changes what is not visual.
    """
    if rank < 0:
        raise UnseeError(f"--rank is {rank}; it must be 0 (exact) or more.")
    checkpoint, loaded = open_both(model, patch, Trust(code=trust))
    if odd := [n for n, t in loaded.tensors.items() if t.dim() != 2]:
        raise UnseeError(f"{odd[0]} is no matrix, so no LoRA adapter can hold its change. Use the patch: unsee apply.")
    known = [n for n in loaded.tensors if n in checkpoint.visual]
    before = {n: checkpoint.entry(n).read() for n in known}
    loaded.check(before)
    tensors, ranks, lost, whole = {}, {}, [], []
    for name, new in loaded.tensors.items():
        layer = checkpoint.visual[name].removesuffix(".weight")
        change = new.float() - before[name].float()
        a, b = _factors(change, rank)
        tensors[f"base_model.model.{layer}.lora_A.weight"], tensors[f"base_model.model.{layer}.lora_B.weight"] = a, b
        ranks[layer] = len(a)
        lost.append(float((change - b @ a).norm()))
        whole.append(float(change.norm()))
    most = max(ranks.values(), default=1)
    settings = {
        "peft_type": "LORA", "base_model_name_or_path": str(model), "r": most, "lora_alpha": most, "lora_dropout": 0.0,
        "bias": "none", "target_modules": list(ranks), "rank_pattern": ranks, "alpha_pattern": ranks,
        "inference_mode": True,
    }  # fmt: skip
    with new_folder(out) as folder:
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    total = sum(w**2 for w in whole) ** 0.5
    error = sum(x**2 for x in lost) ** 0.5 / total if total else 0.0
    return Kept(most, error, max((x / w for x, w in zip(lost, whole, strict=True) if w), default=0.0))


def _factors(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A [r, in] and B [out, r] with B A ≈ ``change`` [out, in]."""
    u, s, v = torch.linalg.svd(change.double(), full_matrices=False)
    kept = max(1, int((s > ROUNDING * s[0]).sum()))
    r = min(rank, kept) if rank else kept
    root = s[:r].sqrt()
    return (root[:, None] * v[:r]).float().contiguous(), (u[:, :r] * root).float().contiguous()
