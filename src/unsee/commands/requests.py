"""Requests that arrive one after another: a ledger of what was asked, forgotten, verified and released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from unsee.commands.shared import Device, device_of
from unsee.config import LedgerConfig
from unsee.errors import NOT_TO_RELEASE, UnseeError
from unsee.files import refuse_existing
from unsee.memory import steady_memory
from unsee.progress import alarm, tell

if TYPE_CHECKING:
    from unsee.ledger.book import Ledger

Ids = tyro.conf.Positional[tuple[str, ...]]
ASIDE = {"left": "left", "retained": "retained", "heldout": "held out", "earlier": "earlier", "age": "age"}


def init(
    *,
    ledger: Path,
    model: str,
    neutral: Path,
    retain: Path | None = None,
    statistics: Path | None = None,
    exemplars: Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: Device = "auto",
    config: LedgerConfig,
) -> None:
    """Make a ledger for a model: requests then arrive one after another, and its settings hold for all of them.

    Args:
        ledger: new folder
        model: folder of the multimodal checkpoint, or its hub name
        neutral: the same kind of picture as requests have, of concepts the model was not taught; stays there
        retain: images of what is to stay, DIR/<concept>/*.jpg; not needed afterwards
        statistics: instead: file made by `unsee statistics`, of images that no request will ask for
        exemplars: retained images that every request is shown too; they stay there
        revision: branch, tag or commit of a hub name
        trust_remote_code: run code that the checkpoint brings along; each command that loads it is told so anew
        device: where the visual module runs; auto: a GPU where there is one
    """
    refuse_existing(ledger)
    if (retain is None) == (statistics is None):
        raise UnseeError("what is to stay? Give --retain DIR or --statistics FILE, one of the two.")
    steady_memory(model)
    from unsee.ledger.book import create

    made = create(
        ledger, model, neutral, retain, statistics, exemplars, config, revision, trust_remote_code,
        device_of(device),
    )  # fmt: skip
    tell(f"{ledger}: a ledger on {made.retained.images} retained images, {len(made.retained.layers)} layers train")


def add(*, ledger: Path, images: Path) -> None:
    """Take a request in. Its images are only referred to, until it is released.

    Args:
        ledger: folder that `unsee requests init` wrote
        images: images to forget, DIR/<concept>/*.jpg; one request, however many concepts
    """
    opened = _open(ledger)
    from unsee.ledger import requests

    tell(f"{requests.add(opened, images)}: received")


def list_requests(*, ledger: Path) -> None:
    """List the requests with their states and figures.

    Args:
        ledger: folder that `unsee requests init` wrote
    """
    opened = _open(ledger, reading=True)
    from unsee.ledger.requests import figures_of

    opened.refuse_forged()
    entries = opened.store.entries()
    for entry in entries:
        figures = figures_of(opened, entry.id)
        tell("  ".join([entry.id, f"{entry.state:<11}", *_told(figures)]))
    if not entries:
        tell("no request yet: unsee requests add")


def run(
    *,
    ledger: Path,
    together: bool = False,
    parked: bool = False,
    most_left: float | None = None,
    most_retained: float | None = None,
    most_heldout: float | None = None,
    most_earlier: float | None = None,
    trust_remote_code: bool = False,
) -> int:
    """Forget all that waits, and verify it. Give it again after an interruption, at any moment: it goes on.

    Exits with 3 where a request is parked: what it asked for has not left, or too much else moved.

    Args:
        ledger: folder that `unsee requests init` wrote
        together: one patch for all that was received, instead of one for each
        parked: take up parked requests too, with the tolerances given here
        most_left: of parked requests, in place of the ledger's
        most_retained: of parked requests, in place of the ledger's
        most_heldout: of parked requests, in place of the ledger's
        most_earlier: of parked requests, in place of the ledger's
        trust_remote_code: run code that the model brings along
    """
    given = {
        "most_left": most_left, "most_retained": most_retained, "most_heldout": most_heldout,
        "most_earlier": most_earlier,
    }  # fmt: skip
    tolerances = {k: v for k, v in given.items() if v is not None}
    if tolerances and not parked:
        raise UnseeError("tolerances are the ledger's, except for requests that were parked: give --parked too.")
    if any(v <= 0 for v in tolerances.values()):
        raise UnseeError("a tolerance must be above 0.")
    opened = _open(ledger, trust=trust_remote_code)
    from unsee.ledger import requests

    steady_memory(opened.model()[0])
    done = requests.run(opened, together, parked, **tolerances)
    for entry in done:
        tell(f"{entry.id}: {entry.state}{_why(opened, entry.id) if entry.state == 'parked' else ''}")
    if not done:
        tell("nothing waits")
    return _parked([entry.id for entry in done if entry.state == "parked"])


def _parked(ids: Sequence[str]) -> int:
    """Say which requests are not forgotten; the exit code."""
    if ids:
        alarm(
            f"{len(ids)} request(s) are parked: {', '.join(ids)}. Their patches are not on the model, which still "
            f"shows what they asked to forget. Take them up with other tolerances: unsee requests run --parked "
            f"--most-left …",
            head="not forgotten: ",
        )
    return NOT_TO_RELEASE if ids else 0


def _why(opened: Ledger, request: str) -> str:
    wrong = opened.store.lines(request)[-1].body["why"]
    return f", {', '.join(ASIDE[w] for w in wrong)} over its tolerance; unsee requests list shows the figures"


def release(ids: Ids = (), *, ledger: Path, despite: bool = False) -> None:
    """Release verified requests: they are served from here on, and the ledger lets go of where their images lie.

    Args:
        ids: requests; none given: all that are verified
        ledger: folder that `unsee requests init` wrote
        despite: also where figures that were measured again are over their tolerance
    """
    opened = _open(ledger)
    from unsee.ledger.release import release

    done = release(opened, ids, despite)
    tell(*(f"{id}: released" for id in done))
    if not done:
        tell("nothing is verified and waits for release")


def verify(*, ledger: Path, trust_remote_code: bool = False) -> int:
    """Measure all requests again at the weights that stand now; figures of features, no language model.

    Exits with 3 where a figure is over its tolerance.

    Args:
        ledger: folder that `unsee requests init` wrote
        trust_remote_code: run code that the model brings along
    """
    opened = _open(ledger, trust=trust_remote_code)
    from unsee.ledger.verify import over, verify

    found = verify(opened)
    tell(*("  ".join([id, *_told(figures)]) for id, figures in found.items()))
    wrong = {id: over(opened, id, figures) for id, figures in found.items()}
    said = [f"{id}: {', '.join(ASIDE[name] for name in names)}" for id, names in wrong.items() if names]
    if said:
        alarm(*said, "Release none of these; roll them back: unsee requests rollback.", head="over tolerance: ")
    return NOT_TO_RELEASE if said else 0


def rollback(id: tyro.conf.Positional[str], *, ledger: Path, trust_remote_code: bool = False) -> int:
    """Take a request back. Later ones are forgotten again, from their images or from statistics alone.

    Args:
        id: the request
        ledger: folder that `unsee requests init` wrote
        trust_remote_code: run code that the model brings along
    """
    opened = _open(ledger, trust=trust_remote_code)
    from unsee.ledger.rollback import rollback

    steady_memory(opened.model()[0])
    before = {e.id for e in opened.store.entries("parked")}
    tell(f"{id}: rolled back; {rollback(opened, id)}")
    return _parked([e.id for e in opened.store.entries("parked") if e.id not in before])


def replay(*, ledger: Path, trust_remote_code: bool = False) -> int:
    """Go on with a rollback that was interrupted: forget again what it put back.

    Args:
        ledger: folder that `unsee requests init` wrote
        trust_remote_code: run code that the model brings along
    """
    opened = _open(ledger, trust=trust_remote_code)
    from unsee.ledger.rollback import replay

    done = replay(opened)
    tell(*(f"{e.id}: {e.state}" for e in done))
    if not done:
        tell("nothing was put back")
    return _parked([e.id for e in done if e.state == "parked"])


def audit(*, ledger: Path, head: str = "") -> None:
    """Check the log, the patches, the state and the requests of a ledger, without an image.

    Args:
        ledger: folder that `unsee requests init` wrote
        head: end of the log as it was noted before, LINE:HASH: tells whether lines are gone from the end since
    """
    opened = _open(ledger, reading=True)
    from unsee.ledger.audit import audit, remarks

    found, end = audit(opened, head)
    if found:
        raise UnseeError(f"{len(found)} thing(s) are wrong with the ledger '{ledger}':", *(f"  {f}" for f in found))
    tell(f"{ledger}: whole, {len(opened.store.entries())} requests, {len(opened.store.turns())} patches")
    tell(*(f"to be known: {remark}" for remark in remarks(opened)))
    tell(f"end of the log, to be noted elsewhere: {end}")


def export(*, ledger: Path, out: Path, trust_remote_code: bool = False) -> None:
    """Write the checkpoint to serve, a certificate for each released request, and the log.

    Args:
        ledger: folder that `unsee requests init` wrote
        out: new folder for model/, patch/, certificates/ and log.jsonl
        trust_remote_code: run code that the model brings along, where it alone tells which tensors are visual
    """
    refuse_existing(out)
    opened = _open(ledger, reading=True, trust=trust_remote_code)
    from unsee.ledger.export import export

    done = export(opened, out)
    tell(f"{out / 'model'}: the checkpoint without what {len(done)} request(s) asked to forget")


def _open(ledger: Path, reading: bool = False, trust: bool = False) -> Ledger:
    from unsee.ledger.book import Ledger

    return Ledger(ledger, reading, trust)


def _told(figures: dict[str, float]) -> list[str]:
    return [f"{name} {figures[k]:.1%}" for k, name in ASIDE.items() if k in figures]
