"""One run on several processes (torchrun): whole batches are dealt, sums are added up, all hold the same weights.

Without torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def asked() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together() -> Iterator[None]:
    """Within: the processes that torchrun started know one another."""
    if asked() == 1 or dist.is_initialized():
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    yield
    state.wait_for_everyone()  # one that leaves early would break those that still talk
    state.destroy_process_group()


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def mine(batch: int) -> bool:
    """Whether batch number ``batch`` is this process's to do."""
    return batch % count() == (dist.get_rank() if dist.is_initialized() else 0)


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if count() > 1:
        dist.all_reduce(tensor)
    return tensor


def everywhere(value: T) -> list[T]:
    """What each process gave, in their order."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def from_first(value: T) -> T:
    """What the first process gave."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def dealt(done: Sequence[T | None]) -> list[Any]:
    """Results of batches, each filled in by the process whose it was (``mine``), for all."""
    parts = everywhere([(i, r) for i, r in enumerate(done) if mine(i)])
    found = dict(pair for part in parts for pair in part)
    return [found[i] for i in range(len(done))]
