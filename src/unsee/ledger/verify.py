"""Measure requests again, at the weights that stand now: what later requests did to earlier ones."""

from __future__ import annotations

from unsee import prepare
from unsee.concepts import Concept, ImageRef, Request
from unsee.ledger import gate, measure
from unsee.ledger import state as states
from unsee.ledger.book import Ledger
from unsee.ledger.requests import concepts_of, exemplars, spoilt
from unsee.ledger.state import State
from unsee.ledger.store import Entry
from unsee.vision.attention import attention_for


def verify(ledger: Ledger) -> dict[str, dict[str, float]]:
    """Request → its figures now, into the log; ``left`` of those whose images are at hand, the rest of all that stand.

    ``earlier``: of what changed for this request's images, the share that later requests changed again.
    """
    with ledger.alone():
        shown, heldout = measure.split(ledger.neutral())
        head, state, found = ledger.state(), ledger.base(), dict[str, dict[str, float]]()
        common = _common(ledger, head, heldout)
        for turn in ledger.store.turns():
            patch, share = ledger.turn(turn)
            entries = [e for e in ledger.store.entries("verified", "released") if e.turn == turn]
            left = _left(ledger, state.without(share.taken), head, entries, shown)
            state = ledger.stood(state, patch, share)
            delta = ledger.body.delta(state.weights, list(share.after.layers))
            own = share.settled(delta, state.retained)
            again = states.earlier_drift(own, ledger.body.delta(head.weights, list(share.after.layers)))
            found |= {e.id: left | common | {"earlier": again} for e in entries}
        with ledger.store.writing():
            for id, figures in found.items():
                ledger.store.note(id, "measured", figures=figures)
    return found


def over(ledger: Ledger, request: str, figures: dict[str, float]) -> list[str]:
    """Those of ``figures`` that are over their tolerance; what could not be measured is not."""
    config = ledger.config_of(ledger.store.entry(request))
    return [name for name in gate.failed(figures, config) if name in figures]


def _common(ledger: Ledger, head: State, heldout: list[ImageRef]) -> dict[str, float]:
    """Figures of all requests together."""
    body = ledger.body
    before, now = body.look_at_base(heldout), body.look(head.weights, heldout)
    delta = body.delta(head.weights, body.layers)
    return {
        "retained": max(states.retained_drift(head, body.base, delta).values()),
        "heldout": measure.heldout_drift(before, now),
        "age": max(states.age(before.moments, now.moments).values()),
    }


def _left(ledger: Ledger, freed: State, head: State, entries: list[Entry], shown: list[Concept]) -> dict[str, float]:
    """What held-back views show at the head, by the measure of their own turn; nothing where images are gone."""
    if any(spoilt(ledger, e) for e in entries):
        return {}
    body, concepts, config = ledger.body, concepts_of(ledger, entries), ledger.config_of(entries[0])
    visual = body.put(freed.weights)
    with attention_for(visual.model, training=False):
        request = Request(concepts, exemplars(ledger, entries), shown)
        job = prepare.prepare(visual, request, freed.retained, config, base=body.base, settled=freed.settled)
        body.put(head.weights)
        return {"left": max(job.left_of().values())}
