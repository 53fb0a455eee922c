"""Facts that a line of the log covers by one hash, so that it can be published: it says nothing to whoever lacks them.

A request's line seals its images, and their paths together with a secret; that is overwritten with the paths, and
nobody can try names against the seal from then on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SECRET = "secret "  # before a request's id: the setting that holds its secret as long as its paths are there
SEALED = ("model", "revision", "device", "neutral", "exemplars")  # settings that the first line seals


def plain(value: Any) -> str:
    """JSON that tells 1 from 1.0, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def seal(value: Any) -> str:
    """One hash of anything that JSON can say."""
    return hashlib.sha256(plain(value).encode()).hexdigest()


def seal_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: seal(settings[name]) for name in SEALED}


def seal_images(rows: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """Of a request's images, each a concept's number and a hash, in their order."""
    return {
        "images": len(rows),
        "concepts": len({concept for concept, _ in rows}),
        "sha256": hash_of_images(h for _, h in rows),
        "rows": seal([list(row) for row in rows]),
    }


def hash_of_images(hashes: Iterable[str]) -> str:
    """What a certificate says: whoever has all images of a request can compute it, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def seal_paths(secret: str, paths: Iterable[Path]) -> str:
    return seal([secret, *(os.fsencode(p).hex() for p in paths)])
