"""A patch: the tensors that forgetting changed, as they lie on disk, and what they were made from. Nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unsee.errors import UnseeError
from unsee.files import new_file, new_folder, write_json
from unsee.progress import progress, say
from unsee.untrusted import read_json, shown
from unsee.vision.checkpoint import Checkpoint, module_names
from unsee.vision.copying import files_of, put, room
from unsee.vision.fitting import Header, language_names, other_model, read_head, refuse_endless, refuse_misfit

VERSION = 4  # of its file; 3, which is still read, has an id that does not tell dtypes and shapes apart
FILE = "patch.safetensors"
RECORD = "unsee.json"  # in a patched checkpoint: which patches lie in it, in their order


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values as float32: the same for every dtype the values are exact in."""
    data = tensor.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(data.numpy().data).hexdigest()


def bytes_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} ".encode())
    digest.update(_bytes(tensor.cpu()).numpy().data)
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """One hash for a set of named tensors, whatever their order."""
    lines = "\n".join(f"{name} {tuple(t.shape)} {tensor_hash(t)}" for name, t in sorted(tensors.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class Patch:
    """``tensors``: new values, named and typed as on disk. ``base``: hash of each before. ``info``: how it was made."""

    tensors: dict[str, Tensor]
    base: dict[str, str]
    info: dict[str, Any]
    version: int = VERSION

    @property
    def id(self) -> str:
        """What it changes, and from what to what, in one hash."""
        hashed = tensor_hash if self.version < VERSION else bytes_hash
        lines = "\n".join(f"{n} {self.base[n]} {hashed(t)}" for n, t in sorted(self.tensors.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def save(self, folder: Path | str) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        header = {"version": self.version, "id": self.id, "base": self.base, "info": self.info}
        with new_file(folder / FILE) as file:
            save_file(
                {k: v.contiguous() for k, v in self.tensors.items()}, file, metadata={"unsee": json.dumps(header)}
            )

    @classmethod
    def load(cls, folder: Path | str, fits: Callable[[Header], None] | None = None) -> Patch:
        """Read what ``save`` wrote. UnseeError: it is none, is damaged, or holds NaN or Inf.

        ``fits``: is shown the header before a tensor is read, and refuses what may not be by an UnseeError.
        """
        path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
        if not path.is_file():
            raise UnseeError(f"'{shown(folder)}' holds no patch. Give the folder patch/ that unsee forget wrote.")
        try:
            head = read_head(path, (VERSION - 1, VERSION))
            if fits:
                fits(head)
            tensors = {name: head.entries[name].read() for name in sorted(head.entries)}
            patch = cls(tensors, head.base, head.info, head.version)
            if patch.id != head.id:
                raise ValueError("its tensors are not those it was made with")
        except (OSError, ValueError) as error:
            why = shown(error)[:200]
            raise UnseeError(
                f"'{shown(path)}' is not a patch of unsee, or is damaged ({why}). Make it again."
            ) from error
        refuse_endless(patch.tensors)
        return patch

    def revision(self, model: str | Path) -> str | None:
        """The commit of the hub's ``model`` that it was made from; None of another, and of a folder."""
        return revision(self.info, model)

    def apply(self, model: Any, allow_language: bool = False) -> None:
        """Write the tensors into ``model``. UnseeError, and nothing is changed: another model than it was made from.

        ``allow_language``: tensors of its language model too, which no patch of ``forget`` changes.
        """
        names, state = module_names(model, list(self.tensors)), model.state_dict()
        found, language = {disk: state[module] for disk, module in names.items()}, language_names(model)
        visual = None if allow_language else {n for n in self.tensors if names.get(n) not in language}
        refuse_misfit(self.tensors, found, visual, typed=False)
        self.check(found)
        with torch.no_grad():
            for disk, value in self.tensors.items():
                state[names[disk]].copy_(value)
        torch.clear_autocast_cache()  # of a caller, whose autocast would go on with the weights of before

    def check(self, found: Mapping[str, Tensor]) -> None:
        """UnseeError: ``found``, by name on disk, is not what the patch was made from."""
        wrong = [n for n in self.tensors if n not in found or tensor_hash(found[n]) != self.base[n]]
        if not wrong:
            return
        if all(n in found and tensor_hash(found[n]) == tensor_hash(t) for n, t in self.tensors.items()):
            raise UnseeError("this patch lies in the checkpoint already: there is nothing to do.")
        raise other_model(wrong, len(self.tensors))


def make(before: Mapping[str, Tensor], after: Mapping[str, Tensor], info: dict[str, Any]) -> tuple[Patch, Patch]:
    """The patch from ``before`` to ``after`` (by name and in dtype as on disk), and the one that undoes it.

    Only tensors whose bytes differ are in it.
    """
    changed = [n for n in after if not torch.equal(_bytes(before[n]), _bytes(after[n]))]
    old, new = ({n: tensors[n] for n in changed} for tensors in (before, after))
    hashes = [{n: tensor_hash(t) for n, t in tensors.items()} for tensors in (old, new)]
    patch = Patch(new, hashes[0], info)
    return patch, Patch(old, hashes[1], {"undoes": patch.id})


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


@dataclass(frozen=True)
class Trust:
    """What the person who applies a patch takes upon them.

    ``code``: the checkpoint's own is run, where it alone tells which tensors are visual. ``language``: the patch may
    change tensors that are not visual, or of which nothing tells. ``failed``: it may have failed its release check.
    """

    code: bool = False
    language: bool = False
    failed: bool = False


NOTHING = Trust()
CHECK = "release_check"  # of ``Patch.info``


def checked(patch: Patch, forgotten: bool, kept: bool) -> Patch:
    """``patch`` with the verdict of the request that made it, so that it is not served by mistake."""
    return replace(patch, info={**patch.info, CHECK: {"forgotten": forgotten, "kept": kept}})


def refuse_failed(info: Mapping[str, Any]) -> None:
    """UnseeError: the request that made the patch ended with exit code 3. One that tells nothing of it passes."""
    if CHECK not in info:
        return
    check = info[CHECK] if isinstance(info[CHECK], Mapping) else {}
    failed = {"forgotten": "its target had not left", "kept": "what stays had moved too far"}
    if why := [what for key, what in failed.items() if check.get(key) is not True]:
        raise UnseeError(
            f"this patch must not be released: {', and '.join(why)}, and unsee forget ended with exit code 3. It said "
            f"what helps. To look at what the patch does all the same: unsee apply --allow-failed."
        )


def revision(info: Mapping[str, Any], model: str | Path) -> str | None:
    """The commit of the hub's ``model`` that a patch was made from; None of another, and of a folder."""
    return info.get("revision") or None if info.get("model") == str(model) else None


def open_both(model: str | Path, patch: str | Path, trust: Trust = NOTHING) -> tuple[Checkpoint, Patch]:
    """The checkpoint that the patch was made from, and the patch.

    UnseeError, before a tensor is read: it changes what it may not.
    """
    opened: list[Checkpoint] = []

    def fits(head: Header) -> None:
        if not trust.failed:
            refuse_failed(head.info)
        commit = revision(head.info, model)
        if commit:
            say(f"{shown(model)}: at commit {commit}, which the patch was made from")
        checkpoint = Checkpoint.stored(model, commit) if trust.language else _told_apart(model, commit, trust.code)
        if unknown := [n for n in sorted(head.entries) if n not in checkpoint.shards]:
            raise other_model(unknown, len(head.entries))
        named = {n: checkpoint.entry(n) for n in head.entries}
        refuse_misfit(head.entries, named, None if trust.language else checkpoint.visual)
        opened.append(checkpoint)

    loaded = Patch.load(patch, fits)
    return opened[0], loaded


def _told_apart(model: str | Path, commit: str | None, code: bool) -> Checkpoint:
    """With its own code beside its files, which is run only where ``code`` says so."""
    return Checkpoint.open(
        model, commit, code, bring=True,
        otherwise="or --allow-language-tensors, to take the patch without knowing which tensors are visual",
    )  # fmt: skip


def apply_patch(model: str | Path, patch: str | Path, out: str | Path, trust: Trust = NOTHING) -> dict[str, str]:
    """Write the checkpoint ``model`` with ``patch`` in it to the new folder ``out``, byte for byte the same elsewhere.

    Shards that the patch does not touch are hard links. Returns the files that were left out, and why: other weights,
    which would hold what was forgotten, and what is no file. UnseeError before anything is written: another model, a
    patch that changes what none should, or no space.
    """
    checkpoint, loaded = open_both(model, patch, trust)
    record = _recorded(checkpoint, loaded)
    loaded.check({n: checkpoint.entry(n).read() for n in loaded.tensors if n in checkpoint.shards})
    checkpoint.complete()
    touched = {checkpoint.shards[n] for n in loaded.tensors}
    room(checkpoint, out, touched)
    files = files_of(checkpoint)
    kept = {str(f): real for f, real in files.kept.items() if str(f) != RECORD}
    with new_folder(out) as folder:
        with progress("writing", len(kept)) as tick:
            for number, (file, real) in enumerate(kept.items()):
                put(real, folder / file, link=file.endswith(".safetensors") and file not in touched)
                if file in touched:
                    _write(checkpoint, loaded, file, folder / file)
                tick(number + 1)
        write_json(folder / RECORD, {"patches": record})
    return {str(f): why for f, why in files.left.items()}


def _recorded(checkpoint: Checkpoint, patch: Patch) -> list[dict[str, Any]]:
    """The patches in the checkpoint once this one is in it. UnseeError: it undoes one that is not the last."""
    found, undone = _patches(checkpoint.folder / RECORD), patch.info.get("undoes")
    if not undone:
        return [*found, {"id": patch.id, "forgotten": patch.info.get("forgotten", []), "tensors": len(patch.tensors)}]
    if undone not in [p["id"] for p in found]:
        raise UnseeError(
            f"what is to be undone is none of the {len(found)} patch(es) in '{checkpoint.name}'. Give the folder undo/ "
            f"of the run whose patch is the last in it."
        )
    if found[-1]["id"] != undone:
        raise UnseeError(
            f"what is to be undone is not the last patch of '{checkpoint.name}': undo later ones first, last first."
        )
    return found[:-1]


def _patches(record: Path) -> list[dict[str, Any]]:
    """The patches in a checkpoint, in their order."""
    try:
        found = read_json(record) if record.exists() else {"patches": []}
        return [{"id": str(p["id"]), **p} for p in found["patches"]]
    except (UnseeError, KeyError, TypeError) as error:
        raise UnseeError(f"'{shown(record)}' is damaged. Apply the patches again to the model without them.") from error


def _write(checkpoint: Checkpoint, patch: Patch, file: str, target: Path) -> None:
    """The patch's bytes where the old ones lay, in a copy of a shard: its header and every other byte stay."""
    with target.open("r+b") as opened:
        for name, tensor in patch.tensors.items():
            entry = checkpoint.entry(name)
            if entry.file.name == file:
                opened.seek(entry.start)
                opened.write(_bytes(tensor).numpy().data)
        opened.flush()
        os.fsync(opened.fileno())
