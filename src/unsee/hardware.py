"""What this machine computes with, before torch is there to be asked."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

TOLD = Path("/proc/cpuinfo")  # by Linux
GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))  # of NVIDIA's driver and of AMD's
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # as x86 and ARM call their units


def _values(key: str) -> list[str]:
    """What each processor says under ``key``; nothing where no Linux tells."""
    try:
        told = TOLD.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in told if line.partition(":")[0].strip() == key]


def processor() -> str:
    """Name of the first one."""
    return next(iter(_values("model name")), platform.processor() or platform.machine())


def intel() -> bool:
    return "GenuineIntel" in _values("vendor_id")


@cache
def has_bf16() -> bool:
    """Whether bfloat16 products are fast: on a GPU, or in a processor that has units for them.

    Without such units they are emulated, at a fifth to a half of float32's pace. True where nothing tells.
    """
    flags = _values("flags") or _values("Features")
    return any(gpu.exists() for gpu in GPUS) or not flags or not BF16.isdisjoint(flags[0].split())
