"""The last step of a request: a person releases it."""

from __future__ import annotations

from collections.abc import Sequence

from unsee.errors import UnseeError
from unsee.ledger import gate
from unsee.ledger.book import Ledger
from unsee.ledger.requests import figures_of


def release(ledger: Ledger, requests: Sequence[str] = (), despite: bool = False) -> list[str]:
    """Verified requests are released, all or those named: they are served, and where their images lie is dropped.

    UnseeError: an earlier turn would not be, on which a later one stands; or figures measured since are over their
    tolerance and a person does not say ``despite``.
    """
    with ledger.alone():
        store = ledger.store
        named = [store.entry(id) for id in requests] or store.entries("verified")
        wanted = {e.id for e in named}
        for entry in named:
            wrong = gate.failed(figures_of(ledger, entry.id), ledger.config_of(entry))
            if entry.state == "verified" and wrong and not despite:
                raise UnseeError(
                    f"request {entry.id} was measured again, and {', '.join(wrong)} is over its tolerance. Roll it "
                    f"back, or release it all the same: --despite."
                )
        waiting = [e for e in store.entries("verified") if e.id not in wanted]
        places = {turn: n for n, turn in enumerate(store.turns())}
        last = max((places[e.turn] for e in named if e.turn in places), default=-1)
        if below := [e.id for e in waiting if e.turn in places and places[e.turn] <= last]:
            raise UnseeError(f"request(s) {', '.join(below)} lie below and are not released: release them too.")
        with store.writing():
            for entry in named:
                store.move(entry.id, "released", despite=despite)
                store.let_go(entry.id)
    return [e.id for e in named]
