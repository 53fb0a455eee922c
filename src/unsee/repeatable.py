"""The same bytes again: what the libraries below torch have to be told before they first compute."""

from __future__ import annotations

import os

from unsee import hardware


def ask() -> None:
    """Make MKL's products hang on their factors alone, on Intel processors; a value set by the user stays.

    By default they also hang on where in memory the factors lie: of ten tests of rivals on one shape, four found other
    weights when a method ran again. It costs no time that could be measured. An AMD processor needed no asking.
    """
    if hardware.intel():
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
