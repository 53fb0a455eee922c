"""What the header of a safetensors file says: which tensors it has, and where their bytes lie. None is read."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unsee.errors import UnseeError
from unsee.untrusted import shown

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
HEADER_CAP = 32 * 2**20  # bytes; 250,000 tensors, and half a gigabyte once it is read
DIMENSIONS = 16  # most of a tensor
HOLLOW = 64 * 2**20  # bytes from which on a file may not be mostly holes
LARGEST = 2**62  # numbers in a header; larger ones, multiplied by the thousand, take for ever


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``start`` to ``end`` are bytes of ``file``."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self) -> Tensor:
        """The tensor, in its own memory and dtype."""
        data = bytearray(self.end - self.start)
        with self.file.open("rb") as file:
            file.seek(self.start)
            file.readinto(data)
        if not data:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(data, dtype=self.dtype).reshape(self.shape)


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a checkpoint's file. UnseeError: damaged, or not as long as it says."""
    try:
        return parsed(file)[0]
    except ValueError as error:
        raise UnseeError(
            f"the checkpoint file '{shown(file)}' is damaged: {error}. Remove it, and download it again."
        ) from error


def parsed(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. ValueError: why it cannot be read."""
    try:
        kept = file.stat()
        if not stat.S_ISREG(kept.st_mode):  # a pipe would be waited on for ever
            raise ValueError("it is not a regular file")
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= kept.st_size - 8:
                raise ValueError("its header is cut short")
            if length > HEADER_CAP:
                raise ValueError(f"its header is larger than {HEADER_CAP // 2**20} MiB, the most that is read")
            header = json.loads(opened.read(length), object_pairs_hook=_once)
        return _entries(file, header, 8 + length, kept.st_size), _metadata(header)
    except OSError as error:
        raise ValueError(f"{error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its header is no table of tensors") from error


def refuse_hollow(file: Path) -> None:
    """ValueError: most of a file that is read whole was never written, so that a few bytes would take all memory.

    A system that does not tell how much of a file there is says that there is nothing.
    """
    kept = os.stat(file)
    if kept.st_size > HOLLOW and 0 < 512 * kept.st_blocks < kept.st_size // 4:
        raise ValueError("most of it was never written")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    found = header.get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError("its metadata is no table of texts")
    return found


def _entries(file: Path, header: dict[str, Any], data: int, size: int) -> dict[str, Entry]:
    """As safetensors has it, tensors lie one after another from byte ``data`` to the file's end, ``size``."""
    found, at = {}, data
    tensors = {n: t for n, t in header.items() if n != "__metadata__"}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        offsets, shape, dtype = tensor["data_offsets"], tuple(tensor["shape"]), DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise ValueError(f"{_name(name)} has the dtype {_name(tensor['dtype'])}, which unsee does not know")
        numbers = (*offsets, *shape)
        possible = len(offsets) == 2 and len(shape) <= DIMENSIONS
        if not possible or not all(type(n) is int and 0 <= n < LARGEST for n in numbers):
            raise ValueError(f"{_name(name)} has no place or shape that can be")
        start, end = offsets
        if data + start != at:
            raise ValueError(f"{_name(name)} does not begin where the tensor before it ends")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{_name(name)} has {end - start} bytes, which its shape and dtype do not take")
        found[name], at = Entry(file, dtype, shape, data + start, data + end), data + end
    if at != size:
        raise ValueError(f"it has {size} bytes and should have {at}")
    return found


def _name(name: object) -> str:
    """Of a tensor, as a message has it: a stranger's can be a million letters long."""
    text = shown(name)
    return text if len(text) <= 200 else f"{text[:200]}…"
