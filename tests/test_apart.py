"""The process that reads strangers' images: what ends it, or keeps it from starting, is told as what it is."""

import sys

import pytest
from tests.test_images import encoded

from unsee.data import apart
from unsee.data.images import BadImage, decode
from unsee.errors import UnseeError

# In the decoder's place, under its limits: what never ends. A file that is slow everywhere is not to be had.
ENDLESS = """
import itertools, sys
from unsee.data import apart
apart.pixels = lambda *_: sum(itertools.repeat(0))
apart.serve(sys.stdin.buffer, sys.stdout.buffer)
"""


def test_what_ends_its_decoder_is_a_bad_image_and_the_next_is_read(monkeypatch):
    apart._reader.stop()
    monkeypatch.setattr(apart, "SECONDS", 0)
    monkeypatch.setattr(apart, "COMMAND", [sys.executable, "-c", ENDLESS])
    with pytest.raises(BadImage, match="reading it takes over 0 s or 2 GiB"):
        decode(encoded(format="AVIF"))
    monkeypatch.undo()
    assert decode(encoded(format="AVIF")).size == (24, 16)


def test_a_decoder_that_does_not_start_is_no_fault_of_the_image(monkeypatch):
    apart._reader.stop()
    monkeypatch.setattr(apart, "COMMAND", [sys.executable, "-c", "raise ImportError"])
    with pytest.raises(UnseeError, match="does not run. Install unsee with what it needs"):
        decode(encoded(format="GIF"))
