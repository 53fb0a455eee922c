"""Look at a checkpoint, and write one with a patch in it or without."""

from __future__ import annotations

from pathlib import Path

from unsee.commands.shared import keeping_all
from unsee.config import ForgetConfig
from unsee.files import refuse_existing
from unsee.progress import say, tell


def inspect_model(
    *, model: str, revision: str | None = None, trust_remote_code: bool = False, depth: float = ForgetConfig.depth
) -> None:
    """Tell what unsee would do with a model: what trains and why the rest does not, what is read, memory and time.

    A model whose family is not in the list is followed in the common way, or refused with what it lacks.

    Args:
        model: folder of the multimodal checkpoint, or its hub name
        revision: branch, tag or commit of a hub name
        trust_remote_code: run code that the checkpoint brings along
        depth: share of the tower's blocks that would train
    """
    with keeping_all():
        from unsee.inspection import inspect

        tell(*inspect(model, revision, trust_remote_code, depth).lines())


def apply(
    *, model: str, patch: Path, out: Path, trust_remote_code: bool = False, allow_language_tensors: bool = False,
    allow_failed: bool = False,
) -> None:  # fmt: skip
    """Write a checkpoint with a patch in it. The given one stays as it is.

    What the patch does not touch is linked, not copied. Patches stack: give the checkpoint with the first one.

    Args:
        model: folder of the checkpoint that the patch was made from, or its hub name
        patch: folder patch/ of a run
        out: new folder for the changed checkpoint
        trust_remote_code: run code that the checkpoint brings along, where it alone tells which tensors are visual
        allow_language_tensors: take a patch that changes the language model too, which none of unsee forget does
        allow_failed: take a patch whose request ended with exit code 3, to look at what it does
    """
    _apply(model, patch, out, trust_remote_code, allow_language_tensors, allow_failed)
    tell(f"{out}: the checkpoint with the patch in it")


def revert(
    *, model: Path, undo: Path, out: Path, trust_remote_code: bool = False, allow_language_tensors: bool = False
) -> None:
    """Write a checkpoint without its last patch: byte for byte as it was before.

    Args:
        model: folder that unsee apply wrote
        undo: folder undo/ of the run whose patch it was
        out: new folder for the checkpoint as it was
        trust_remote_code: run code that the checkpoint brings along, where it alone tells which tensors are visual
        allow_language_tensors: take back a patch that changed the language model too
    """
    _apply(model, undo, out, trust_remote_code, allow_language_tensors)
    tell(f"{out}: the checkpoint without the patch")


def _apply(model: str | Path, patch: Path, out: Path, code: bool, language: bool, failed: bool = False) -> None:
    refuse_existing(out)
    from unsee.vision.copying import told
    from unsee.vision.patch import Trust, apply_patch

    for line in told(apply_patch(model, patch, out, Trust(code, language, failed))):
        say(line)


def lora(*, model: str, patch: Path, out: Path, rank: int = 0, trust_remote_code: bool = False) -> None:
    """Write a patch as a LoRA adapter (peft), exact or of low rank.

    Args:
        model: folder of the checkpoint that the patch was made from, or its hub name
        patch: folder patch/ of a run
        out: new folder for the adapter
        rank: of each layer's change; 0: as much as it takes to be exact
        trust_remote_code: run code that the checkpoint brings along
    """
    refuse_existing(out)
    from unsee.vision.lora import write_lora

    kept = write_lora(model, patch, out, rank, trust_remote_code)
    tell(
        f"{out}: adapter of rank {kept.rank} at most; {kept.error:.2%} of the change is lost, {kept.worst:.2%} at most"
    )


def push(*, run: Path, repo: str, public: bool = False) -> None:
    """Upload a run's patch to the Hugging Face Hub, with a card that names nobody.

    Args:
        run: folder that unsee forget wrote; only its patch goes out
        repo: OWNER/NAME of the repository, which is made where there is none
        public: let everybody see it
    """
    from unsee import hub

    tell(hub.push(run, repo, private=not public))
