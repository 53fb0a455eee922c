"""What the commands of this package share: an error is one line, and the exit code says so."""

from __future__ import annotations

from collections.abc import Callable

import transformers

from unsee.errors import UnseeError
from unsee.progress import alarm, tell
from unsee.runs import command_line, revision


def told(work: Callable[[], str]) -> int:
    """The exit code of ``work``, which returns the line that says what it did: 0, or 2 after an UnseeError."""
    transformers.utils.logging.disable_progress_bar()  # ours tells how far it is
    try:
        tell(work())
    except UnseeError as error:
        alarm(str(error))
        return 2
    return 0


def provenance(module: str) -> dict[str, str]:
    """How a result comes to be: the command, as it was given, and the commit. Asked before the work begins."""
    return {"command": command_line(f"python -m benchmarks.photographs.{module}"), "commit": revision()}
