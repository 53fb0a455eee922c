"""Published methods, a file each, beside ours: ``method("npo")``. A new one takes a file and a line here."""

from __future__ import annotations

from unsee.errors import UnseeError, nearest
from unsee.rivals import (
    alphaedit,
    dpo,
    eco,
    ga,
    graddiff,
    gru,
    kl,
    llmu,
    manu,
    mmunlearner,
    noise,
    noop,
    npo,
    ours,
    po,
    prompt,
    salun,
    sauce,
    siu,
    sku,
    slug,
    vkd,
    vl_eraser,
)  # fmt: skip
from unsee.rivals.method import Method

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        ours.METHOD,
        ours.STATISTICS,
        ours.PROJECTOR,
        ga.METHOD,
        graddiff.METHOD,
        kl.METHOD,
        npo.METHOD,
        dpo.METHOD,
        po.METHOD,
        gru.METHOD,
        llmu.METHOD,
        sku.METHOD,
        mmunlearner.METHOD,
        manu.METHOD,
        siu.METHOD,
        vkd.METHOD,
        vl_eraser.METHOD,
        salun.METHOD,
        sauce.METHOD,
        alphaedit.METHOD,
        slug.METHOD,
        eco.METHOD,
        prompt.METHOD,
        noop.METHOD,
        noise.METHOD,
    )
}


def method(name: str) -> Method:
    """A method by its name. UnseeError: there is none of that name."""
    if name not in METHODS:
        raise UnseeError(f"there is no method '{name}'. {nearest(name, METHODS)}")
    return METHODS[name]
