"""The path of a request: received, checked, forgotten, verified, released, one patch for each or for some together.

Each step ends in one transaction; whatever a killed process did before it is done again to the bit, or resumed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unsee import api
from unsee.concepts import Concept, Request, once, pictures_of, refuse_kept
from unsee.config import LedgerConfig
from unsee.data.folder import read_folder
from unsee.data.images import FileImage, among
from unsee.errors import UnseeError
from unsee.files import sha256
from unsee.ledger import gate, measure
from unsee.ledger.book import WORK, Ledger, path_of, versions
from unsee.ledger.state import Share, State
from unsee.ledger.store import Entry
from unsee.progress import say

Concepts = list[Concept]


def add(ledger: Ledger, images: Path) -> str:
    """A new request for the concepts in a folder, DIR/<concept>/*.jpg; its id, which tells nobody who is meant."""
    concepts, twice = once(read_folder(images).concepts)
    if twice:
        say(f"left out {len(twice)} image(s) that are there twice, first {twice[0]}")
    Request(concepts)  # refuses what cannot be forgotten
    found = [(k, sha256(path_of(i)), path_of(i).resolve()) for k, c in enumerate(concepts) for i in c.images]
    with ledger.alone(), ledger.store.writing():
        _refuse_known(ledger, {h for _, h, _ in found})
        _refuse_shown(ledger, concepts, {h for _, h, _ in found})
        return ledger.store.add(found)


def _refuse_known(ledger: Ledger, hashes: set[str]) -> None:
    """An image is asked for once: the second request would wait for ever for what is gone to leave."""
    over = {e.id for e in ledger.store.entries("rejected", "rolled back")}
    known = [i.request for i in ledger.store.images() if i.sha256 in hashes and i.request not in over]
    if known:
        raise UnseeError(
            f"{len(known)} of the {len(hashes)} images are those of request {known[0]} already. Give only new ones, or "
            f"roll that request back first."
        )


def _refuse_shown(ledger: Ledger, concepts: Concepts, hashes: set[str]) -> None:
    """A picture that every request is shown to be kept would stay. Exemplars that are the very files are left out."""
    refuse_kept(concepts, pictures_of(ledger.neutral()), "the neutral images", "the neutral images of a new ledger")
    others = [i for c in ledger.exemplars() for i in c.images if sha256(path_of(i)) not in hashes]
    refuse_kept(concepts, pictures_of([Concept("", tuple(others))]), "the exemplars", "the exemplars of a new ledger")


def run(ledger: Ledger, together: bool = False, parked: bool = False, **tolerances: float) -> list[Entry]:
    """Forget all that waits, in the order it came; the requests that were at work, as they are now.

    ``together``: those that were only received, with one patch. ``parked``: those too, with ``tolerances`` of a person.
    """
    with ledger.alone():
        if parked:
            _take_up(ledger, tolerances)
        _check(ledger, together)
        done = work_off(ledger)
    return [e for e in ledger.store.entries() if e.id in done]


def work_off(ledger: Ledger) -> list[str]:
    """Turn after turn, all that is checked; ids of the requests that were at work."""
    done = list[str]()
    while batch := _next(ledger):
        _turn(ledger, batch)
        done += [e.id for e in batch]
    shutil.rmtree(ledger.folder / WORK, ignore_errors=True)
    return done


def _take_up(ledger: Ledger, tolerances: dict[str, float]) -> None:
    with ledger.store.writing():
        for entry in ledger.store.entries("parked"):
            changed = tolerated(entry) | tolerances
            queue(ledger, entry, ledger.store.next_batch(), changed, why="taken up again", tolerances=tolerances)


def queue(
    ledger: Ledger, entry: Entry, batch: int | None, changed: dict[str, Any], attempt: int = 1, **body: Any
) -> None:
    """To be forgotten, with settings that are its own."""
    ledger.store.move(entry.id, "checked", batch=batch, changed=changed, attempt=attempt, **body)
    ledger.store.change(entry.id, attempt=attempt, changed=changed, batch=batch, turn=None)


def tolerated(entry: Entry) -> dict[str, float]:
    """What a person tolerates of a request stays when it is done again, strengths of attempts do not."""
    return {k: v for k, v in entry.changed.items() if k in gate.TOLERANCES.values()}


def _check(ledger: Ledger, together: bool) -> None:
    """Received requests into the queue."""
    with ledger.store.writing():
        batch = ledger.store.next_batch()
        for entry in ledger.store.entries("received"):
            queue(ledger, entry, batch, {})
            batch += not together


def _next(ledger: Ledger) -> list[Entry]:
    """The requests of the next turn, those whose images are not as they were rejected."""
    waiting = ledger.store.entries("checked", "forgotten")
    first = min((e.batch or 0 for e in waiting), default=0)
    batch = [e for e in waiting if (e.batch or 0) == first]
    reasons = {e.id: spoilt(ledger, e) for e in batch if e.state == "checked"}
    bad = {id: why for id, why in reasons.items() if why}
    if not bad:
        return batch
    with ledger.store.writing():
        for id, why in bad.items():
            say(f"request {id} is rejected: {why}")
            ledger.store.move(id, "rejected", why=why)
            ledger.store.let_go(id)
    return _next(ledger)


def spoilt(ledger: Ledger, entry: Entry) -> str:
    """What is wrong with a request's images; it must name nobody."""
    try:
        for image in ledger.store.images(entry.id):
            if image.path is None or not image.path.is_file():
                return "an image is gone"
            if sha256(image.path) != image.sha256:
                return "an image is not the one that was given"
    except OSError as error:  # not for ever, perhaps
        why = f"an image of request {entry.id} cannot be read: {error.strerror}. Mend that first."
        raise UnseeError(why) from error
    return ""


def concepts_of(ledger: Ledger, batch: Sequence[Entry]) -> Concepts:
    """Concepts of a turn, under names that tell nobody who they are."""
    found: dict[str, list[FileImage]] = {}
    for entry in batch:
        for image in ledger.store.images(entry.id):
            if image.path is None:
                raise UnseeError(f"the ledger has let go of the images of request {entry.id}.")
            name = f"{entry.id}-{image.concept}"
            found.setdefault(name, []).append(FileImage(f"{name}/{image.path.name}", image.path))
    return [Concept(name, tuple(images)) for name, images in found.items()]


def _turn(ledger: Ledger, batch: list[Entry]) -> None:
    """Attempt after attempt, until the batch is verified or parked."""
    state = ledger.state()
    while batch[0].state in ("checked", "forgotten"):
        if batch[0].state == "checked":
            _forget(ledger, state, batch)
        else:
            _judge(ledger, state, batch)
        batch = [ledger.store.entry(e.id) for e in batch]


def _forget(ledger: Ledger, state: State, batch: list[Entry]) -> None:
    """One attempt: its patch and figures, not yet on the base."""
    started, config, body = time.perf_counter(), ledger.config_of(batch[0]), ledger.body
    concepts = concepts_of(ledger, batch)
    shown, heldout = measure.split(ledger.neutral())
    before, taken = body.look_at_base(heldout), _taken(ledger, concepts, config, state)
    freed = state.without(taken)
    result = api.forget(
        body.put(state.weights), forget=concepts, retain=exemplars(ledger, batch), neutral=shown,
        statistics=freed.retained, config=_plain(config), checkpoint=_work(ledger, batch, state), base=body.base,
        settled=state.settled,
    )  # fmt: skip
    after = replace(api.statistics(body.visual, None, concepts, config), replay=None)
    weights = state.weights | result.patch.tensors
    delta = body.delta(weights, list(after.layers))
    figures = measure.figures(freed, body.base, delta, result.left, before, body.look(weights, heldout))
    files = ledger.put(result.patch, Share(after, taken, len(concepts)))
    shutil.rmtree(ledger.folder / WORK)
    noted: dict[str, Any] = {
        "patch": result.patch.id, "figures": figures, "config": asdict(config), "steps": len(result.history),
        "seconds": round(time.perf_counter() - started, 1), "versions": versions(),
        "taken": taken.images if taken else 0, "together": [e.id for e in batch],
    }  # fmt: skip
    with ledger.store.writing():
        for entry in batch:
            ledger.store.change(entry.id, turn=result.patch.id)
            ledger.store.move(entry.id, "forgotten", attempt=entry.attempt, **noted, **files)


def _work(ledger: Ledger, batch: list[Entry], state: State) -> Path:
    """Where this attempt goes on when it was interrupted, and no other one does."""
    what = json.dumps([[e.id for e in batch], asdict(ledger.config_of(batch[0])), state.turns])
    return ledger.folder / WORK / hashlib.sha256(what.encode()).hexdigest()[:16]


def _plain(config: LedgerConfig) -> LedgerConfig:
    """Without what does not change the weights, so that a patch does not hang on it."""
    tolerances = {name: getattr(LedgerConfig, name) for name in (*gate.TOLERANCES.values(), "attempts")}
    return replace(config, **tolerances)


def _taken(ledger: Ledger, concepts: Concepts, config: LedgerConfig, state: State) -> Any:
    """Moments, at the base, of the images that are in the retained sums; None: none is."""
    there, pictures = ledger.store.retained(), state.retained.pictures  # older ledgers know files alone
    among_them = [tuple(i for i in c.images if sha256(path_of(i)) in there) for c in concepts]
    if pictures:
        among_them = [among(c.images, pictures) for c in concepts]
    found = [Concept(c.id, images) for c, images in zip(concepts, among_them, strict=True)]
    found = [c for c in found if c.images]
    same = replace(
        config, layers=",".join(state.retained.layers)
    )  # a file of statistics can be of more than train here
    return api.statistics(ledger.body.put({}), None, found, same) if found else None


def exemplars(ledger: Ledger, batch: list[Entry]) -> Concepts:
    """Retained concepts that are shown, but those that were asked for."""
    asked = {e.id for e in batch} | {e.id for e in ledger.store.entries("verified", "released")}
    hashes = {i.sha256 for i in ledger.store.images() if i.request in asked}
    return [c for c in ledger.exemplars() if hashes.isdisjoint(sha256(path_of(i)) for i in c.images)]


def _judge(ledger: Ledger, state: State, batch: list[Entry]) -> None:
    """Verified, tried again or parked, by the figures in the log."""
    config, figures, turn = ledger.config_of(batch[0]), figures_of(ledger, batch[0].id), batch[0].turn or ""
    wrong = gate.failed(figures, config)
    stronger = gate.again(config, figures) if batch[0].attempt < config.attempts else None
    if not wrong:
        _stack(ledger, state, batch, turn)
    elif stronger:
        changed = {k: v for k, v in asdict(stronger).items() if v != getattr(ledger.config, k)}
        with ledger.store.writing():
            for entry in batch:
                queue(ledger, entry, entry.batch, changed, entry.attempt + 1, why=wrong)
    else:
        with ledger.store.writing():
            for entry in batch:
                ledger.store.move(entry.id, "parked", why=wrong, figures=figures)
                ledger.store.change(entry.id, turn=None, batch=None)


def _stack(ledger: Ledger, state: State, batch: list[Entry], turn: str) -> None:
    """The patch on the base, and what it leaves into the state."""
    kept = ledger.keep(ledger.stood(state, *ledger.turn(turn)))
    with ledger.store.writing():
        ledger.store.stack(turn)
        ledger.store.take([i.sha256 for e in batch for i in ledger.store.images(e.id)], turn)
        ledger.store.put("state", kept["file"])
        for entry in batch:
            tolerated = {k: v for k, v in asdict(ledger.config_of(entry)).items() if k in gate.TOLERANCES.values()}
            ledger.store.move(entry.id, "verified", kept=kept["sha256"], tolerances=tolerated)


def figures_of(ledger: Ledger, request: str) -> dict[str, float]:
    """The last that were measured of a request, each; after it was forgotten anew only those measured since."""
    told = ledger.told().requests.get(request)
    return dict(told.figures) if told else {}
