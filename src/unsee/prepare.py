"""From a request to the loop: images opened, features before forgetting, moments, and what can be drawn from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unsee import processes
from unsee.concepts import Concept, ImageRef, Request, pictures_of, refuse_kept
from unsee.config import ForgetConfig
from unsee.data.images import FileImage, load_all
from unsee.encoding import Distribution, encode, encode_some, entered, groups_of, summed
from unsee.errors import UnseeError
from unsee.feature_cache import FeatureCache
from unsee.files import sha256
from unsee.forgetting import contrast
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled
from unsee.forgetting.recorder import MomentRecorder
from unsee.forgetting.region import Images, Region
from unsee.forgetting.replay import LEAST_VIEWS, Replay
from unsee.forgetting.run import Forgetting
from unsee.progress import progress, say
from unsee.untrusted import shown
from unsee.vision.blocks import HIDDEN, Upper, upper_layers
from unsee.vision.module import Pixels, Visual
from unsee.vision.patch import fingerprint
from unsee.vision.trace import Trace, trace

MOMENTS = "moments.safetensors"  # file of a request that runs
HELD_BACK, MOST_HELD_BACK = 0.2, 5  # share and number of a concept's images that only tell when it is forgotten
VIEWS = 60  # of a concept, with altered copies of its images where it has fewer
COPIES = 5  # most copies of one image
ALIKE = 0.7  # of a concept's identity: what 19 of 20 of its own views show; another image that does shows it too
LOOKALIKE_VIEWS = 2  # of each that looks like one to forget
ATTENTION = re.compile("attn|attention")  # in the name of a layer that belongs to it
ENOUGH = 1200  # neutral, and retained, images: where there are fewer, altered copies make up for them
DISTRIBUTION = 128 * 2**20  # bytes of inputs to the upper part, up to which a request also keeps their distribution


def prepare(
    visual: Visual,
    request: Request,
    statistics: Moments | Path | str | None,
    config: ForgetConfig,
    reference: Visual | None = None,
    folder: Path | None = None,
    base: Mapping[str, Tensor] | None = None,
    settled: Settled | None = None,
    cache: Path | None = None,
) -> Forgetting:
    """Everything before the first step. ``folder``: for what takes more memory than there should be. ``cache``: of what
    frozen layers make of images, for later requests.

    ``base``: layer → its weight before earlier requests, from which the cumulative penalty counts and at which all
    features and moments are taken: held where they were before each request, small drifts would add up. ``settled``:
    what those requests left.
    """
    moments = Moments.load(statistics) if isinstance(statistics, str | Path) else statistics
    _check(request, moments, config, reference)
    if moments:
        kept = dict.fromkeys(moments.pictures, "")
        refuse_kept(request.forget, kept, "the images that the statistics are of", "the statistics")
    check_inputs(visual, [*request.forget, *request.retain, *request.neutral])
    meta = {"model": fingerprint(visual.tensors())}
    inputs = _inputs(request, meta["model"], moments, reference) if folder else []
    if moments and moments.meta.get("model") != meta["model"] and moments.meta.get("model") != _before(visual, base):
        raise UnseeError(
            "the statistics are of another model, or of this one before it changed. "
            "Make them again from the retained images: unsee statistics --model … --images …"
        )
    learn, held = zip(*(_hold_back(c) for c in request.forget), strict=True)
    probe = _probe(visual, request.forget)
    seen = trace(visual, probe[0])
    trained = chosen(seen, config)
    layers = {n: visual.model.get_submodule(n) for n in trained}
    if moments and (unknown := [n for n in trained if n not in moments.layers]):
        raise UnseeError(
            f"the statistics tell nothing of {len(unknown)} layer(s) that would train, first {unknown[0]}. Record them "
            f"with as much depth: unsee statistics --depth {config.depth} …, or train less: --depth."
        )
    if moments:
        moments.refuse_unlike(visual.model, trained)
    features = FeatureCache.below(cache, visual, trained)
    upper = _agreed(Upper(visual, seen.linears, trained, probe, config.bf16, folder, config.checkpointing, features))
    altered, aims = copies(request.forget), list[Tensor]()
    at_base = {"model": _before(visual, base) or meta["model"]}
    with _with_weights(layers, base or {}):
        train = encode(upper, learn, "images to forget", altered, config.seed, reference=reference, aims=aims)
        check = encode(upper, held, "held-back images", altered, config.seed + 1)
        shown, recorded = {}, [moments] if moments else []
        for kind, concepts in (("neutral", request.neutral), ("retain", request.retain)):
            wanted = concepts and not recorded and (kind == "retain" or not request.retain)
            with MomentRecorder(layers) if wanted else nullcontext() as recorder:
                shown[kind] = encode(upper, concepts, f"{kind} images", fill(concepts), config.seed + 2, recorder)
            if recorder:
                replay, pictures = _distribution(upper, shown[kind], config), tuple(sorted(pictures_of(concepts)))
                recorded.append(replace(recorder.moments(at_base), replay=replay, pictures=pictures))
        moments = recorded[0]
        neutral, retain, beside = shown["neutral"], shown["retain"], Images([], [])
        replayed = Images([], [])
        draws = config.replay and (config.replay_always or not retain.pixels)
        if (config.lookalikes or draws) and _fits(upper, moments, train):
            beside += lookalikes(upper, moments, train, config)
            replayed = _drawn(upper, moments, train, config) if draws else replayed
    if beside.pixels or replayed.pixels or (neutral.pixels and not reference):
        region = Region(config.region, train, neutral, retain if retain.pixels else replayed, aims)
        beside, replayed = _others(beside, region), _others(replayed, region)
        neutral = neutral if reference else _unlike(neutral, region)
    if retain.pixels:
        beside += replayed
    else:
        retain = replayed
    projector = [n for n in trained if visual.family.in_projector(n)]
    if folder:
        moments = moments.on_disk(folder / MOMENTS)
    sets, dtypes = (train, check, neutral, retain), _stored(visual, trained)
    started = {n: base[n].to(m.weight.device) for n, m in layers.items()} if base else None
    return Forgetting(upper, layers, *sets, moments, config, started, settled, aims, dtypes, inputs, beside, projector)


@contextmanager
def _with_weights(layers: Mapping[str, torch.nn.Linear], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within: the layers have these weights, where there are some."""
    kept = {n: m.weight.detach().clone() for n, m in layers.items() if n in weights}
    try:
        _put(layers, {n: weights[n] for n in kept})
        yield
    finally:
        _put(layers, kept)


@torch.no_grad()
def _put(layers: Mapping[str, torch.nn.Linear], weights: Mapping[str, Tensor]) -> None:
    for n, weight in weights.items():
        layers[n].weight.copy_(weight)


def _before(visual: Visual, base: Mapping[str, Tensor] | None) -> str:
    """The fingerprint of the module before earlier requests; empty: there were none."""
    if not base:
        return ""
    return fingerprint(visual.tensors() | {f"{n}.weight": weight for n, weight in base.items()})


def _agreed(upper: Upper) -> Upper:
    """Made alike in all processes: how it runs hangs on the memory that each found free."""
    found = processes.everywhere((bool(upper.lower), upper.in_training))
    if not all(short for short, _ in found):
        upper.lower = []
    upper.in_training = min(images for _, images in found)
    return upper


def _stored(visual: Visual, layers: Sequence[str]) -> dict[str, torch.dtype]:
    """The dtype in which each layer's weight lies in the checkpoint, or will lie in the model, where that is told."""
    if visual.checkpoint is None:
        return {n: visual.stored[f"{n}.weight"] for n in layers if f"{n}.weight" in visual.stored}
    entries = {module: visual.checkpoint.entry(disk) for disk, module in visual.checkpoint.visual.items()}
    return {n: entries[f"{n}.weight"].dtype for n in layers if f"{n}.weight" in entries}


def chosen(seen: Trace, config: ForgetConfig) -> list[str]:
    """The layers that train: those named in ``config.layers``, or the upper ones, with or without their attention."""
    if not config.layers:
        upper = upper_layers(seen.linears, config.depth)
        return upper if config.attention else [n for n in upper if not ATTENTION.search(n)] or upper
    names = [n for n in seen.linears if config.names(n)]
    if not names:
        raise UnseeError(f"no layer's name contains '{config.layers}'. There are: {', '.join(seen.linears)}.")
    return names


def statistics(visual: Visual, concepts: Sequence[Concept], config: ForgetConfig, cache: Path | None = None) -> Moments:
    """Moments and distribution over any number of images, of which few are open at a time."""
    check_inputs(visual, concepts)
    probe = _probe(visual, concepts)
    seen = trace(visual, probe[0])
    trained = chosen(seen, config)
    upper = _agreed(
        Upper(visual, seen.linears, trained, probe, bf16=False, cache=FeatureCache.below(cache, visual, trained))
    )
    distribution = Distribution(upper.block)
    with MomentRecorder({n: visual.model.get_submodule(n) for n in trained}) as recorder:
        recorder.mask, done = visual.real_rows, 0
        with progress("statistics", sum(len(c.images) for c in concepts)) as tick:
            for groups in processes.turns(groups_of(concepts)):
                with processes.alike():
                    for group in processes.own(groups):
                        shown, _ = encode_some(upper, [(c.id, i) for c in group for i in c.images], 0, 0, None)
                        recorder.images += len(shown)
                        distribution.add(shown)
                        upper.clear()
                done += sum(len(c.images) for group in groups for c in group)
                tick(done)
    moments = recorder.moments({"model": fingerprint(visual.tensors())})
    replay = summed([r for parts in processes.everywhere(distribution.parts()) for r in parts])
    return replace(moments, replay=replay, pictures=tuple(sorted(pictures_of(concepts))))


def _distribution(upper: Upper, shown: Images, config: ForgetConfig) -> Replay | None:
    """Of what entered the upper part; None where it takes too much, and would serve a later request alone."""
    first = next((p[HIDDEN]() for p in shown.pixels if HIDDEN in p), torch.empty(0))
    if not (config.lookalikes or config.replay_always) and len(shown) * first.nbytes > DISTRIBUTION:
        return None
    seen = entered(shown)
    return Replay.fit(seen, upper.block) if seen else None


def _probe(visual: Visual, concepts: Sequence[Concept]) -> list[Pixels]:
    """Two images to find out with how the module runs."""
    return visual.pixels(load_all([i for c in concepts for i in c.images][:2]))


def _others(images: Images, region: Region) -> Images:
    """``images`` but those that show a concept to forget, which would hold it in place."""
    other = (region.shown(images).amax(1) <= ALIKE).nonzero()[:, 0].tolist() if images.pixels else []
    return Images(*([part[i] for i in other] for part in (images.pixels, images.concepts, images.before)))


def _unlike(neutral: Images, region: Region) -> Images:
    """The same of neutral images, which somebody gave."""
    others = _others(neutral, region)
    if neutral.pixels and not others.pixels:
        raise UnseeError("every neutral image looks like a concept to forget. Give images of others (--neutral DIR).")
    if len(others) < len(neutral):
        say(f"{len(neutral) - len(others)} of {len(neutral)} neutral images look like a concept to forget: left out")
    return others


def _fits(upper: Upper, moments: Moments, like: Images) -> bool:
    """Whether the statistics tell what enters ``upper`` now, as ``like`` has."""
    replay, hidden = moments.replay, like.pixels[0].get(HIDDEN)
    if replay is None or hidden is None or (replay.block, replay.shape) != (upper.block, tuple(hidden().shape)):
        say("nothing can be drawn from the statistics: they do not tell what enters the blocks that train now")
        return False
    return True


def stand_ins(job: Forgetting, upper: Upper, config: ForgetConfig) -> Images:
    """What a request that is prepared would keep if its retained images were gone."""
    return _others(_drawn(upper, job.moments, job.forget, config), job.region)


def _drawn(upper: Upper, moments: Moments, like: Images, config: ForgetConfig) -> Images:
    """Retained images drawn from their statistics.

    ``like``: images that have entered the upper part. Of a drawn image only what enters there is drawn; its pixels,
    which the module still reads, are another's.
    """
    if not config.replay or not moments.replay:
        return Images([], [])
    replay = moments.replay
    if len(replay.means):
        return _entering(upper, *replay.views(config.replay, config.seed), like, "drawn")
    some = replay.draw(-(-config.replay // LEAST_VIEWS), LEAST_VIEWS, config.seed)
    return _entering(upper, some, [i // LEAST_VIEWS for i in range(len(some))], like, "drawn")


def lookalikes(upper: Upper, moments: Moments, forget: Images, config: ForgetConfig) -> Images:
    """Images drawn to look like concepts to forget, not to be taken along: what is near to them goes first."""
    if not config.lookalikes or not moments.replay:
        return Images([], [])
    shown: dict[str, list[Tensor]] = {}
    for concept, pixels in zip(forget.concepts, forget.pixels, strict=True):
        shown.setdefault(concept, []).append(pixels[HIDDEN]().float())
    near = torch.stack([torch.stack(views).mean(0).cpu() for views in shown.values()])
    some = moments.replay.draw(-(-config.lookalikes // LOOKALIKE_VIEWS), LOOKALIKE_VIEWS, config.seed, near)
    return _entering(upper, some, [i // LOOKALIKE_VIEWS for i in range(len(some))], forget, "lookalike")


def _entering(upper: Upper, drawn: Tensor, whose: Sequence[int], like: Images, name: str) -> Images:
    """``drawn`` [images, …] as what enters the upper part, and what it makes of them now.

    ``whose``: of which concept each is.
    """
    first = like.pixels[0]
    pixels = [{**first, HIDDEN: upper.store.put(h)} for h in drawn.to(first[HIDDEN]())]
    before = upper.now(pixels, contrast.pooled)
    return Images(pixels, [f"{name} {concept}" for concept in whose], before)


def _inputs(request: Request, model: str, statistics: Moments | None, reference: Visual | None) -> list[str]:
    """What a request is made from, in hashes: another request has others."""
    sets = {"forget": request.forget, "retain": request.retain, "neutral": request.neutral}
    images = [f"{kind} {c.id} {_digest(i)}" for kind, concepts in sets.items() for c in concepts for i in c.images]
    parts = {"reference": reference.tensors() if reference else {}, "statistics": {}, "replay": {}}
    if statistics:
        parts["statistics"] = dict(statistics.matrices)
        parts["replay"] = statistics.replay.state()[0] if statistics.replay else {}
    return [f"model {model}", *images, *(f"{name} {fingerprint(tensors)}" for name, tensors in parts.items())]


def _digest(image: ImageRef) -> str:
    return sha256(image.path) if isinstance(image, FileImage) else hashlib.sha256(image.load().tobytes()).hexdigest()


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


def check_inputs(visual: Visual, concepts: Sequence[Concept]) -> None:
    """Refuse a model that cannot be worked with, and pictures that it cannot be shown, before any work."""
    visual.refuse_unlike()
    check_finite(visual)
    if bad := misfits(visual, concepts):
        first, reason = next(iter(bad.items()))
        more = f" {len(bad) - 1} more picture(s) do not fit either." if len(bad) > 1 else ""
        raise UnseeError(f"{shown(first)}: {reason}.{more} Crop or delete what does not fit, or give --skip-bad.")


def misfits(visual: Visual, concepts: Sequence[Concept]) -> dict[str, str]:
    """Ids of image files whose size the model cannot be shown, and why. Drawn images are opened when they are used."""
    files = [i for c in concepts for i in c.images if isinstance(i, FileImage)]
    return {i.id: reason for i in files if (reason := visual.fits(i.size))}


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
