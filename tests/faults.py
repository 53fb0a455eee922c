"""A tiny LLaVA in three shards, in a folder with everything that one from the hub has, and ways to find fault with it.

LANGUAGE; LOWER (visual, never trained); UPPER (visual, trained).
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import families

from unsee.cli import main
from unsee.vision.folder import INDEX

LANGUAGE, LOWER, UPPER = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
SMALL = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "chat_template.jinja")
FAST = [
    "--steps",
    "2",
    "--batch",
    "4",
    "--stop",
    "0",
    "--most-left",
    "9",
    "--no-bf16",
]  # what two steps leave is not judged


@contextmanager
def full_disk(most: int = 0) -> Iterator[None]:
    """Within: no file of this process grows beyond ``most`` bytes, whichever library writes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def shard_of(name: str) -> str:
    if "language_model" in name:
        return LANGUAGE
    return UPPER if any(part in name for part in ("layers.1.", "layers.2.", "projector")) else LOWER


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], place: Callable[[str], str]) -> None:
    """Each tensor in the file that ``place`` names, and an index."""
    shards = {name: place(name) for name in tensors}
    for file in set(shards.values()):
        save_file({n: t for n, t in tensors.items() if shards[n] == file}, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}, indent=2))


def write_llava(folder: Path, seed: int = 0) -> Path:
    model, processor = families.build("llava_clip", seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    single = folder / "model.safetensors"
    write_shards(folder, load_file(single), shard_of)
    single.unlink()
    return folder


@pytest.fixture(scope="module", name="base")
def given_base(tmp_path_factory) -> Path:
    """Nobody may write into it."""
    return write_llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="module", name="made")
def given_run(base, images, tmp_path_factory) -> Path:
    """The folder of a run that forgot ada."""
    out = tmp_path_factory.mktemp("made") / "run"
    assert main(forget_flags(base, images, out)) == 0
    return out


@pytest.fixture(name="model")
def given_model(base, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def forget_flags(model: Path | str, images: Path, out: Path, concepts: str = "ada") -> list[str]:
    known, neutral = str(images / "known"), str(images / "neutral")
    return ["forget", "--model", str(model), "--forget", known, "--retain", known, "--concepts", concepts,
            "--neutral", neutral, "--out", str(out), *FAST]  # fmt: skip


def apply_flags(model: Path | str, patch: Path, out: Path) -> list[str]:
    return ["apply", "--model", str(model), "--patch", str(patch), "--out", str(out)]


def revert_flags(model: Path, undo: Path, out: Path) -> list[str]:
    return ["revert", "--model", str(model), "--undo", str(undo), "--out", str(out)]


def tree(root: Path) -> dict[str, str]:
    """Every path below, hidden ones too, with a hash of its bytes."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in root.rglob("*")
    }


def refused(capsys, flags: list[str], root: Path) -> str:
    """The one line that tells why; below ``root`` all is as it was."""
    before = tree(root)
    code = main(flags)
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert code == 2 and lines[-1].startswith("error: ") and err.count("error: ") == 1 and "Traceback" not in err
    assert tree(root) == before
    return str(lines[-1])


def weights(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "unsee.json"}
