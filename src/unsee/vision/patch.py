"""A patch: the tensors that forgetting changed, as they lie on disk, and what they were made from. Nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unsee.errors import UnseeError
from unsee.files import new_file, new_folder, write_json
from unsee.progress import progress, say
from unsee.vision.checkpoint import INDEX, OTHER_FORMATS, SINGLE, Checkpoint, module_names

VERSION = 3
FILE = "patch.safetensors"
RECORD = "unsee.json"  # in a patched checkpoint: which patches lie in it, in their order


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values as float32: the same for every dtype the values are exact in."""
    data = tensor.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(data.numpy().data).hexdigest()


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

    @property
    def id(self) -> str:
        """What it changes, and from what to what, in one hash."""
        lines = "\n".join(f"{n} {self.base[n]} {tensor_hash(t)}" for n, t in sorted(self.tensors.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def save(self, folder: Path | str) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        header = {"version": VERSION, "id": self.id, "base": self.base, "info": self.info}
        with new_file(folder / FILE) as file:
            save_file(
                {k: v.contiguous() for k, v in self.tensors.items()}, file, metadata={"unsee": json.dumps(header)}
            )

    @classmethod
    def load(cls, folder: Path | str) -> Patch:
        path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
        if not path.is_file():
            raise UnseeError(f"'{folder}' holds no patch. Give the folder patch/ that unsee forget wrote.")
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})["unsee"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (safe_open is no dict)
                version, base, info = header["version"], dict(header["base"]), dict(header["info"])
            if version != VERSION:
                raise ValueError(f"version {version}, this unsee reads {VERSION}")
            patch = cls(tensors, base, info)
            if base.keys() != tensors.keys() or patch.id != header["id"]:
                raise ValueError("its tensors are not those it was made with")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UnseeError(f"'{path}' is not a patch of unsee, or is damaged ({error}). Make it again.") from error
        return patch

    def revision(self, model: str | Path) -> str | None:
        """The commit of the hub's ``model`` that it was made from; None of another, and of a folder."""
        commit = self.info.get("revision") if self.info.get("model") == str(model) else None
        return str(commit) if commit else None

    def apply(self, model: Any) -> None:
        """Write the tensors into ``model``. UnseeError, and nothing is changed: another model than it was made from."""
        names, state = module_names(model, list(self.tensors)), model.state_dict()
        self.check({disk: state[module] for disk, module in names.items()})
        with torch.no_grad():
            for disk, value in self.tensors.items():
                state[names[disk]].copy_(value)

    def check(self, found: Mapping[str, Tensor]) -> None:
        """UnseeError: ``found``, by name on disk, is not what the patch was made from."""
        wrong = [n for n in self.tensors if n not in found or tensor_hash(found[n]) != self.base[n]]
        if not wrong:
            return
        if all(n in found and tensor_hash(found[n]) == tensor_hash(t) for n, t in self.tensors.items()):
            raise UnseeError("this patch lies in the checkpoint already: there is nothing to do.")
        raise UnseeError(
            f"the patch was made from another model: {len(wrong)} of {len(self.tensors)} tensors are not as they "
            f"were before it (first: {wrong[0]}). Apply it to the checkpoint it was made from."
        )


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


def apply_patch(model: str | Path, patch: str | Path, out: str | Path) -> list[str]:
    """Write the checkpoint ``model`` with ``patch`` in it to the new folder ``out``, byte for byte the same elsewhere.

    Shards that the patch does not touch are hard links. Returns the files that were left out: weights in other formats,
    which would hold what was forgotten. UnseeError before anything is written: another model, or no space.
    """
    loaded = Patch.load(patch)
    checkpoint = Checkpoint.stored(model, loaded.revision(model))
    record = _recorded(checkpoint, loaded)
    loaded.check({n: checkpoint.entry(n).read() for n in loaded.tensors if n in checkpoint.shards})
    checkpoint.complete()
    touched = {checkpoint.shards[n] for n in loaded.tensors}
    _room(checkpoint, out, touched)
    with new_folder(out) as folder:
        kept, left = _sorted_files(checkpoint)
        with progress("writing", len(kept)) as tick:
            for number, file in enumerate(kept):
                shard = file.suffix == ".safetensors"
                _place(checkpoint.folder / file, folder / file, link=shard and str(file) not in touched)
                if str(file) in touched:
                    _write(checkpoint, loaded, str(file), folder / file)
                tick(number + 1)
        write_json(folder / RECORD, {"patches": record})
    return [str(f) for f in left]


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
        found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {"patches": []}
        return [{"id": str(p["id"]), **p} for p in found["patches"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnseeError(f"'{record}' is damaged. Apply the patches again to the checkpoint without them.") from error


def _sorted_files(checkpoint: Checkpoint) -> tuple[list[Path], list[Path]]:
    """Files of the checkpoint to keep, and weights that no index names or that are in another format."""
    root = checkpoint.folder
    every = sorted(p.relative_to(root) for p in _walk(root))
    shards = set(checkpoint.shards.values())
    stale = {f for f in every if f.suffix in OTHER_FORMATS or (f.suffix == ".safetensors" and str(f) not in shards)}
    stale |= {f for f in every if f.name.endswith(".index.json") and f.name != INDEX}
    if INDEX not in map(str, every) and SINGLE not in shards:
        raise UnseeError(f"'{checkpoint.name}' changed while it was read.")
    return [f for f in every if f not in stale and str(f) != RECORD], sorted(stale)


def _walk(root: Path) -> Iterator[Path]:
    for path in root.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            yield from _walk(path)
        elif path.is_file() and not path.name.startswith("."):
            yield path


def _room(checkpoint: Checkpoint, out: str | Path, touched: set[str]) -> None:
    """UnseeError: no space for ``touched``; for all shards, where there can be no links to them."""
    place = Path(out).absolute().parent
    while not place.exists():
        place = place.parent
    shards = [(f, (checkpoint.folder / f).stat()) for f in sorted(set(checkpoint.shards.values()))]
    wanted = sum(s.st_size for f, s in shards if f in touched or s.st_dev != place.stat().st_dev)
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise UnseeError(
            f"the patched checkpoint takes {wanted / 2**30:.1f} GiB and '{place}' has {free / 2**30:.1f} free. "
            f"Make room, or give --out elsewhere."
        )


def _place(source: Path, target: Path, link: bool) -> None:
    """A hard link of a shard, whose bytes nobody changes in place; a copy of what a program may rewrite."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()  # the hub's cache holds links
    if link:
        try:
            os.link(real, target)
            return
        except OSError:  # another file system, or one without links
            say(f"copying {source.name}: it cannot be linked there")
    shutil.copyfile(real, target)


def _write(checkpoint: Checkpoint, patch: Patch, file: str, target: Path) -> None:
    """The patch's bytes where the old ones lay, in a copy of a shard: its header and every other byte stay."""
    with target.open("r+b") as opened:
        for name, tensor in patch.tensors.items():
            entry = checkpoint.entry(name)
            if entry.file.name == file:
                if tuple(tensor.shape) != entry.shape:
                    raise UnseeError(f"{name} has another shape in the patch. Apply it to what it was made from.")
                opened.seek(entry.start)
                opened.write(_bytes(tensor.to(entry.dtype)).numpy().data)
        opened.flush()
        os.fsync(opened.fileno())
