"""All traffic with the Hugging Face Hub: a model's files come in, a patch goes out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from importlib import resources
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from unsee.config import ForgetConfig
from unsee.errors import UnseeError
from unsee.progress import progress
from unsee.untrusted import read_json, shown

if TYPE_CHECKING:
    from unsee.vision.patch import Patch

SMALL = ("*.json", "*.txt", "*.model", "*.jinja")  # all but weights: settings, tokenizers, templates
EXAMPLE = "llava-hf/llava-1.5-7b-hf"
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
PATCH = "patch/patch.safetensors"  # of a run, and of a repository
OPAQUE = re.compile(r"[0-9a-f][0-9a-f-]{7,}")  # a hash or a UUID: an id that tells nobody who is meant
PLACE = re.compile(r'"(/|~|\.\.?/|\\\\|[A-Za-z]:[\\/])')  # how a path starts, in JSON
INFO = ("method", "config", "forgotten", "model", "revision", "turns", "release_check")  # what a patch says of itself
VERDICT = ("forgotten", "kept")  # of its release check
TENSOR, WORD = re.compile(r"[\w.-]{1,300}", re.ASCII), re.compile(r"[\w.|*-]{0,200}", re.ASCII)
STOPPED = re.compile(  # what a run says of its end; other words are somebody else's
    r"held-back views show \d+ %( of their identity after (\d+ steps|one solve of the last layer))?"
    r"(, \d+ % of the concept that shows most; --most-left is \d+ %)?"
)
METRICS_CAP = 64 * 2**20  # bytes
TEMPLATE = resources.files("unsee") / "report" / "card.md.j2"
FULL = tuple(os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT))


def small_files(name: str, revision: str | None = None, code: bool = False) -> tuple[Path, str]:
    """Bring a repository without its weights to the hub's cache: its folder there, and the commit.

    ``code``: Python files too. Nobody has read them.
    """
    from huggingface_hub import snapshot_download

    wanted = [*SMALL, "*.py"] if code else list(SMALL)
    with _told(partial(_not_brought, name, revision)):
        folder = snapshot_download(name, revision=revision, allow_patterns=wanted, tqdm_class=_bar())
    return Path(folder), Path(folder).name


def files(name: str, revision: str | None = None) -> list[str]:
    """Names of all files of the repository, those of weights too."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    folder, commit = small_files(name, revision)
    try:
        return sorted(f.path for f in get_cached_repo_tree(name, revision=commit))
    except CachedRepoTreeNotFoundError:  # offline, and something else filled the cache: what it left there
        return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def at_hand(name: str, revision: str | None) -> bool:
    """Whether somebody has brought this commit to the hub's cache before."""
    from huggingface_hub import try_to_load_from_cache

    if not NAME.fullmatch(name) or not revision:
        return False
    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def fetch(name: str, revision: str, filenames: Sequence[str]) -> Path:
    """Bring these files, one at least, of a commit to the hub's cache; returns the folder they are in.

    Whole files stay when the call is interrupted: the next one goes on with those that are missing.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    with _told(partial(_not_brought, name, revision)):
        missing = [f for f in filenames if not isinstance(try_to_load_from_cache(name, f, revision=revision), str)]
        if missing:
            with progress("downloading", len(missing)) as tick:
                for done, file in enumerate(missing):
                    bar = _bar(partial(_share, tick, done, file))
                    hf_hub_download(name, file, revision=revision, tqdm_class=bar)
                    tick(done + 1)
        first = hf_hub_download(name, filenames[0], revision=revision)
    return Path(first).parents[filenames[0].count("/")]


def push(run: Path, repo: str, *, private: bool = True) -> str:
    """Upload the patch of ``run``, and a card, to the user's model repository ``repo``; returns its address.

    Nothing else of the run goes out: its other files can hold names, paths and statistics of images. The patch is
    written anew from what was checked of it, so that its file holds nothing else.
    """
    if not NAME.fullmatch(repo):
        raise UnseeError(f"'{shown(repo)}' is no name of a repository. Give OWNER/NAME, such as {EXAMPLE}.")
    patch, figures = _read_run(run)
    from huggingface_hub import HfApi

    api = HfApi()
    with TemporaryDirectory() as folder, _told(partial(_not_sent, repo)):
        patch.save((Path(folder) / PATCH).parent)
        readme = card({"base": patch.base, "info": patch.info}, figures)
        (Path(folder) / "README.md").write_text(readme, encoding="utf-8")
        url = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UnseeError(f"'{repo}' exists and everybody can read it. Name another one, or ask for a public one.")
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[PATCH, "README.md"],
            commit_message="Upload a patch of unsee",
        )
    return str(url)


def card(header: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The README.md of a patch. ``header``: the patch's; ``figures``: metrics.json of its run."""
    from huggingface_hub import ModelCard, ModelCardData

    info, base = header["info"], header["base"]
    model = str(info.get("model") or "")
    model = model if NAME.fullmatch(model) else ""  # a folder means nothing to others
    data = ModelCardData(
        base_model=model or None,
        base_model_relation="adapter" if model else None,  # of the hub's four, the one that needs its base
        library_name="unsee",
        tags=["machine-unlearning", "multimodal"],
    )
    drifts = list(figures.get("certificates", {}).values())
    text = ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        model=model,
        forgotten=info.get("forgotten", []),
        settings=yaml.safe_dump(info.get("config", {}), sort_keys=False).strip(),
        stopped=figures.get("stopped", ""),
        steps=len(figures.get("history", [])),
        drift={"largest": max(drifts), "mean": sum(drifts) / len(drifts)} if drifts else None,
        tensors=len(base),
        fingerprint=hashlib.sha256("\n".join(f"{n} {h}" for n, h in sorted(base.items())).encode()).hexdigest(),
    )
    return str(text)


def _read_run(run: Path) -> tuple[Patch, dict[str, Any]]:
    """The run's patch and its figures. UnseeError: it is no run, or would tell who is forgotten, or bring it back."""
    from unsee.vision.patch import Patch

    for name in (PATCH, "metrics.json"):
        if not (run / name).is_file():
            raise UnseeError(
                f"'{shown(run)}' is no run: it has no {name}. Give the folder that unsee forget --out wrote."
            )
    patch = Patch.load(run / PATCH)
    if not patch.tensors or "undoes" in patch.info:
        what = "brings back what a run forgot" if patch.tensors else "changes nothing"
        raise UnseeError(f"the patch of '{shown(run)}' {what}. Give the folder that unsee forget --out wrote.")
    if told := _telling(patch):
        raise UnseeError(
            f"the patch of '{shown(run)}' holds {told}, which would go out with it. Make the run again: patches hold "
            f"ids now."
        )
    return patch, _figures(run / "metrics.json")


def _telling(patch: Patch) -> str:
    """What in a patch may say who is forgotten or where something lies; empty: there are settings and ids alone."""
    info, config = patch.info, patch.info.get("config", {})
    if PLACE.search(json.dumps([info, patch.base])):
        return "a path of this machine"
    if named := [i for i in info.get("forgotten", []) if not OPAQUE.fullmatch(i)]:
        return f"a name ('{shown(named[0])[:100]}')"
    if odd := [key for key in info if key not in INFO]:
        return f"'{shown(odd[0])[:100]}', which no patch has"
    known = {f.name for f in fields(ForgetConfig)}
    if not isinstance(config, dict) or not config.keys() <= known or not all(map(_setting, config.values())):
        return "a setting that unsee forget does not have"
    check = info.get("release_check", {})
    if not isinstance(check, dict) or any(k not in VERDICT or not isinstance(v, bool) for k, v in check.items()):
        return "a release check that unsee forget does not write"
    if odd := [name for name in patch.tensors if not TENSOR.fullmatch(name)]:
        return f"a tensor with the name '{shown(odd[0])[:100]}'"
    return ""


def _setting(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and bool(WORD.fullmatch(value)))


def _figures(file: Path) -> dict[str, Any]:
    """Of metrics.json what a card shows. UnseeError: it is damaged, or holds words of somebody else."""
    found = read_json(file, METRICS_CAP)
    stopped = found.get("stopped", "") if isinstance(found, dict) else None
    drifts = found.get("certificates", {}) if isinstance(found, dict) else None
    history = found.get("history", []) if isinstance(found, dict) else None
    numbers = isinstance(drifts, dict) and all(type(d) in (int, float) and isfinite(d) for d in drifts.values())
    if not numbers or not isinstance(history, list) or not isinstance(stopped, str):
        raise UnseeError(f"'{shown(file)}' is damaged: it has not the figures of a run. Make the run again.")
    if found.get("forgotten") is False:
        raise UnseeError(f"what '{shown(file.parent)}' was to forget has not left: its patch must not be released.")
    if found.get("kept") is False:
        raise UnseeError(f"what '{shown(file.parent)}' was to keep has moved too far: its patch must not be released.")
    return {"stopped": stopped if STOPPED.fullmatch(stopped) else "", "certificates": drifts, "history": history}


def _bar(tell: Callable[[float], None] | None = None) -> type:
    """A progress bar for the hub that shows nothing, for there is one already, but tells which share is done."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if tell and self.total:
                tell(self.n / self.total)

    return Bar


def _share(tick: Callable[[int, str], None], done: int, file: str, share: float) -> None:
    tick(done, f"{file} {share:.0%}")


@contextmanager
def _told(why: Callable[[Exception], str]) -> Iterator[None]:
    """What the hub, or the way to it, says no to, as one error."""
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    try:
        yield
    except (HTTPError, EntryNotFoundError, HFValidationError, OSError, RuntimeError) as error:  # Runtime: hf_xet's
        raise UnseeError(why(error)) from error


def _not_brought(name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants, errors

    takes = f"unsee takes a folder or a hub name such as {EXAMPLE}"
    page = f"https://huggingface.co/{name}"
    if isinstance(error, errors.HFValidationError):
        return f"'{name}' is no folder, and cannot be a name on the hub. {takes}."
    if isinstance(error, errors.GatedRepoError):
        return f"'{name}' is gated. Accept its licence on {page} and log in: hf auth login."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"'{name}' is no folder, and no model on the hub. {takes}. If it is private, log in: hf auth login."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"'{name}' has no revision '{revision}'. Give a branch, a tag or a commit: {page}/commits/main."
    if isinstance(error, errors.LocalEntryNotFoundError):
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        away = f"the hub cannot be reached: {_first(error.__cause__ or error)}"
        return (
            f"'{name}' is no folder, and not, or not whole, in the hub's cache {constants.HF_HUB_CACHE}; "
            f"{'HF_HUB_OFFLINE is set' if offline else away}. Go online once, or give a folder."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"'{name}' lacks a file: {_first(error, 'Entry')}. Its repository is incomplete: take another revision."
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"the hub does not let you read '{name}'. Log in with a token that may: hf auth login."
    if any(text in str(error) for text in FULL):
        return f"no space for '{name}' in {constants.HF_HUB_CACHE}. Free some, or set HF_HOME to a folder with more."
    return f"'{name}' could not be downloaded: {_first(error)}. Give the same command again: files that are whole stay."


def _not_sent(repo: str, error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return f"nothing can be sent to '{repo}': HF_HUB_OFFLINE is set. Unset it."
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        return f"the hub does not let you write to '{repo}'. Log in with a token that may: hf auth login."
    return f"the patch could not be sent to '{repo}': {_first(error)}. Give the same command again."


def _first(error: BaseException, start: str = "") -> str:
    """The first line of its message, of those that begin so."""
    lines = [line for line in str(error).splitlines() if line.startswith(start)]
    return (lines[0] if lines else type(error).__name__).rstrip(". ")
