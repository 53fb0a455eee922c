"""Whether a checkpoint holds the visual module that its config speaks of, told from headers alone."""

from __future__ import annotations

import re

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from unsee.errors import UnseeError
from unsee.vision.checkpoint import Checkpoint, readable

LACKS = (
    "the checkpoint '{}' lacks {} {}tensor(s), or has them in another shape: {}. "
    "It is incomplete or of another model: download it again."
)
BLOCK = re.compile(r"(.+?\.)\d+\.")  # of a numbered list of modules, in a tensor's name


def refuse_incomplete(checkpoint: Checkpoint) -> None:
    """UnseeError: a visual tensor is missing, in a damaged file, of another shape, or holds no floating point numbers.

    Of a hub's files only those that are here are looked into.
    """
    if hasattr(checkpoint.config, "mm_vision_tower"):
        raise UnseeError(
            f"'{checkpoint.name}' is in the layout of LLaVA's own code (mm_vision_tower), which transformers does not "
            f"read. Give the converted checkpoint, such as llava-hf/llava-v1.6-mistral-7b-hf."
        )
    for name in checkpoint.visual:
        if (checkpoint.folder / checkpoint.shards[name]).is_file() or not checkpoint.revision:
            _check_entry(checkpoint, name)
    if lacking := missing(checkpoint):
        parts = sorted({_top(name) for name in lacking})
        listed = f"{', '.join(lacking[:5])}{' …' if len(lacking) > 5 else ''}, of {', '.join(parts)}"
        raise UnseeError(LACKS.format(checkpoint.name, len(lacking), "visual ", listed))


def _check_entry(checkpoint: Checkpoint, name: str) -> None:
    entry = checkpoint.entry(name)
    if not entry.dtype.is_floating_point or entry.dtype.itemsize < 2:
        kind = str(entry.dtype).removeprefix("torch.")
        raise UnseeError(
            f"the visual tensor {name} of '{checkpoint.name}' is stored as {kind}, as quantised weights are, which "
            f"cannot take a small change. Give a checkpoint in float32, float16 or bfloat16."
        )


def missing(checkpoint: Checkpoint) -> list[str]:
    """Tensors that the visual module of ``config.json`` has and no tensor on disk gives."""
    model = checkpoint.skeleton
    ignored = [re.compile(p) for p in getattr(model, "_keys_to_ignore_on_load_missing", None) or ()]
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    lacking = model.state_dict().keys() - set(checkpoint.visual.values()) - tied.keys()
    return sorted(n for n in lacking if not any(p.search(n) for p in ignored))


def spare(checkpoint: Checkpoint) -> list[str]:
    """Tensors on disk of numbered blocks beyond those of ``config.json``, which transformers does not read either."""
    model = checkpoint.skeleton
    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    state = model.state_dict()
    blocks = {m[1] for n in state if (m := BLOCK.match(n))}
    found = []
    with readable(checkpoint.name):
        for name in sorted(checkpoint.shards.keys() - checkpoint.visual.keys()):
            renamed, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
            if (m := BLOCK.match(renamed)) and m[1] in blocks:
                found.append(name)
    return sorted(found)


def _top(name: str) -> str:
    """``model.vision_tower.encoder.…`` → ``vision_tower``."""
    return name.removeprefix("model.").partition(".")[0]
