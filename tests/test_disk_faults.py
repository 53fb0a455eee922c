"""A disk that is full, read-only or another one: one clear line, exit code 2, and every byte stays in place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.faults import (  # noqa: F401  (fixtures: base, model, made)
    LANGUAGE,
    LOWER,
    SMALL,
    UPPER,
    apply_flags,
    forget_flags,
    given_base,
    given_model,
    given_run,
    refused,
    revert_flags,
    tree,
    weights,
)

from unsee.cli import main
from unsee.vision.folder import INDEX


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(source: Path, target: Path) -> None:
    """What a copy leaves when the disk fills up on the way."""
    if Path(target).suffix == ".safetensors":
        Path(target).write_bytes(Path(source).read_bytes()[:1000])
        no_space()
    Path(target).write_bytes(Path(source).read_bytes())


def test_too_little_space(model, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "new"), tmp_path)
    assert "the patched checkpoint takes" in said and "Make room, or give --out elsewhere" in said


def test_space_for_the_patched_shards_is_enough(base, made, tmp_path, monkeypatch):
    enough = (base / UPPER).stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, enough))
    assert main(apply_flags(base, made / "patch", tmp_path / "new")) == 0


def test_the_disk_fills_up_while_a_shard_is_copied(model, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.copyfile", half)
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "new"), tmp_path)
    assert "No space left on device. Nothing of it was left behind" in said and ".unsee-" not in said


def test_a_target_that_cannot_be_made(model, images, made, tmp_path, capsys, monkeypatch):
    def denied(path: str, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("os.mkdir", denied)
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "new"), tmp_path)
    assert f"could not write '{tmp_path / 'new'}': Permission denied" in said
    assert "cannot write beside" in refused(capsys, forget_flags(model, images, tmp_path / "run"), tmp_path)


def test_a_target_below_a_file(model, made, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = refused(capsys, apply_flags(model, made / "patch", tmp_path / "file" / "new"), tmp_path)
    assert "could not write" in said and "Not a directory" in said


def test_a_target_that_exists(model, made, tmp_path, capsys):
    assert "exists already" in refused(capsys, apply_flags(model, made / "patch", model), tmp_path)


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (RuntimeError, None)])
def test_an_apply_that_is_stopped_leaves_nothing(stop, code, model, made, tmp_path, monkeypatch):
    def stopped(*_: object) -> None:
        raise stop

    monkeypatch.setattr("unsee.vision.patch._write", stopped)
    before = tree(tmp_path)
    if code:
        assert main(apply_flags(model, made / "patch", tmp_path / "new")) == code
    else:
        with pytest.raises(stop):
            main(apply_flags(model, made / "patch", tmp_path / "new"))
    assert tree(tmp_path) == before


def test_shards_that_cannot_be_linked_are_copied(base, made, tmp_path, capsys, monkeypatch):
    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    assert main(apply_flags(base, made / "patch", tmp_path / "linked")) == 0
    monkeypatch.setattr("os.link", elsewhere)
    capsys.readouterr()
    assert main(apply_flags(base, made / "patch", tmp_path / "copied")) == 0
    said = capsys.readouterr().err
    assert [f for f in (LANGUAGE, LOWER, UPPER) if f"copying {f}: it cannot be linked there" in said] == [
        LANGUAGE,
        LOWER,
    ]
    assert tree(tmp_path / "copied") == tree(tmp_path / "linked")
    assert not any(p.samefile(base / p.name) for p in (tmp_path / "copied").glob("*.safetensors"))


# What a folder looks like after apply, and that the given one is only read.


def test_apply_links_what_stays_and_copies_what_may_be_rewritten(base, made, tmp_path):
    new = tmp_path / "new"
    assert main(apply_flags(base, made / "patch", new)) == 0
    assert {p.name for p in new.iterdir()} == {p.name for p in base.iterdir()} | {"unsee.json"}
    assert [f for f in (LANGUAGE, LOWER, UPPER) if (new / f).samefile(base / f)] == [LANGUAGE, LOWER]
    for file in (INDEX, *SMALL):
        assert (new / file).read_bytes() == (base / file).read_bytes() and not (new / file).samefile(base / file)
    patch, old, changed = (load_file(f) for f in (made / "patch" / "patch.safetensors", base / UPPER, new / UPPER))
    assert {n for n in old if not torch.equal(old[n], changed[n])} == set(patch)
    assert all(torch.equal(changed[n], t) for n, t in patch.items())
    assert old.keys() == changed.keys() and (new / UPPER).stat().st_size == (base / UPPER).stat().st_size


def test_other_formats_are_left_out_and_told(model, made, tmp_path, capsys):
    others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "original/a.pth"]
    for file in others:
        (model / file).parent.mkdir(exist_ok=True)
        (model / file).write_bytes(b"what was forgotten")
    (model / "original" / "params.json").write_text("{}")
    assert main(apply_flags(model, made / "patch", tmp_path / "new")) == 0
    said = capsys.readouterr().err
    why = ["weights in another format", "an index of weights", "weights beside those that are loaded"]
    assert all(f"left out {f}: {w}" in said for f, w in zip(others, [*why, why[0]], strict=True))
    assert {p.name for p in (tmp_path / "new").rglob("*")} & {Path(f).name for f in others} == set()
    assert (tmp_path / "new" / "original" / "params.json").read_text() == "{}"


def test_the_given_folder_is_only_read(model, images, made, tmp_path):
    """A file that is made and removed again would change the folder's time."""
    for path in (*model.iterdir(), model):
        path.chmod(path.stat().st_mode & ~0o222)
    before = [p.stat().st_mtime_ns for p in (model, *model.iterdir())], tree(model)
    assert main(forget_flags(model, images, tmp_path / "run")) == 0
    assert main(apply_flags(model, tmp_path / "run" / "patch", tmp_path / "new")) == 0
    assert ([p.stat().st_mtime_ns for p in (model, *model.iterdir())], tree(model)) == before
    assert (tmp_path / "new" / UPPER).stat().st_mode & 0o200
    assert tree(tmp_path / "run" / "patch") == tree(made / "patch")


@pytest.fixture
def cache(base, tmp_path) -> Path:
    """A snapshot as the hub's cache has it: links to blobs. Its root, two folders above, is a repository."""
    snapshot = tmp_path / "models--o--n" / "snapshots" / "0123abcd"
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in base.iterdir():
        blob = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blobs / blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob)
    return snapshot


def test_a_folder_of_links_into_the_hubs_cache(cache, base, images, made, tmp_path):
    root = cache.parents[1]
    before = tree(root)
    assert main(forget_flags(cache, images, tmp_path / "run")) == 0
    assert tree(tmp_path / "run" / "patch") == tree(made / "patch")
    new = tmp_path / "new"
    assert main(apply_flags(cache, tmp_path / "run" / "patch", new)) == 0
    assert tree(root) == before and all((cache / f).is_symlink() for f in (LANGUAGE, LOWER, UPPER, *SMALL))
    assert not any(p.is_symlink() for p in new.rglob("*"))
    assert [f for f in (LANGUAGE, LOWER, UPPER) if (new / f).samefile((cache / f).resolve())] == [LANGUAGE, LOWER]
    assert not any((new / f).samefile(cache / f) for f in (INDEX, *SMALL))
    assert main(revert_flags(new, tmp_path / "run" / "undo", tmp_path / "old")) == 0
    assert weights(tmp_path / "old") == weights(base)
