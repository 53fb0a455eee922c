"""The folder of a ledger: its database, its state, the patches, and the lock that lets one process write.

ledger.db, head.json    requests, settings and the log; the hash of the log's last line
state/                  one file: what is kept of all requests so far
base.safetensors        the same before the first request
turns/ID/               patch and share of each turn that stands on the base
work/                   where an interrupted turn goes on
"""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from unsee import __version__, hub, runs
from unsee.concepts import Concept
from unsee.config import LedgerConfig
from unsee.data.folder import read_folder
from unsee.embedded import EMBEDDED
from unsee.errors import UnseeError
from unsee.files import locked, new_folder, sha256, sweep
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled
from unsee.ledger.body import Body
from unsee.ledger.facts import seal, seal_settings
from unsee.ledger.log import faults
from unsee.ledger.measure import split
from unsee.ledger.retold import Retold
from unsee.ledger.rows import differences
from unsee.ledger.state import Share, State
from unsee.ledger.store import HEAD, Entry, Store
from unsee.untrusted import read_json
from unsee.vision.patch import FILE as PATCH
from unsee.vision.patch import Patch

BASE, STATE, TURNS, WORK, LOCK = "base.safetensors", "state", "turns", "work", "lock"
SHARE = "share.safetensors"
OUR_TURN = re.compile("[0-9a-f]{16}")
OUR_STATE = re.compile(r"base\.safetensors|(?:base|[0-9a-f]{16})-\d+\.safetensors")
MOST = 2**53  # of a number in the settings
# settings that older ledgers do not name, and what they did
UNSAID: dict[str, Any] = {"attention": True, "lookalikes": 0, "leave": 0.0, "crowd": 0, "max_step_drift": 0.0}


class Ledger:
    """An open ledger. Whatever writes does so within ``alone``.

    ``reading``: nothing is to be written; ``trust``: run code that the model brings along, which only the person says
    who runs it, and no file.
    """

    def __init__(self, folder: Path, reading: bool = False, trust: bool = False) -> None:
        self.folder, self.store, self.trust = folder, Store(folder, reading), trust
        self.config = _config(self.store.get("config"))
        self._told: tuple[str, Retold] | None = None

    @cached_property
    def body(self) -> Body:
        """The visual module, loaded when it is first needed."""
        return Body.load(*self.model(), self.trust, str(self.store.get("device")), self.state())

    def model(self) -> tuple[str, str | None]:
        """Where the base is: a folder, or a hub name and its commit. UnseeError: it would have to be fetched."""
        model, revision = self.store.get("model"), self.store.get("revision")
        if not isinstance(model, str) or not (revision is None or isinstance(revision, str)):
            raise UnseeError(f"the ledger '{self.folder}' names no model. Restore it from a copy.")
        if Path(model).is_absolute() or model in EMBEDDED or hub.at_hand(model, revision):
            return model, revision
        if not hub.NAME.fullmatch(model) or not revision:
            raise UnseeError(f"the ledger's model is '{model[:200]}', no whole path and no commit of the hub's.")
        raise UnseeError(
            f"the ledger's model is '{model}' of the hub, commit {revision}, which is not on this machine. A ledger "
            f"fetches none. Where you trust it: unsee inspect --model {model} --revision {revision}"
        )

    def told(self) -> Retold:
        """What the log says of rows and files."""
        last = self.store.last()
        if self._told is None or last is None or self._told[0] != last.hash:
            self._told = (last.hash if last else "", Retold(self.store.lines()))
        return self._told[1]

    def faults(self) -> list[str]:
        """What is wrong with the database: its log, and rows that are not what the log adds up to."""
        with self.store.snapshot():
            lines = self.store.lines()
            if not lines:
                return ["the log is empty"]
            told = self.told()
            return [*faults(lines, self.head()), *told.found, *differences(self.store, told)]

    def head(self) -> tuple[int, str] | None:
        """The last line that was noted beside the database; None: it cannot be read."""
        try:
            head = read_json(self.folder / HEAD, 4096)
            return int(head["line"]), str(head["hash"])
        except (UnseeError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def refuse_forged(self) -> None:
        """UnseeError: rows are not what the log adds up to. All that decides or leaves a ledger asks first."""
        if found := self.faults():
            more = f", and {len(found) - 1} more" if found[1:] else ""
            raise UnseeError(
                f"the ledger '{self.folder}' is not what its log says: {found[0]}{more}. Nothing was done. All of it: "
                f"unsee requests audit. Restore the ledger from a copy."
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within: no other process writes to this ledger. What is in no use is removed, such as
        what a killed one left half done."""
        with locked(self.folder / LOCK, "ledger"):
            self.refuse_forged()
            try:
                self._sweep()
                yield
                self._sweep()
            finally:
                self.store.tidy()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within: nobody writes; others may read too."""
        with locked(self.folder / LOCK, "ledger", shared=True):
            yield

    def _sweep(self) -> None:
        """Remove files of ours that the database knows nothing of. What others put there stays, and audit names it."""
        for room in (self.folder / TURNS, self.folder / STATE):
            room.mkdir(mode=0o700, exist_ok=True)
        for room in (self.folder, self.folder / TURNS, self.folder / STATE):
            sweep(room)
        known = {place_of(e.turn) for e in self.store.entries() if e.turn}
        known |= {place_of(t) for t in self.store.turns()}
        for path in (self.folder / TURNS).iterdir():
            if path.name not in known and OUR_TURN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        for path in (self.folder / STATE).iterdir():
            if path.name != self.store.get("state") and OUR_STATE.fullmatch(path.name) and path.is_file():
                path.unlink()

    def state(self) -> State:
        """UnseeError: it is damaged, or not of the patches that stand on the base."""
        wanted = self.told().kept or self.told().begun.get("state")
        as_logged(self.state_file, wanted, "the state is not the one that the log says was kept last")
        state = State.load(self.state_file)
        if list(state.turns) != self.store.turns():
            raise UnseeError(f"'{self.state_file}' is not the state of this ledger's patches. Restore it from a copy.")
        return state

    def base(self) -> State:
        """The state before the first request."""
        wanted = self.told().begun.get("state")
        as_logged(self.folder / BASE, wanted, f"{BASE} is not the state that the log begins with")
        return State.load(self.folder / BASE)

    def fold(self, turns: Sequence[str]) -> State:
        """The state after ``turns``, from the base on: the same bits as when they were done."""
        state = self.base()
        for turn in turns:
            state = self.stood(state, *self.turn(turn))
        return state

    def stood(self, state: State, patch: Patch, share: Share) -> State:
        """``state`` with one more turn on it."""
        delta = self.body.delta(state.weights | patch.tensors, list(share.after.layers))
        return state.without(share.taken).settle(patch, delta, share)

    @property
    def state_file(self) -> Path:
        return self.folder / STATE / self.told().state_file

    def keep(self, state: State) -> dict[str, str]:
        """Write ``state`` beside the one now; what makes it the ledger's, in the transaction: ``stand``."""
        name = f"{place_of(state.turns[-1]) if state.turns else 'base'}-{len(state.turns)}.safetensors"
        state.save(self.folder / STATE / name)
        return {"file": name, "sha256": sha256(self.folder / STATE / name)}

    def turn_folder(self, turn: str) -> Path:
        return self.folder / TURNS / place_of(turn)

    def put(self, patch: Patch, share: Share) -> dict[str, str]:
        """Write a turn's folder, whole; the hashes of its files."""
        place = self.turn_folder(patch.id)
        if place.exists():  # of the same turn, killed before the database knew of it
            shutil.rmtree(place)
        with new_folder(place, private=True) as folder:
            patch.save(folder)
            share.save(folder / SHARE)
        return {"share": sha256(place / SHARE), "file": sha256(place / PATCH)}

    def turn(self, turn: str) -> tuple[Patch, Share]:
        """UnseeError: gone, damaged, or another one."""
        place, told = self.turn_folder(turn), self.told()
        for file, hashes, what in ((PATCH, told.patches, "patch"), (SHARE, told.shares, "share")):
            if file == SHARE or turn in hashes:  # older lines do not say it of patches
                wrong = f"'{place / file}' is not the {what} that the log says was kept"
                as_logged(place / file, hashes.get(turn), wrong)
        patch = Patch.load(place)
        if patch.id != turn:
            raise UnseeError(f"'{place}' holds another patch than the ledger's. Restore it from a copy.")
        return patch, Share.load(place / SHARE)

    def neutral(self) -> list[Concept]:
        return self._folder("neutral")

    def exemplars(self) -> list[Concept]:
        """Retained images that every request is shown, where there are any."""
        return self._folder("exemplars") if self.store.get("exemplars") else []

    def _folder(self, name: str) -> list[Concept]:
        """UnseeError: it is not as it was when the ledger was made."""
        noted = self.store.get(name)
        if not isinstance(noted, dict) or not isinstance(noted.get("path"), str):
            raise UnseeError(
                f"the ledger '{self.folder}' lacks the place of its {name} images. Restore it from a copy."
            )
        concepts = list(read_folder(noted["path"]).concepts)
        if runs.fingerprint_images(concepts) != noted.get("images"):
            raise UnseeError(
                f"the images in '{noted['path']}' are not those that the ledger was made with, so the same request "
                f"would have another result. Put them back."
            )
        return concepts

    def config_of(self, entry: Entry) -> LedgerConfig:
        return _config(asdict(self.config) | entry.changed)


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
            settings = {"model": where, "revision": commit, "device": device, "exemplars": None} | folders
            for name, value in (settings | {"config": asdict(config), "state": BASE}).items():
                store.put(name, value)
            hashes = sorted({sha256(path_of(i)) for c in retained for i in c.images})
            store.retain(hashes)
            store.note(
                "", "begun", base=state.base, state=sha256(new / BASE), config=asdict(config), versions=versions(),
                images={name: noted["images"] for name, noted in folders.items()}, retained=moments.images,
                settings=seal_settings(settings), retained_rows=seal(hashes),
            )  # fmt: skip
        store.tidy()
        store.close()
    return state


def _config(found: Any) -> LedgerConfig:
    """Settings as a database has them; those that it does not name are as they were then. UnseeError: they are none."""
    known = asdict(LedgerConfig())
    if not isinstance(found, dict) or found.keys() - known.keys():
        raise UnseeError("the ledger has settings that this unsee does not know. A newer one may have made it.")
    for name, value in found.items():
        kinds = (int, float) if type(known[name]) is float else (type(known[name]),)
        if type(value) not in kinds or (type(value) is not str and not math.isfinite(value)):
            raise UnseeError(f"the ledger's setting {name} is {repr(value)[:60]}. Restore it from a copy.")
        if type(value) is int and not -MOST <= value <= MOST:
            raise UnseeError(f"the ledger's setting {name} is {value}; at most {MOST} makes sense.")
    return LedgerConfig(**(UNSAID | found))


def as_logged(file: Path, wanted: Any, wrong: str) -> None:
    """UnseeError ``wrong``: a file is not there, not a plain one, or has other bytes than the log says."""
    try:
        whole = stat.S_ISREG(os.lstat(file).st_mode) and sha256(file) == wanted
    except OSError as error:
        raise UnseeError(f"{wrong}: {error.strerror}. Restore it from a copy.") from error
    if not whole:
        raise UnseeError(f"{wrong}. Restore it from a copy.")


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
