"""Tensors and what is said of them in one safetensors file: written whole, and read as a stranger's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unsee.errors import UnseeError
from unsee.files import new_file
from unsee.untrusted import parse_json, shown
from unsee.vision.headers import parsed, refuse_hollow

VERSION = 2  # of the files written by save_state
TENSORS = 10_000  # most of a file; the largest tower has a thousand layers
COUNT = 2**53  # most that is counted: a float holds it exactly
LARGEST = 1e12  # of what goes into a layer; ten million times what was ever seen, and its square is still a float32
ROWS = 1e12
ROUNDING = 1e-6  # of a matrix's largest entry: sums and differences of many requests are off by less


def save_state(path: str | Path, kind: str, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write tensors and JSON ``info`` as one safetensors file, complete or not at all; equal input, equal bytes.

    Nobody else may read it: features tell who was shown.
    """
    # One metadata key: safetensors keeps several in a hash map, whose order changes from run to run.
    header = json.dumps({"kind": kind, "version": VERSION, **info}, sort_keys=True)
    with new_file(path, private=True) as file:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, file, {"unsee": header})


def load_state(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and ``info`` of a file that ``save_state`` wrote. UnseeError: missing, truncated, foreign, too new."""
    path = Path(path)
    if not path.exists():
        raise UnseeError(f"there is no file {shown(path)}.")
    try:
        refuse_hollow(path)
        entries, metadata = parsed(path)
        header = parse_json(metadata.get("unsee", "{}"))
        if not isinstance(header, dict) or header.get("kind") != kind:
            raise ValueError("its header does not say so")
        if header.get("version") != VERSION:
            raise ValueError(f"it has version {str(header.get('version'))[:20]}, this unsee reads {VERSION}")
        if len(entries) > TENSORS:
            raise ValueError(f"it holds {len(entries)} tensors, and {TENSORS} is the most")
        return {name: entries[name].read() for name in sorted(entries)}, header
    except (OSError, ValueError) as error:
        raise foreign(path, kind, shown(error)[:200]) from error


def foreign(path: str | Path, kind: str, why: str) -> UnseeError:
    return UnseeError(
        f"{shown(path)} is not a whole file of {kind} written by unsee: {why}. It may be truncated or of another "
        f"program: restore it from a copy or record it again."
    )


def counted(value: Any) -> int:
    """A number of images, rows or concepts. TypeError, ValueError: it can be none."""
    if type(value) is not int or not 0 <= value <= COUNT:
        raise ValueError(f"the count {str(value)[:20]}")
    return value


def refuse_impossible(matrix: Tensor) -> None:
    """ValueError: no sum of x xᵀ is like that: not finite, not symmetric, or negative along some direction.

    Of the last what each two directions tell: that no direction is would take the eigenvalues, minutes for a tower.
    """
    if not torch.isfinite(matrix).all():
        raise ValueError("NaN or Inf")
    if matrix.numel() and float(matrix.abs().max()) > LARGEST**2 * ROWS:
        raise ValueError("second moments larger than any model's")
    power = matrix.diagonal()
    off = ROUNDING * float(matrix.abs().max()) if matrix.numel() else 0.0
    if power.numel() and float(power.min()) < -off:
        raise ValueError("a negative second moment")
    if float((matrix - matrix.T).abs().max() if matrix.numel() else 0.0) > off:
        raise ValueError("second moments that are not symmetric")
    root = power.clamp(min=0).sqrt()
    if matrix.numel() and float((matrix.abs() - root[:, None] * root).max()) > off:
        raise ValueError("second moments that no inputs have")
