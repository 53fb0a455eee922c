"""One error for everything a user can put right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NOT_TO_RELEASE = 3  # exit code: all was done and written, but what was to leave has not, or what was to stay has moved


class UnseeError(Exception):
    """What was given, what is allowed, what to do next. The command line prints it and exits with code 2.

    Several arguments are as many lines. Within one, a line break is part of a name, and printed as an escape.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The sentence that names the allowed words, the nearest first: ``Did you mean 'soft'? Allowed: hard, soft.``"""
    words = sorted(allowed)
    close = difflib.get_close_matches(given[:100], words, n=1)  # a stranger's word may be a book
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Allowed: {', '.join(words)}."
