"""Ctrl-C: the first ends the work, the second is told what goes on meanwhile, the third ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unsee import processes

HOLD_ON = (
    b"\nstopping already, and removing what is half written. Once more ends at once; the next command that writes "
    b"there then removes it.\n"
)


@contextmanager
def heard_once() -> Iterator[None]:
    """Within: Ctrl-C is as above. It stays so, but for the error, while Python ends, which takes a moment."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, _first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _first:
            signal.signal(signal.SIGINT, before)
        elif signal.getsignal(signal.SIGINT) is _second:
            end()


def interrupted() -> bool:
    """Whether Ctrl-C was heard, whatever a library has made of it."""
    return signal.getsignal(signal.SIGINT) in (_second, _over)


def end() -> None:
    """The work has ended: from here on Ctrl-C raises nothing, neither in what is left to do nor in a destructor."""
    signal.signal(signal.SIGINT, _over)


def _first(*_: object) -> None:
    signal.signal(signal.SIGINT, _second)
    raise KeyboardInterrupt


def _second(*_: object) -> None:
    if not _ending():
        raise KeyboardInterrupt  # the first came to a destructor or a callback, which swallow it
    _over()
    if processes.first():
        os.write(2, HOLD_ON)  # print may be at work in this very thread


def _over(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ending() -> bool:
    """Whether this is while an interruption is being handled."""
    error = sys.exc_info()[1]
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
