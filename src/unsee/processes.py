"""One run on several processes (torchrun): whole batches are dealt, sums are added up, all hold the same weights.

Without torchrun there is one process, and nothing here does anything. torch is imported where several meet, so that
``unsee --help`` stays quick.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from unsee.errors import UnseeError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
INTERRUPTED = 130  # exit code after Ctrl-C
PATIENCE = 10.0  # seconds, with a process that does not come to the end that another has come to
_launcher = 0  # process id of torchrun
_store: Any = None  # of the launcher: where processes leave word for one another when no collective is sure to work


def asked() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def meet() -> None:
    """The processes that torchrun started get to know one another; each ends in ``leave``.

    Results are the same in all of them: what others than the first print to standard output goes nowhere.
    """
    global _store, _launcher
    if asked() == 1 or _group():
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0
    _store, number, size = next(rendezvous("env://"))
    if number:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (open as long as this process runs)
    # Objects and matrices go through memory; gradients stay on the GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore("group", _store), rank=number, world_size=size)


def leave(code: int) -> None:
    """Where there are several processes: end this one, when all have come to the end.

    Not by Python's own end: it takes gloo down while gloo's threads still run, which aborted one run in twelve.
    """
    if _store is None:
        return
    import torch.distributed as dist

    # Interrupted: a process that waits for this one in a collective hears of it only when this one ends.
    if code != INTERRUPTED and not _orphaned():
        with suppress(dist.DistError):  # without torchrun the store is the first process's, and may end with it
            _store.set(f"end {rank()}", "")
        _heard(range(count()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def speaks() -> bool:
    """Whether this process is to say what went wrong: the first, or one that fails while the first goes on."""
    return first() or (_store is not None and not _orphaned() and not _heard([0]))


def _orphaned() -> bool:
    """torchrun was killed, and the store is gone with it."""
    return _launcher > 0 and os.getppid() != _launcher


def _heard(numbers: Iterable[int]) -> bool:
    """Wait for these processes to come to their end; False: one does not."""
    import torch.distributed as dist

    words, last = [f"end {n}" for n in numbers], time.monotonic() + PATIENCE
    try:
        while not (all_there := _store.check(words)) and time.monotonic() < last:
            time.sleep(0.02)  # and not in the store, where Ctrl-C would go unheard
    except dist.DistError:
        return False
    return bool(all_there)


def _group() -> Any:
    """torch.distributed where processes have met, also those of a program that calls unsee."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_available() and dist.is_initialized() else None


def count() -> int:
    dist = _group()
    return dist.get_world_size() if dist else 1


def rank() -> int:
    """Which of them this process is."""
    dist = _group()
    if dist:
        return dist.get_rank()
    return int(os.environ["RANK"]) if asked() > 1 else 0


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def mine(batch: int) -> bool:
    """Whether batch number ``batch`` is this process's to do."""
    return batch % count() == rank()


def turns(pieces: Iterable[T]) -> Iterator[list[T]]:
    """Pieces of work, as many at a time as there are processes: one for each, if there are enough (``own``)."""
    rest = iter(pieces)
    while some := list(islice(rest, count())):
        yield some


def own(some: Sequence[T]) -> Sequence[T]:
    """This process's piece of a turn, or none."""
    return some[rank() : rank() + 1]


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place, where the tensor is: NCCL adds up on GPUs, gloo in memory."""
    dist = _group()
    if dist and count() > 1:
        with _in_touch():
            dist.all_reduce(tensor)
    return tensor


def everywhere(value: T) -> list[T]:
    """What each process gave, in their order. A tensor that was on a GPU arrives on this process's own."""
    dist = _group()
    if not dist or count() == 1:
        return [value]
    import torch

    packed = io.BytesIO()
    torch.save(value, packed)  # unlike pickle: what views share goes once
    found: list[Any] = [None] * count()
    with _in_touch():
        dist.all_gather_object(found, packed.getvalue())
    return [value if n == rank() else _unpacked(data) for n, data in enumerate(found)]


@contextmanager
def _in_touch() -> Iterator[None]:
    if (
        _orphaned()
    ):  # nothing else would end this process, and the same command again would write to the same checkpoint
        raise UnseeError("torchrun, which started this process, has ended, so this process ends too.")
    try:
        yield
    except RuntimeError as error:  # gloo has no narrower one
        why = f"{error}".partition("\n")[0]
        raise UnseeError(
            f"lost touch with another process of this run, which may have said why it ended: {why}"
        ) from error


def _unpacked(data: bytes) -> Any:
    import torch

    def here(storage: Any, where: str) -> Any:
        return storage.cuda() if where.startswith("cuda") else storage

    return torch.load(io.BytesIO(data), map_location=here, weights_only=False)  # from our own processes


def from_first(value: T) -> T:
    """What the first process gave."""
    return everywhere(value)[0]


@contextmanager
def alike() -> Iterator[None]:
    """What goes wrong within in one process is raised in all, at the end, where they wait for one another.

    Otherwise those where all is well would wait for ever. Within, no process may wait for others.
    """
    wrong: UnseeError | None = None
    try:
        yield
    except UnseeError as error:
        wrong = error
    told = [lines for lines in everywhere(wrong.args if wrong else None) if lines is not None]
    if wrong:
        raise wrong
    if told:
        raise UnseeError(*told[0])
