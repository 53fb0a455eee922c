"""What this process holds: given back to the system when it is free, and measured."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SMALL = 2**30  # bytes of a checkpoint whose peak is no trouble


def steady_memory(model: str | Path) -> None:
    """Large blocks go back to the system when they are freed (glibc; mallopt 3), unless ``model`` is a small folder.

    The peak of a request on LLaVA-1.5-7B's tower fell by 1 GiB with it. Fresh pages cost: a request on the embedded
    model takes 75 s of the processor with it and 41 without, since its blocks are larger than 1 MiB too.
    """
    libc, folder = _libc(), Path(model)
    if folder.is_dir() and sum(file.stat().st_size for file in folder.glob("*.safetensors")) < SMALL:
        return
    if hasattr(libc, "mallopt"):
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, 2**20)


def give_back() -> None:
    """What is free now goes back: else what one piece of work has left hides what the next one takes."""
    gc.collect()
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@contextmanager
def peak(device: str = "cpu") -> Iterator[Callable[[], int]]:
    """Bytes that are held at most, within, above what was held before; 0 where the system does not tell."""
    give_back()
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - held
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark becomes what is held now
    before = _status("VmRSS")
    yield lambda: max(0, _status("VmHWM") - before)


def peak_memory() -> int:
    """The most memory this process held, in bytes."""
    if resource is None:
        return int(psutil.Process().memory_info().peak_wset)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no Linux
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
