"""Whether the rows of the database are what its log adds up to: all tables, all columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unsee.ledger import schema
from unsee.ledger.facts import SEALED, SECRET, plain, seal, seal_images, seal_paths
from unsee.ledger.retold import GONE, UNSAID, Retold, Told
from unsee.ledger.store import Entry, Image, Store

Found = Iterator[str]


def differences(store: Store, retold: Retold) -> Found:
    """What the database says otherwise than its log, a sentence each. UnseeError: it holds what unsee never writes."""
    there, images = {e.id: e for e in store.entries()}, dict[str, list[Image]]()
    for image in store.images():
        images.setdefault(image.request, []).append(image)
    settings = {name: store.parsed(text, name) for name, text in store.table("settings", schema.SETTINGS)}
    yield from _settings(settings, retold)
    for id in sorted(retold.requests.keys() | there.keys() | images.keys()):
        told, entry, its = retold.requests.get(id), there.get(id), images.get(id, [])
        if told is None or entry is None:
            now = entry.state if entry else "gone"
            yield f"request {id} is {now} in the database and {told.state if told else 'gone'} in the log"
        else:
            yield from _request(entry, told, retold)
            yield from _images(id, told, its, settings.get(f"{SECRET}{id}"))
    turns = store.table("turns", schema.TURNS, "ORDER BY place")
    if turns != list(enumerate(retold.stack, 1)):
        yield "the patches on the base, or their order, are not those of the log"
    yield from _retained(store, retold, images)


def _settings(settings: dict[str, Any], retold: Retold) -> Found:
    begun = retold.begun
    if "config" not in settings or plain(settings["config"]) != plain(begun.get("config")):
        yield "the settings are not those that the log begins with"
    if settings.get("state") != retold.state_file:
        yield "the database names another state than the log"
    older, sealed = "settings" not in begun, begun.get("settings")
    sealed = sealed if isinstance(sealed, dict) else {}
    for name in () if older else SEALED:
        if name not in settings or seal(settings[name]) != sealed.get(name):
            yield f"the setting {name} is not the one that the log begins with"
    waiting = {id for id, told in retold.requests.items() if told.state not in GONE and "paths" in told.images}
    known = {"config", "state", *SEALED, *(f"{SECRET}{id}" for id in waiting), *(["trust"] if older else [])}
    if odd := settings.keys() - known:
        yield f"the database has {len(odd)} setting(s) that unsee does not write, or that should be gone"


def _request(entry: Entry, told: Told, retold: Retold) -> Found:
    if entry.state != told.state:
        yield f"request {entry.id} is {entry.state} in the database and {told.state} in the log"
    for column in ("place", "attempt", "changed", "batch", "turn"):
        here, wanted = getattr(entry, column), getattr(told, column)
        if wanted != UNSAID and plain(here) != plain(wanted):
            yield f"request {entry.id} has another {column} in the database than in the log"
    if told.changed == UNSAID and told.turn and _other_settings(entry, told, retold):
        yield f"request {entry.id} has other settings in the database than its patch was made with"


def _other_settings(entry: Entry, told: Told, retold: Retold) -> bool:
    begun, changed = retold.begun.get("config"), entry.changed
    if not isinstance(begun, dict) or not isinstance(changed, dict):
        return True
    now = begun | changed
    return any(plain(now[name]) != plain(value) for name, value in told.config.items() if name in now)


def _images(id: str, told: Told, images: list[Image], secret: Any) -> Found:
    facts = seal_images([(i.concept, i.sha256) for i in images])
    wanted = {name: told.images.get(name, facts[name]) for name in facts}
    if plain(facts) != plain(wanted):
        yield f"the images of request {id} are not those of the log"
    paths = [i.path for i in images if i.path is not None]
    if told.state in GONE:
        if paths:
            yield f"request {id} is {told.state}, and the ledger still knows where its images lie"
    elif len(paths) < len(images):
        yield f"request {id} is {told.state}, and the ledger does not know where its images lie"
    elif "paths" in told.images and (not isinstance(secret, str) or seal_paths(secret, paths) != told.images["paths"]):
        yield f"the images of request {id} lie elsewhere in the database than in the log"


def _retained(store: Store, retold: Retold, images: dict[str, list[Image]]) -> Found:
    rows = store.table("retained", schema.RETAINED)
    if "retained_rows" in retold.begun and seal(sorted(h for h, _ in rows)) != retold.begun["retained_rows"]:
        yield "the images in the retained sums are not those that the log begins with"
    taken = {i.sha256: turn for turn, ids in retold.stack.items() for id in ids for i in images.get(id, [])}
    if any(taken.get(h) != turn for h, turn in rows):
        yield "which images were taken out of the retained sums is not what the log says"
