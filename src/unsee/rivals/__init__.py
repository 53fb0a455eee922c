"""Published methods, a file each, beside ours: ``method("npo")``. A new one takes a file and a line here."""

from __future__ import annotations

from unsee.errors import UnseeError, nearest
from unsee.rivals import ga, graddiff, noise, noop, ours
from unsee.rivals.method import Method

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        ours.METHOD,
        ours.STATISTICS,
        ours.PROJECTOR,
        ga.METHOD,
        graddiff.METHOD,
        noop.METHOD,
        noise.METHOD,
    )
}


def method(name: str) -> Method:
    """A method by its name. UnseeError: there is none of that name."""
    if name not in METHODS:
        raise UnseeError(f"there is no method '{name}'. {nearest(name, METHODS)}")
    return METHODS[name]
