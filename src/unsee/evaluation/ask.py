"""What is put to a model, and what comes back: the same for every engine that answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from unsee.concepts import ImageRef


@dataclass(frozen=True)
class Prompt:
    """``text``: the user's turn, around which the model's own chat format is put, with the image first.

    ``raw``: ``text`` is all the model reads; ``<image>`` in it stands for the image (USER: <image>\\n… ASSISTANT:).
    ``before``: images of examples in a raw prompt, in the order of their ``<image>``; ``image`` is the last.
    """

    text: str
    image: ImageRef | None = None
    raw: bool = False
    before: tuple[ImageRef, ...] = ()

    @property
    def images(self) -> list[ImageRef]:
        """All of them, in their order."""
        return [*self.before, *([self.image] if self.image else [])]


@dataclass(frozen=True)
class Likelihood:
    """Of one given answer. ``logprobs``: of its tokens, the end left out. ``hits``: whether each is the likeliest.

    Both have one value a token; an answer of no tokens has none.
    """

    logprobs: tuple[float, ...]
    hits: tuple[bool, ...]


class Engine(Protocol):
    """Something that answers."""

    @property
    def identity(self) -> str:
        """Hash of all that its answers depend on, beside the prompts."""
        ...

    def generate(self, prompts: Sequence[Prompt], tokens: int) -> list[str]:
        """The greedy answer to each prompt, of at most so many tokens, stripped of blanks around it."""
        ...

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> list[list[Likelihood]]:
        """Of each prompt, how likely each of its ``answers`` is; all answers to a prompt in one forward pass."""
        ...
