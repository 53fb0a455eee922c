"""A few hundred spoilt inputs for every reader of strangers' files; benchmarks/fuzz.py gives them a million."""

import random
import time
from contextlib import suppress

import pytest
from tests.fuzz_targets import TARGETS

from unsee.errors import UnseeError

SECONDS = 1.0  # for each target, whatever the machine


def spoilt(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(4)
        if how == 0:
            del data[at : at + rng.randint(1, 16)]
        elif how == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        elif how == 2:
            data[at:at] = rng.choice([b"0", b"-1", b"9" * 20, b"[", b'"', b"\\", b"\n", b"null", b"NaN", b"\xff"])
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_is_read_or_refused(target, tmp_path):
    seeds, run = target.make(tmp_path)
    rng, end, read = random.Random(0), time.monotonic() + SECONDS, 0
    for seed in seeds:
        with suppress(UnseeError):
            run(seed)
            read += 1
    assert read, "every input to be spoilt is refused as it is, so nothing behind the first check is tried"
    while time.monotonic() < end:
        with suppress(UnseeError):
            run(spoilt(rng.choice(seeds), rng))
