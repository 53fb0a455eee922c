"""The nouns every room shares: an image, a concept, a question, a request."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import PIL.Image

from unsee.errors import UnseeError, nearest
from unsee.untrusted import shown

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
    """Something a model can recognise in an image: a person, a brand, a flag.

    ``unread``: how many files of its folder are not among its images, by suffix.
    """

    id: str
    images: tuple[ImageRef, ...]
    unread: tuple[tuple[str, int], ...] = field(default=(), compare=False)


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
        asked = {_alike(c.id): c.id for c in self.forget}
        for other, name in ((self.retain, "retain"), (self.neutral, "neutral")):
            both = sorted({asked[_alike(c.id)] for c in other if _alike(c.id) in asked})
            if both:
                raise UnseeError(
                    f"{len(both)} concept(s) stand in both forget and {name}: {_few(both)}. A concept is either "
                    f"forgotten or kept, however its name is spelt: take it out of one of the two."
                )
            refuse_kept(self.forget, pictures_of(other), f"the {name} images", f"--{name}")
        for concept in self.forget:
            if len(concept.images) < 2:
                raise UnseeError(
                    f"concept '{shown(concept.id)}' has {len(concept.images)} image(s); forgetting needs at least 2, "
                    f"one to learn from and one held back to tell when it is forgotten. 8 or more work well."
                )


def digest_of(image: ImageRef) -> str:
    """The hash of its pixels, where they were read; else empty."""
    return getattr(image, "digest", "")


def pictures_of(concepts: Iterable[Concept]) -> dict[str, str]:
    """Hashes of the pictures' pixels, as far as they were read, and the id of the first image of each."""
    found: dict[str, str] = {}
    for image in (i for c in concepts for i in c.images):
        if digest := digest_of(image):
            found.setdefault(digest, image.id)
    return found


def refuse_kept(forget: Sequence[Concept], kept: Mapping[str, str], what: str, flag: str) -> None:
    """UnseeError: a picture to forget is among ``kept`` (hash → id, where it is known), whatever its file is called.

    What is held in place cannot leave: of faces that stood among the retained too, nine tenths stayed.
    """
    images = [i for c in forget for i in c.images]
    both = [i.id + (f" (as {kept[d]})" if kept[d] else "") for i in images if (d := digest_of(i)) and d in kept]
    if both:
        raise UnseeError(
            f"{len(both)} of the {len(images)} images to forget are the same pictures as some of {what}: {_few(both)}. "
            f"What is kept cannot be forgotten: take them out of {flag}, or out of the request."
        )


def once(concepts: Sequence[Concept]) -> tuple[list[Concept], list[str]]:
    """Each picture of a concept once, and the ids of those left out: a copy held back would have been learnt from."""
    kept: list[Concept] = []
    twice: list[str] = []
    for concept in concepts:
        seen: set[str] = set()
        images = []
        for image in concept.images:
            if (digest := digest_of(image)) and digest in seen:
                twice.append(image.id)
            else:
                images.append(image)
                seen.add(digest)
        kept.append(concept if len(images) == len(concept.images) else replace(concept, images=tuple(images)))
    return kept, twice


def _alike(name: str) -> str:
    """The same for names that differ in case or in how accents are stored, as those from a Mac do."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (" …" if len(names) > 5 else "")
