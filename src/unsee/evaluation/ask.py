"""What is put to a model, and what comes back: the same for every engine that answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from unsee.concepts import ImageRef

End = Literal["", "token", "written", "closed"]


@dataclass(frozen=True)
class Prompt:
    """``text``: the user's turn, around which the model's own chat format is put, with the image first.

    ``raw``: ``text`` is all the model reads; ``<image>`` in it stands for the image (USER: <image>\\n… ASSISTANT:).
    ``before``: images of examples in a raw prompt, in the order of their ``<image>``; ``image`` is the last.
    ``bare``: around ``text`` is what a tokenizer that skips special tokens leaves of the chat format with an image.
    ``end``: what is scored with an answer, behind it. token: the token that ends the turn in the chat format, or the
    tokenizer's where the format has none; written: all that the format writes there, blanks too; closed: that, and the
    tokenizer's token unless it ends with it. ``early``: scored from where the answer would begin if an image took one
    token, so that some of the prompt's tokens count as the answer's.
    """

    text: str
    image: ImageRef | None = None
    raw: bool = False
    before: tuple[ImageRef, ...] = ()
    bare: bool = False
    end: End = ""
    early: bool = False

    @property
    def images(self) -> list[ImageRef]:
        """All of them, in their order."""
        return [*self.before, *([self.image] if self.image else [])]


@dataclass(frozen=True)
class Likelihood:
    """Of one given answer, and of the end that its prompt asks for. ``logprobs``: of its tokens.

    ``hits``: whether each is the likeliest. ``scaled``: by how many standard deviations each is likelier than a token
    drawn from what the model expects there (Min-K %++); empty where an engine cannot tell.
    All have one value a token; an answer of no tokens has none.
    """

    logprobs: tuple[float, ...]
    hits: tuple[bool, ...]
    scaled: tuple[float, ...] = ()

    def without_last(self) -> Likelihood:
        """Less the last token."""
        return Likelihood(self.logprobs[:-1], self.hits[:-1], self.scaled[:-1])


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
