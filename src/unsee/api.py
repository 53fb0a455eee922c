"""The library face: ``unsee.forget(model, processor, forget=…, retain=…|statistics=…, neutral=…)``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unsee.concepts import Concept, Request
from unsee.config import ForgetConfig
from unsee.data.augment import augment
from unsee.data.folder import read_folder
from unsee.data.images import load_all
from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments
from unsee.forgetting.region import Images, Region
from unsee.forgetting.replay import Replay
from unsee.forgetting.run import Features, Forgetting, Forgotten, look, record
from unsee.progress import say
from unsee.vision.attention import attention_for
from unsee.vision.blocks import HIDDEN, Upper, upper_layers
from unsee.vision.module import Visual
from unsee.vision.patch import Patch, fingerprint, tensor_hash

Source = Path | str | Sequence[Concept]
HELD_BACK, MOST_HELD_BACK = 0.2, 5  # share and number of a concept's images that only tell when it is forgotten
VIEWS = 60  # of a concept, with altered copies of its images where it has fewer
COPIES = 5  # most copies of one image
ALIKE = 0.7  # of a concept's identity: what 19 of 20 of its own views show; a neutral image that does shows it too
DRAWN_VIEWS = 4  # of each concept that is drawn from statistics
ENOUGH = 1200  # neutral, and retained, images: where there are fewer, altered copies make up for them


@dataclass
class Result(Forgotten):
    """What ``forget`` did, the moments it kept by, and the patch that holds it."""

    moments: Moments
    patch: Patch
    cost: dict[str, float]


def concepts_of(source: Source | None) -> list[Concept]:
    """A folder ``DIR/<concept>/*.jpg`` or concepts as they are."""
    if source is None:
        return []
    return list(read_folder(source).concepts) if isinstance(source, str | Path) else list(source)


def statistics(model: Any, processor: Any, images: Source, depth: float = ForgetConfig.depth) -> Moments:
    """Second moments of ``images``, and their distribution where they enter the last ``depth`` of the blocks.

    All that forgetting needs of what is to stay. They add with ``+``.
    """
    visual = Visual(model, processor)
    check_finite(visual)
    shown = images_of(visual, concepts_of(images))
    layers = visual.linears(shown.pixels[:1])
    trained = upper_layers(visual, layers, shown.pixels[:1], depth)
    upper = Upper(visual, layers, trained, shown.pixels[:2], len(shown), bf16=False)
    return _record(upper, layers, shown, {"model": fingerprint(visual.tensors())})


def _record(upper: Upper, layers: dict[str, nn.Linear], shown: Images, meta: dict[str, str]) -> Moments:
    """One pass over ``shown``: moments of ``layers``, features, and the distribution of what enters the upper part."""
    moments = record(upper.look, layers, shown, meta)
    entered = [p.get(HIDDEN) for p in shown.pixels]
    if any(h is None or h.shape != entered[0].shape for h in entered):
        return moments  # images of different sizes, or a module that runs whole
    groups: dict[str, list[Tensor]] = {}
    for concept, hidden in zip(shown.concepts, entered, strict=True):
        groups.setdefault(concept, []).append(hidden)
    return replace(moments, replay=Replay.fit(map(torch.stack, groups.values()), upper.block))


def forget(
    model: Any,
    processor: Any,
    *,
    forget: Source,
    retain: Source | None = None,
    statistics: Moments | Path | str | None = None,
    neutral: Source | None = None,
    reference: Visual | None = None,
    config: ForgetConfig | None = None,
    checkpoint: Path | None = None,
    watch: Callable[[int], dict[str, float]] | None = None,
) -> Result:
    """Make ``model`` forget the concepts in ``forget``, in place. Only its visual module is used, read and changed.

    ``retain``: images of what is to stay, used in the loss; or ``statistics`` of them, when the images are gone.
    ``neutral``: the same kind of picture, of concepts the model was not taught. ``reference``: the visual module of a
    model that never learned them, for the region of that name. ``checkpoint``: a folder from which an interrupted call
    resumes, to the bit. Raises UnseeError before any work where the input cannot serve.
    """
    config = config or ForgetConfig()
    started = time.perf_counter()
    request = Request(concepts_of(forget), concepts_of(retain), concepts_of(neutral))
    visual = Visual(model, processor)
    with attention_for(model, config.bf16):
        job = prepare(visual, request, statistics, config, reference)
        ready = time.perf_counter()
        done = job.run(checkpoint, watch)
    cost = {"prepare_seconds": ready - started, "loop_seconds": time.perf_counter() - ready}
    patch = make_patch(job, config, [c.id for c in request.forget])
    return Result(**vars(done), moments=job.moments, patch=patch, cost=cost)


def prepare(
    visual: Visual,
    request: Request,
    statistics: Moments | Path | str | None,
    config: ForgetConfig,
    reference: Visual | None = None,
) -> Forgetting:
    """Everything before the first step: images opened, features before forgetting, moments, null space."""
    moments = Moments.load(statistics) if isinstance(statistics, str | Path) else statistics
    _check(request, moments, config, reference)
    check_finite(visual)
    meta = {"model": fingerprint(visual.tensors())}
    if moments and moments.meta != meta:
        raise UnseeError(
            "the statistics are of another model, or of this one before it changed. "
            "Make them again from the retained images: unsee statistics --model … --images …"
        )
    learn, held = zip(*(_hold_back(c) for c in request.forget), strict=True)
    altered = copies(request.forget)
    train = images_of(visual, learn, altered, config.seed)
    check = images_of(visual, held, altered, config.seed + 1)
    neutral, retain = (images_of(visual, c, fill(c), config.seed + 2) for c in (request.neutral, request.retain))
    layers = visual.linears(train.pixels[:1])
    chosen = _trained(visual, layers, train, config)
    aims = look(reference.features, train.pixels) if reference else []
    sets = (train, check, neutral, retain)
    upper = Upper(visual, layers, list(chosen), train.pixels[:2], sum(map(len, sets)), config.bf16)
    if moments is None:
        moments = _record(upper, chosen, retain if retain.pixels else neutral, meta)
    for images in sets:
        if not images.before:
            images.before = look(upper.look, images.pixels)
    if not retain.pixels and config.replay and _fits(upper, moments, train):
        retain = drawn(upper.features, moments, train, config)
    if neutral.pixels and not reference:
        neutral = _others(neutral, Region(config.region, train, neutral, retain))
    return Forgetting(upper.features, chosen, train, check, neutral, retain, moments, config, reference=aims)


def _others(neutral: Images, region: Region) -> Images:
    """Neutral images but those that show a concept to forget, which would hold it in place."""
    other = (region.shown(neutral).amax(1) <= ALIKE).nonzero()[:, 0].tolist()
    if not other:
        raise UnseeError("every neutral image looks like a concept to forget. Give images of others (--neutral DIR).")
    if len(other) < len(neutral):
        say(f"{len(neutral) - len(other)} of {len(neutral)} neutral images look like a concept to forget: left out")
    return Images(*([part[i] for i in other] for part in (neutral.pixels, neutral.concepts, neutral.before)))


def _fits(upper: Upper, moments: Moments, like: Images) -> bool:
    """Whether the statistics tell what enters ``upper`` now, as ``like`` has."""
    replay, hidden = moments.replay, like.pixels[0].get(HIDDEN)
    if replay is None or hidden is None or (replay.block, replay.shape) != (upper.block, tuple(hidden.shape)):
        say("nothing can be drawn from the statistics: they do not tell what enters the blocks that train now")
        return False
    return True


def drawn(features: Features, moments: Moments, like: Images, config: ForgetConfig) -> Images:
    """Retained images drawn from their statistics.

    ``like``: images that have entered the upper part. Of a drawn image only what enters there is drawn; its pixels,
    which the module still reads, are another's.
    """
    if not config.replay or not moments.replay:
        return Images([], [])
    first = like.pixels[0]
    hidden = moments.replay.draw(-(-config.replay // DRAWN_VIEWS), DRAWN_VIEWS, config.seed).to(first[HIDDEN])
    pixels = [{**first, HIDDEN: h} for h in hidden]
    return Images(pixels, [f"drawn {i // DRAWN_VIEWS}" for i in range(len(pixels))], look(features, pixels))


def _trained(visual: Visual, layers: dict[str, nn.Linear], shown: Images, config: ForgetConfig) -> dict[str, nn.Linear]:
    """The layers that train: those named in ``config.layers``, or the upper ones."""
    if not config.layers:
        return {n: layers[n] for n in upper_layers(visual, layers, shown.pixels[:1], config.depth)}
    chosen = {n: m for n, m in layers.items() if config.names(n)}
    if not chosen:
        raise UnseeError(f"no layer's name contains '{config.layers}'. There are: {', '.join(layers)}.")
    return chosen


def _check(request: Request, moments: Moments | None, config: ForgetConfig, reference: Visual | None) -> None:
    if not (request.retain or request.neutral or moments):
        raise UnseeError(
            "nothing says what is to stay. Give retained images (--retain DIR), their statistics (--statistics FILE) "
            "or neutral images (--neutral DIR)."
        )
    if (config.region == "reference") != (reference is not None):
        raise UnseeError(
            "region 'reference' and a reference model go together: give --region reference --reference MODEL, "
            "the checkpoint before it was taught the concepts."
        )
    if config.region == "neutral" and not request.neutral:
        raise UnseeError(
            "region 'neutral' needs neutral images: give --neutral DIR, or --region mean with --retain DIR."
        )
    if config.region == "mean" and not request.retain:
        raise UnseeError(
            "region 'mean' needs retained images: give --retain DIR, or --region neutral with --neutral DIR."
        )


def check_finite(visual: Visual) -> None:
    """Refuse a model with NaN or Inf in a visual weight."""
    bad = [n for n, p in visual.parameters().items() if not torch.isfinite(p).all()]
    if bad:
        raise UnseeError(
            f"{len(bad)} visual weight(s) of the model hold NaN or Inf, first {bad[0]}. Download it again."
        )


def copies(concepts: Sequence[Concept]) -> int:
    """How many altered copies of each image make up for few views."""
    return max(1, min(COPIES, VIEWS // min(len(c.images) for c in concepts) - 1))


def fill(concepts: Sequence[Concept]) -> int:
    """How many altered copies of each image of what stays make up for few images."""
    images = sum(len(c.images) for c in concepts)
    return max(0, min(COPIES, ENOUGH // images - 1)) if images else 0


def _hold_back(concept: Concept) -> tuple[Concept, Concept]:
    n = max(1, min(MOST_HELD_BACK, round(HELD_BACK * len(concept.images))))
    return Concept(concept.id, concept.images[:-n]), Concept(concept.id, concept.images[-n:])


def images_of(visual: Visual, concepts: Sequence[Concept], altered: int = 0, seed: int = 0) -> Images:
    """The concepts' images through the model's processor, and so many ``altered`` copies of each."""
    shown = [(c.id, i) for c in concepts for i in c.images]
    opened = load_all([i for _, i in shown])
    rng = np.random.default_rng([seed, len(opened)])
    more = [augment(o, rng) for _ in range(altered) for o in opened]
    return Images(visual.pixels([*opened, *more]), [c for c, _ in shown] * (1 + altered))


def make_patch(job: Forgetting, config: ForgetConfig, forgotten: Sequence[str]) -> Patch:
    tensors = {f"{n}.weight": m.weight.detach().clone() for n, m in job.layers.items()}
    base = {f"{n}.weight": tensor_hash(w) for n, w in job.start.items()}
    info = {"method": "cvf", "config": asdict(config), "forgotten": list(forgotten)}
    changed = {n: t for n, t in tensors.items() if tensor_hash(t) != base[n]}
    return Patch(changed, {n: base[n] for n in changed}, info)
