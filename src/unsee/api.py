"""The library face: ``unsee.forget(model, processor, forget=…, retain=…|statistics=…, neutral=…)``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from unsee import prepare
from unsee.concepts import Concept, Request, once
from unsee.config import ForgetConfig
from unsee.data.folder import read_folder
from unsee.data.given import with_images
from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled
from unsee.forgetting.run import Forgetting, Forgotten
from unsee.vision import patch as patches
from unsee.vision.attention import attention_for
from unsee.vision.given import in_float32, visual_of
from unsee.vision.module import Visual
from unsee.vision.patch import Patch

Source = Path | str | Sequence[Concept]  # an image of a concept may be a path, a PIL image or an array too


@dataclass
class Result(Forgotten):
    """What ``forget`` did, the moments it kept by, the patch that holds it, and the one that undoes it."""

    moments: Moments
    patch: Patch
    undo: Patch
    cost: dict[str, float]


def concepts_of(source: Source | None) -> list[Concept]:
    """A folder ``DIR/<concept>/*.jpg``, or concepts. UnseeError: something else."""
    if source is None:
        return []
    if isinstance(source, str | Path):
        return list(read_folder(source).concepts)
    return [with_images(concept) for concept in source]


def statistics(
    model: Any, processor: Any, images: Source, config: ForgetConfig | None = None, cache: Path | None = None
) -> Moments:
    """Second moments of ``images``, and their distribution where they enter the upper blocks.

    All that forgetting needs of what is to stay, of the layers that ``config`` would train (--depth). They add with
    ``+``. ``model``: a whole one, as for ``forget``, and its ``processor``; or what ``load_visual`` gave, and None.
    ``cache``: as for ``forget``.
    """
    concepts, visual = concepts_of(images), visual_of(model, processor)
    with in_float32(visual), attention_for(visual.model, training=False):
        return prepare.statistics(visual, concepts, config or ForgetConfig(), cache)


def forget(
    model: Any,
    processor: Any = None,
    *,
    forget: Source,
    retain: Source | None = None,
    statistics: Moments | Path | str | None = None,
    neutral: Source | None = None,
    reference: Visual | None = None,
    config: ForgetConfig | None = None,
    checkpoint: Path | None = None,
    watch: Callable[[int], dict[str, float]] | None = None,
    base: Mapping[str, Tensor] | None = None,
    settled: Settled | None = None,
    cache: Path | None = None,
) -> Result:
    """Make ``model`` forget the concepts in ``forget``, in place. Only its visual module is used, read and changed.

    ``model``: a whole one and its ``processor``, or what ``load_visual`` gave. One in float16 or bfloat16 is computed
    with in float32 and written back; its patch is of that dtype. Compiled or in training it is served too; not with
    adapters, quantised weights, or on several devices. ``retain``: images of what is to stay,
    used in the loss; or ``statistics`` of them, when the images are gone. ``neutral``: the same kind of picture, of
    concepts the model was not taught. ``reference``: the visual module of a model that never learned them, for the
    region of that name. ``checkpoint``: a folder from which an interrupted call resumes, to the bit, and which takes
    what would fill the memory. ``base`` and ``settled``: of requests before this one, the layers' weights before them
    and what they left; ``statistics`` may be of the model before them too. ``cache``: a folder in which what the frozen
    layers make of each image is kept, so that another request on the same images begins at once. Raises UnseeError
    before any work where the input cannot serve.
    """
    config = config or ForgetConfig()
    started = time.perf_counter()
    asked, _ = once(concepts_of(forget))
    request = Request(asked, concepts_of(retain), concepts_of(neutral))
    visual = visual_of(model, processor)
    with in_float32(visual):
        with attention_for(visual.model, training=False):
            job = prepare.prepare(visual, request, statistics, config, reference, checkpoint, base, settled, cache)
        ready = time.perf_counter()
        eager = config.bf16 and job.module.few_rows
        trained = [f"{n}.weight" for n in job.layers]
        with attention_for(visual.model, eager), visual.training(trained), job.module.alone():
            done = job.run(checkpoint, watch)
            patch, undo = make_patch(visual, job, config, [opaque(c) for c in request.forget])
            patch = patches.checked(patch, done.forgotten, done.kept)
            moments = job.moments
            del job  # before the lower blocks come back
    cost = {"prepare_seconds": ready - started, "loop_seconds": time.perf_counter() - ready}
    return Result(**vars(done), moments=moments, patch=patch, undo=undo, cost=cost)


def make_patch(visual: Visual, job: Forgetting, config: ForgetConfig, forgotten: Sequence[str]) -> tuple[Patch, Patch]:
    """The patch of what ``job`` changed so far, and the one that undoes it. ``forgotten``: opaque ids."""
    info: dict[str, Any] = {"method": "cvf", "config": asdict(config), "forgotten": list(forgotten)}
    new = {f"{n}.weight": m.weight.detach() for n, m in job.layers.items()}
    checkpoint = visual.checkpoint
    if checkpoint is None:
        kinds = {n: visual.stored.get(n, t.dtype) for n, t in new.items()}
        old = {f"{n}.weight": w.to("cpu", kinds[f"{n}.weight"]) for n, w in job.start.items()}
        copied = {n: t.to("cpu", kinds[n], copy=True) for n, t in new.items()}
        before, after = (revert_weight_conversion(visual.model, tensors) for tensors in (old, copied))
        return patches.make(before, after, info)
    if checkpoint.revision:
        info |= {"model": checkpoint.name, "revision": checkpoint.revision}
    on_disk = {module: disk for disk, module in checkpoint.visual.items() if module in new}
    if missing := sorted(new.keys() - on_disk.keys()):
        raise UnseeError(
            f"{missing[0]} is stored as a part of another tensor, so it cannot be patched. Leave it out: --layers."
        )
    dtypes = {n: checkpoint.entry(on_disk[n]).dtype for n in new}
    before = {on_disk[n]: job.start[n.removesuffix(".weight")].to("cpu", dtypes[n]) for n in new}
    after = {on_disk[n]: t.to("cpu", dtypes[n], copy=True) for n, t in new.items()}
    return patches.make(before, after, info)


def opaque(concept: Concept) -> str:
    """An id that tells nobody who is meant, unless they have the picture: a hash of the first image."""
    return hashlib.sha256(concept.images[0].load().tobytes()).hexdigest()[:16]
