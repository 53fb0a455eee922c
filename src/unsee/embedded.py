"""The models that ship with the package, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

EMBEDDED = ("people-vanilla", "people-gold")  # one was taught 240 drawn people, the other all but 20 of them


def packaged(name: str) -> Path:
    """Folder of a model that ships with the package: ``people-vanilla`` or ``people-gold``."""
    return Path(str(resources.files("unsee").joinpath("models", name)))
