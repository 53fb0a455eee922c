"""What this process holds goes back to the system when it is free, so that what is measured is what is needed."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any


def steady_memory() -> None:
    """Large blocks go back to the system when they are freed (glibc; mallopt 3).

    The peak of a request on LLaVA-1.5-7B's tower fell by 1 GiB with it. 1 MiB: a small tower has few blocks so large.
    """
    libc = _libc()
    if hasattr(libc, "mallopt"):
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, 2**20)


def give_back() -> None:
    """What is free now goes back: else what one piece of work has left hides what the next one takes."""
    gc.collect()
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
