"""Take a request back: the last turn is dropped, exact to the bit; of an earlier one the later ones are done again."""

from __future__ import annotations

from collections.abc import Sequence

from unsee.errors import UnseeError
from unsee.forgetting.penalty import Settled
from unsee.ledger import gate, measure
from unsee.ledger import state as states
from unsee.ledger.book import Ledger, versions
from unsee.ledger.refit import refit
from unsee.ledger.requests import queue, spoilt, tolerated, work_off
from unsee.ledger.state import State
from unsee.ledger.store import Entry
from unsee.vision.patch import Patch


def rollback(ledger: Ledger, request: str) -> str:
    """Roll a request back; what became of the later ones, in words.

    UnseeError, and nothing is changed: the later ones' images are gone, and their statistics do not serve.
    """
    with ledger.alone():
        entry, turns = ledger.store.entry(request), ledger.store.turns()
        if entry.turn not in turns:
            with ledger.store.writing():
                _drop(ledger, entry)
            return "it had no patch"
        place = turns.index(entry.turn)
        later = [e for t in turns[place:] for e in ledger.store.entries() if e.turn == t and e.id != request]
        if all(not spoilt(ledger, e) for e in later):
            _put_back(ledger, entry, turns[place:], later)
            work_off(ledger)
            return f"{len(later)} later request(s) forgotten again" if later else "it was the last: exact to the bit"
        if any(e.turn == entry.turn for e in later):
            raise UnseeError(
                f"request {request} was forgotten together with others, whose images are not at hand: its part of "
                f"their patch cannot be told apart. Roll those back too."
            )
        _refit(ledger, entry, turns, place, later)
    return f"{len(later)} later request(s) forgotten again from their statistics"


def replay(ledger: Ledger) -> list[Entry]:
    """Go on with what a rollback that was interrupted put back; the requests that were forgotten again."""
    with ledger.alone():
        done = work_off(ledger)
    return [e for e in ledger.store.entries() if e.id in done]


def _drop(ledger: Ledger, entry: Entry, **body: object) -> None:
    ledger.store.move(entry.id, "rolled back", patch_dropped=entry.turn, **body)
    ledger.store.change(entry.id, turn=None, batch=None)
    ledger.store.let_go(entry.id)


def _put_back(ledger: Ledger, entry: Entry, dropped: Sequence[str], later: Sequence[Entry]) -> None:
    """The stack up to the request's turn, and later requests to be forgotten again."""
    kept = ledger.keep(ledger.fold(ledger.store.turns()[: -len(dropped)]))
    with ledger.store.writing():
        for turn in dropped:
            ledger.store.unstack(turn)
        ledger.store.put("state", kept["file"])
        _drop(ledger, entry, kept=kept["sha256"])
        for other in later:
            queue(ledger, other, other.batch, tolerated(other), why=f"request {entry.id} was rolled back")


def _refit(ledger: Ledger, entry: Entry, turns: Sequence[str], place: int, later: Sequence[Entry]) -> None:
    """Later turns in closed form, all of them in one transaction or none."""
    state, old = ledger.fold(turns[:place]), ledger.fold(turns[: place + 1])
    wanted, done = state.settled, list[tuple[str, Patch, dict[str, str]]]()
    for turn in turns[place + 1 :]:
        patch, share = ledger.turn(turn)
        old = ledger.stood(old, patch, share)
        target = ledger.body.delta(old.weights, list(share.after.layers))
        wanted += share.settled(target, old.retained)
        new = refit(ledger.body, state.without(share.taken), target, share.after, ledger.config)
        done.append((turn, new, ledger.put(new, share)))
        state = ledger.stood(state, new, share)
    figures = _figures(ledger, state, wanted)
    if wrong := [name for name in figures if figures[name] > getattr(ledger.config, gate.TOLERANCES[name])]:
        raise UnseeError(
            f"request {entry.id} cannot be rolled back: images of later requests are gone, and from their statistics "
            f"{' and '.join(f'{n} would be {figures[n]:.0%}' for n in wrong)}. Nothing was changed."
        )
    kept = ledger.keep(state)
    with ledger.store.writing():
        for turn in turns[place:]:
            ledger.store.unstack(turn)
        ledger.store.put("state", kept["file"])
        _drop(ledger, entry, kept=kept["sha256"])
        for turn, new, files in done:
            _restack(ledger, [e for e in later if e.turn == turn], new, files, figures)


def _figures(ledger: Ledger, state: State, wanted: Settled) -> dict[str, float]:
    """What can be told without images of the requests."""
    body, (_, heldout) = ledger.body, measure.split(ledger.neutral())
    delta = body.delta(state.weights, list(wanted.A) or list(state.settled.A))
    now = body.look(state.weights, heldout)
    return {
        "retained": max(states.retained_drift(state, body.base, delta).values()),
        "heldout": measure.heldout_drift(body.look_at_base(heldout), now),
        "earlier": states.earlier_drift(wanted, delta),
    }


def _restack(
    ledger: Ledger, entries: Sequence[Entry], new: Patch, files: dict[str, str], figures: dict[str, float]
) -> None:
    store, ids = ledger.store, [e.id for e in entries]
    store.stack(new.id)
    store.take([i.sha256 for id in ids for i in store.images(id)], new.id)
    for id in ids:
        store.change(id, turn=new.id)
        store.note(id, "replayed", patch=new.id, **files, figures=figures, together=ids, versions=versions())
