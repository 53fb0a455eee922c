"""Commands in processes of their own, each a copy of one that has imported all it needs: torch alone takes seconds.

That one begins when the first command does. It has no model, no thread and nothing of the tests that run.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

NEEDED = ["tests.started", "unsee.api", "unsee.commands.forgetting", "unsee.comparison.contest", "unsee.rivals"]


def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(NEEDED)
    return found


def start(args: Sequence[str], said: Path | None = None) -> BaseProcess:
    """``unsee`` with these, at the sizes of a tiny model, hearing Ctrl-C. ``said``: file of its messages."""
    return _begun(_command, list(args), said)


def script(command: Sequence[str]) -> BaseProcess:
    """The Python file of this name, with what follows it."""
    return _begun(_script, list(command))


def _begun(run: Callable[..., None], *given: object) -> BaseProcess:
    process = context().Process(target=run, args=given)
    process.start()
    return process


def _command(args: list[str], said: Path | None) -> None:
    from tests.conftest import _shrink

    from unsee.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf to it, we among them
    if said:
        with said.open("w") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    _alone()
    _shrink(pytest.MonkeyPatch())
    sys.exit(main(args))


def _script(command: list[str]) -> None:
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    _alone()
    runpy.run_path(command[0], run_name="__main__")


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
