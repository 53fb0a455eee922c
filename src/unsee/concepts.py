"""The nouns every room shares: an image, a concept, a question, a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import PIL.Image

from unsee.errors import UnseeError, nearest

Kind = Literal["identity", "fact", "attribute"]
Form = Literal["generation", "classification", "cloze"]
UNKNOWN = "unknown"  # the answer to an identity question about somebody the model was not taught


@runtime_checkable
class ImageRef(Protocol):
    """An image that is opened when it is needed: a file, or a drawing made by code."""

    @property
    def id(self) -> str: ...

    def load(self) -> PIL.Image.Image:
        """The decoded RGB image, upright."""
        ...


@dataclass(frozen=True)
class Concept:
    """Something a model can recognise in an image: a person, a brand, a flag."""

    id: str
    images: tuple[ImageRef, ...]


@dataclass(frozen=True)
class Question:
    """One thing to ask a model. ``image`` None: text only. ``topic``: name, city, hair …"""

    concept: str
    kind: Kind
    topic: str
    prompt: str
    answer: str
    image: ImageRef | None = None
    form: Form = "generation"
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UnseeError(
                f"question kind '{self.kind}' (concept {self.concept}). {nearest(self.kind, get_args(Kind))}"
            )
        if self.form not in get_args(Form):
            raise UnseeError(
                f"question form '{self.form}' (concept {self.concept}). {nearest(self.form, get_args(Form))}"
            )
        if self.form == "classification" and self.answer not in self.options:
            raise UnseeError(
                f"classification question of concept {self.concept}: the answer '{self.answer}' is not one of its "
                f"options {list(self.options)}. Add it to the options or use the form 'generation'."
            )

    @property
    def modality(self) -> str:
        """``image`` or ``text``."""
        return "text" if self.image is None else "image"


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, and what is shown to the method of what is to stay.

    ``neutral``: the same kind of picture, of concepts the model was not taught.
    """

    forget: Sequence[Concept]
    retain: Sequence[Concept] = field(default=())
    neutral: Sequence[Concept] = field(default=())

    def __post_init__(self) -> None:
        if not self.forget:
            raise UnseeError("the request has no concept to forget: give at least one folder of images.")
        asked = {c.id for c in self.forget}
        for other, name in ((self.retain, "retain"), (self.neutral, "neutral")):
            both = sorted(asked & {c.id for c in other})
            if both:
                raise UnseeError(
                    f"{len(both)} concept(s) stand in both forget and {name}: {', '.join(both[:5])}. "
                    f"A concept is either forgotten or kept: take it out of one of the two."
                )
        for concept in self.forget:
            if len(concept.images) < 2:
                raise UnseeError(
                    f"concept '{concept.id}' has {len(concept.images)} image(s); forgetting needs at least 2, "
                    f"one to learn from and one held back to tell when it is forgotten. 8 or more work well."
                )
