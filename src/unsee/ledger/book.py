"""The folder of a ledger: its database, its state, the patches, and the lock that lets one process write.

ledger.db, head.json    requests, settings and the log; the hash of the log's last line
state/                  one file: what is kept of all requests so far
base.safetensors        the same before the first request
turns/ID/               patch and share of each turn that stands on the base
work/                   where an interrupted turn goes on
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from unsee import __version__, runs
from unsee.concepts import Concept
from unsee.config import LedgerConfig
from unsee.data.folder import read_folder
from unsee.errors import UnseeError
from unsee.files import locked, new_folder, sha256, sweep
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled
from unsee.ledger.body import Body
from unsee.ledger.measure import split
from unsee.ledger.state import Share, State
from unsee.ledger.store import Entry, Store
from unsee.vision.patch import Patch

BASE, STATE, TURNS, WORK, LOCK = "base.safetensors", "state", "turns", "work", "lock"
SHARE = "share.safetensors"
# settings that older ledgers do not name, and what they did
UNSAID = {"attention": True, "lookalikes": 0, "leave": 0.0, "crowd": 0}


class Ledger:
    """An open ledger. Whatever writes does so within ``alone``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder)
        self.config = LedgerConfig(**UNSAID | self.store.get("config"))

    @cached_property
    def body(self) -> Body:
        """The visual module, loaded when it is first needed."""
        get = self.store.get
        return Body.load(get("model"), get("revision"), get("trust"), get("device"), self.state())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within: no other process writes to this ledger. What is in no use is removed, such as
        what a killed one left half done."""
        with locked(self.folder / LOCK, "ledger"):
            try:
                self._sweep()
                yield
                self._sweep()
            except BaseException:
                with suppress(UnseeError):  # what went wrong first is what there is to say
                    self.store.tidy()
                raise
            self.store.tidy()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within: nobody writes; others may read too."""
        with locked(self.folder / LOCK, "ledger", shared=True):
            yield

    def _sweep(self) -> None:
        """Remove files that the database knows nothing of."""
        for room in (self.folder, self.folder / TURNS, self.folder / STATE):
            sweep(room)
        known = {place_of(e.turn) for e in self.store.entries() if e.turn}
        known |= {place_of(t) for t in self.store.turns()}
        for path in (self.folder / TURNS).iterdir():
            if path.name not in known:
                shutil.rmtree(path)
        for path in (self.folder / STATE).iterdir():
            if path.name != self.store.get("state"):
                path.unlink()

    def state(self) -> State:
        """UnseeError: it is damaged, or not of the patches that stand on the base."""
        state = State.load(self.state_file)
        if list(state.turns) != self.store.turns():
            raise UnseeError(f"'{self.state_file}' is not the state of this ledger's patches. Restore it from a copy.")
        return state

    def fold(self, turns: Sequence[str]) -> State:
        """The state after ``turns``, from the base on: the same bits as when they were done."""
        state = State.load(self.folder / BASE)
        for turn in turns:
            state = self.stood(state, *self.turn(turn))
        return state

    def stood(self, state: State, patch: Patch, share: Share) -> State:
        """``state`` with one more turn on it."""
        delta = self.body.delta(state.weights | patch.tensors, list(share.after.layers))
        return state.without(share.taken).settle(patch, delta, share)

    @property
    def state_file(self) -> Path:
        return self.folder / STATE / str(self.store.get("state"))

    def keep(self, state: State) -> dict[str, str]:
        """Write ``state`` beside the one now; what makes it the ledger's, in the transaction: ``stand``."""
        name = f"{place_of(state.turns[-1]) if state.turns else 'base'}-{len(state.turns)}.safetensors"
        state.save(self.folder / STATE / name)
        return {"file": name, "sha256": sha256(self.folder / STATE / name)}

    def turn_folder(self, turn: str) -> Path:
        return self.folder / TURNS / place_of(turn)

    def put(self, patch: Patch, share: Share) -> str:
        """Write a turn's folder, whole; the hash of its share."""
        place = self.turn_folder(patch.id)
        if place.exists():  # of the same turn, killed before the database knew of it
            shutil.rmtree(place)
        with new_folder(place) as folder:
            patch.save(folder)
            share.save(folder / SHARE)
        return sha256(place / SHARE)

    def turn(self, turn: str) -> tuple[Patch, Share]:
        """UnseeError: gone, damaged, or another one."""
        patch = Patch.load(self.turn_folder(turn))
        if patch.id != turn:
            place = self.turn_folder(turn)
            raise UnseeError(f"'{place}' holds another patch than the ledger's. Restore it from a copy.")
        return patch, Share.load(self.turn_folder(turn) / SHARE)

    def neutral(self) -> list[Concept]:
        return self._folder("neutral")

    def exemplars(self) -> list[Concept]:
        """Retained images that every request is shown, where there are any."""
        return self._folder("exemplars") if self.store.get("exemplars") else []

    def _folder(self, name: str) -> list[Concept]:
        """UnseeError: it is not as it was when the ledger was made."""
        noted = self.store.get(name)
        concepts = list(read_folder(noted["path"]).concepts)
        if runs.fingerprint_images(concepts) != noted["images"]:
            raise UnseeError(
                f"the images in '{noted['path']}' are not those that the ledger was made with, so the same request "
                f"would have another result. Put them back."
            )
        return concepts

    def config_of(self, entry: Entry) -> LedgerConfig:
        changed: dict[str, Any] = dict(entry.changed)
        return replace(self.config, **changed)


def create(
    folder: Path,
    model: str,
    neutral: Path,
    retain: Path | None,
    statistics: Path | None,
    exemplars: Path | None,
    config: LedgerConfig,
    revision: str | None = None,
    trust: bool = False,
    device: str = "cpu",
) -> State:
    """A new ledger: what is to stay, by its images or its statistics, and the model it stands on."""
    from unsee import api
    from unsee.vision.module import load_visual

    given = {"neutral": neutral, "exemplars": exemplars}
    folders = {name: {"path": str(path.resolve()), "images": _images(path)} for name, path in given.items() if path}
    split(read_folder(neutral).concepts)  # refuses too few
    visual = load_visual(model, revision, trust, device)
    retained = list(read_folder(retain).concepts) if retain else []
    moments = Moments.load(statistics) if statistics else api.statistics(visual, None, retained, config)
    state = State(moments, Settled.empty(), {})
    Body(visual, state)  # refuses statistics of another model
    with new_folder(folder, private=True) as new:
        for room in (STATE, TURNS):
            (new / room).mkdir()
        (new / LOCK).touch()
        state.save(new / BASE)
        shutil.copyfile(new / BASE, new / STATE / BASE)
        store = Store.create(new)
        with store.writing():
            where = str(Path(model).resolve()) if Path(model).is_dir() else model
            commit = visual.checkpoint.revision if visual.checkpoint else None
            settings = {"model": where, "revision": commit, "trust": trust, "device": device, "exemplars": None}
            for name, value in (settings | folders | {"config": asdict(config), "state": BASE}).items():
                store.put(name, value)
            store.retain([sha256(path_of(i)) for c in retained for i in c.images])
            store.note(
                "", "begun", base=state.base, state=sha256(new / BASE), config=asdict(config), versions=versions(),
                images={name: noted["images"] for name, noted in folders.items()}, retained=moments.images,
            )  # fmt: skip
        store.tidy()
        store.close()
    return state


def _images(path: Path) -> dict[str, Any]:
    return runs.fingerprint_images(read_folder(path).concepts)


def versions() -> dict[str, str]:
    import torch
    import transformers

    return {"unsee": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


def path_of(image: Any) -> Path:
    """Of an image that ``read_folder`` found."""
    return Path(image.path)


def place_of(turn: str) -> str:
    """Name of a turn's folder: enough of its patch's id."""
    return turn[:16]
