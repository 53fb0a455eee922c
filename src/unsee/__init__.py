"""unsee makes multimodal language models forget visual concepts: a person, a brand, a flag.

The public names, imported when they are first used: ``import unsee`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from unsee import repeatable

if TYPE_CHECKING:
    from unsee.api import forget, statistics
    from unsee.concepts import Concept, Question, Request
    from unsee.config import ForgetConfig
    from unsee.data.folder import read_folder
    from unsee.errors import UnseeError
    from unsee.forgetting.moments import Moments
    from unsee.vision.module import load_full, load_visual

repeatable.ask()
__version__ = version("unsee")
__all__ = [
    "Concept",
    "ForgetConfig",
    "Moments",
    "Question",
    "Request",
    "UnseeError",
    "forget",
    "load_full",
    "load_visual",
    "read_folder",
    "statistics",
]

_HOME = {
    "Concept": "concepts",
    "ForgetConfig": "config",
    "Moments": "forgetting.moments",
    "Question": "concepts",
    "Request": "concepts",
    "UnseeError": "errors",
    "forget": "api",
    "load_full": "vision.module",
    "load_visual": "vision.module",
    "read_folder": "data.folder",
    "statistics": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unsee' has no attribute '{name}'")
    return getattr(import_module(f"unsee.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
