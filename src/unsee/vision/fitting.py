"""Whether what a stranger gave as a patch may be one, and may go into a model: told from headers before any work."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unsee.errors import UnseeError
from unsee.untrusted import parse_json, shown
from unsee.vision.checkpoint import language_parts
from unsee.vision.headers import Entry, parsed, refuse_hollow

HASH, COMMIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
PARTS = {"version", "id", "base", "info"}
ALTERED = "its tensors are not those it was made with"


@dataclass(frozen=True)
class Header:
    """What a patch says of itself: ``id``, hashes of the tensors before (``base``), how it was made (``info``)."""

    entries: dict[str, Entry]
    version: int
    id: str
    base: dict[str, str]
    info: dict[str, Any]


def read_head(file: Path, versions: Sequence[int]) -> Header:
    """ValueError: it is not what ``Patch.save`` writes."""
    refuse_hollow(file)
    entries, metadata = parsed(file)
    said = parse_json(metadata.get("unsee", "{}"))
    if metadata.keys() != {"unsee"} or not isinstance(said, dict) or said.keys() != PARTS:
        raise ValueError("its header does not say what it is")
    version, base, info = said["version"], said["base"], said["info"]
    if type(version) is not int or version not in versions:
        raise ValueError(f"version {str(version)[:20]}, this unsee reads {' and '.join(map(str, versions))}")
    if not isinstance(base, dict) or base.keys() != entries.keys() or not isinstance(said["id"], str):
        raise ValueError(ALTERED)
    if not all(isinstance(h, str) and HASH.fullmatch(h) for h in base.values()):
        raise ValueError("its header holds no hashes of what was before")
    _refuse_info(info)
    return Header(entries, version, said["id"], base, info)


def _refuse_info(info: Any) -> None:
    """ValueError: a part of it that is read later is of another type."""
    if not isinstance(info, dict) or not all(isinstance(info.get(k, ""), str) for k in ("undoes", "model", "method")):
        raise ValueError("its header does not say how it was made")
    for key in ("forgotten", "turns"):
        if not isinstance(info.get(key, []), list) or not all(isinstance(i, str) for i in info.get(key, [])):
            raise ValueError(f"its header does not list what it has {key}")
    commit = info.get("revision")
    if commit and not (isinstance(commit, str) and COMMIT.fullmatch(commit)):  # a branch may be anybody's proposal
        raise ValueError("its header names no commit that it was made from")


def other_model(wrong: Sequence[str], every: int) -> UnseeError:
    """For a patch of ``every`` tensors, of which the model has none like those ``wrong``."""
    return UnseeError(
        f"the patch was made from another model: {len(wrong)} of {every} tensors are not as they were before it "
        f"(first: {_name(wrong[0])}). Apply it to the checkpoint it was made from."
    )


def refuse_endless(tensors: Mapping[str, Tensor]) -> None:
    """UnseeError: NaN or Inf."""
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # eight bits do not know what is finite
        if not torch.isfinite(wide).all():
            raise UnseeError(
                f"the patch holds NaN or Inf, first in {_name(name)}, and a model with it would answer nothing. "
                f"Make it again."
            )


def language_names(model: Any) -> set[str]:
    """Names of the tensors of its language model."""
    inner = {id(t) for part in language_parts(model) for t in [*part.parameters(), *part.buffers()]}
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name for name, tensor in every if id(tensor) in inner}


def refuse_misfit(
    given: Mapping[str, Any], base: Mapping[str, Any], visual: Container[str] | None, typed: bool = True
) -> None:
    """UnseeError: ``given`` may not take the place of what ``base`` has: tensors or entries, by name on disk.

    ``visual``: names that may change; None: all. ``typed``: dtypes are as on disk. Of names that ``base`` lacks nothing
    is said: it is another model.
    """
    if not given:
        raise UnseeError("the patch holds no tensor, so it changes nothing. Give the folder patch/ of a run.")
    known = [n for n in sorted(given) if n in base]
    if other := [n for n in known if visual is not None and n not in visual]:
        raise UnseeError(
            f"the patch changes {len(other)} tensor(s) that are not visual, first {_name(other[0])}. No patch of unsee "
            f"forget does. If you know who made it and why, give --allow-language-tensors (in Python: allow_language)."
        )
    for name in known:
        mine, there = (_kind(tensors[name], typed) for tensors in (given, base))
        if mine != there:
            raise UnseeError(
                f"{_name(name)} is {mine} in the patch and {there} in the model, and a patch has dtype and shape of "
                f"what it was made from. Apply it to that, or make it again."
            )


def _kind(tensor: Tensor | Entry, typed: bool) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not typed and tensor.dtype.is_floating_point:  # as it was loaded
        dtype = "floating point"
    return f"{dtype} {list(tensor.shape)}"


def _name(name: str) -> str:
    return shown(name)[:200]
