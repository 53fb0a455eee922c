"""Forget, and the statistics that forgetting needs of what is to stay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from unsee import processes
from unsee.commands.shared import Device, checkpoints, device_of, fitting, only_here, pick, place, read
from unsee.concepts import Request, once
from unsee.config import ForgetConfig
from unsee.errors import NOT_TO_RELEASE, UnseeError
from unsee.files import refuse_existing
from unsee.memory import steady_memory
from unsee.progress import alarm, say, tell

if TYPE_CHECKING:
    from unsee.api import Result
    from unsee.vision.module import Visual


def forget(
    *,
    model: str,
    forget: Path,
    out: Path,
    retain: Path | None = None,
    statistics: Path | None = None,
    neutral: Path | None = None,
    reference: str | None = None,
    concepts: str = "",
    skip_bad: bool = False,
    dry_run: bool = False,
    cache: Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: Device = "auto",
    config: ForgetConfig,
) -> int:
    """Make a model forget visual concepts; writes a run folder with the patch.

    An interrupted run resumes when the same command is given again. Under torchrun the work is shared. Exits with 3
    where the target has not left: the run folder is written, but no model with its patch is to be released.

    Args:
        model: folder of the multimodal checkpoint, or its hub name; its language model is neither loaded nor downloaded
        forget: images to forget, DIR/<concept>/*.jpg
        out: new folder for config.yaml, manifest.json, metrics.json, patch/, and undo/, which brings everything back
        retain: images of what is to stay; may be the same folder as --forget when --concepts picks from it
        statistics: file made by `unsee statistics`, instead of retained images that are gone
        neutral: the same kind of picture, of concepts the model was not taught
        reference: checkpoint that never learned the concepts, for --region reference
        concepts: only these folders of --forget, with commas: fr,de
        skip_bad: leave out images that cannot be read, and say which
        dry_run: tell which layers would train, and the time and memory it takes; write nothing
        cache: folder of what frozen layers make of each image, for other settings on the same images; it tells who was
            shown: delete it afterwards
        revision: branch, tag or commit of a hub name
        trust_remote_code: run code that the checkpoint brings along
        device: where the visual module runs; auto: a GPU where there is one
    """
    started = time.perf_counter()
    if not dry_run:
        refuse_existing(out)
    request = _request(forget, retain, neutral, concepts, skip_bad)
    steady_memory(model)
    from unsee import api, runs
    from unsee.vision.module import load_visual

    with processes.alike():
        where = device_of(device)
        visual = load_visual(model, revision, trust_remote_code, where)
        never = load_visual(reference, None, trust_remote_code, where) if reference else None
    if skip_bad:
        request = Request(*(fitting(visual, of) for of in (request.forget, request.retain, request.neutral)))
    if dry_run:
        _dry_run(visual, request, statistics, config, never, started)
        return 0
    asked = runs.resolved(
        config, model=place(model), forget=forget, out=out, retain=retain, statistics=statistics, neutral=neutral,
        reference=reference and place(reference), concepts=concepts, skip_bad=skip_bad, cache=cache, revision=revision,
        trust_remote_code=trust_remote_code or None, device=None if device == "auto" else device,
    )  # fmt: skip
    with checkpoints(out) as checkpoint:
        result = api.forget(
            visual, **vars(request), statistics=statistics, reference=never, config=config, checkpoint=checkpoint,
            cache=cache,
        )  # fmt: skip
        with processes.alike():
            if processes.first():
                runs.write_run(out, asked, request, result, statistics, started)
    done, count = "forgotten" if result.forgotten else "NOT forgotten", len(result.patch.tensors)
    tell(f"{out}: {len(request.forget)} concept(s) {done}, {count} tensors changed ({result.stopped})")
    tell(f"retained outputs of a layer move by at most {max(result.certificates.values()):.1%} of their energy")
    if not result.forgotten:
        alarm(*_not_forgotten(result, config), head="not forgotten: ", text="red")
    if not result.kept:
        alarm(*_not_kept(result, config), head="not kept: ", text="red")
    if not (result.forgotten and result.kept):
        say(f"A model with this patch must not be released. '{out}' is written, so that it can be looked at.")
        return NOT_TO_RELEASE
    own_code = " --trust-remote-code" if trust_remote_code else ""
    tell(f"next: unsee apply --model {model} --patch {out / 'patch'} --out NEW_MODEL{own_code}")
    return 0


def _not_forgotten(result: Result, config: ForgetConfig) -> list[str]:
    """What is left, and what to do."""
    most, steps = max(result.left, key=lambda c: result.left[c]), len(result.history)
    other = "more images of each concept, and fewer concepts at once"
    more = f"more --steps than {config.steps}" if steps >= config.steps else f"a lower --stop than {config.stop:g}"
    return [
        f"held-back views still show {result.share:.0%} of their identity after {steps} steps, those of '{most}' "
        f"{result.left[most]:.0%}; --most-left is {config.most_left:.0%}.",
        f"What helps: {more}, {other}; and no image of what is to be forgotten among --retain, --neutral or the "
        f"--statistics.",
    ]


def _not_kept(result: Result, config: ForgetConfig) -> list[str]:
    """What has moved, and what to do."""
    most = max(result.certificates, key=lambda name: result.certificates[name])
    return [
        f"retained outputs of '{most}' have moved by {result.certificates[most]:.0%} of their energy; "
        f"--most-retained is {config.most_retained:.0%}.",
        f"What helps: a lower --lr than {config.lr:g} or --max-step-drift than {config.max_step_drift:g}, a larger "
        f"--penalty than {config.penalty:g}, and fewer concepts at once.",
    ]


def _dry_run(
    visual: Visual,
    request: Request,
    statistics: Path | None,
    config: ForgetConfig,
    never: Visual | None,
    started: float,
) -> None:
    from unsee.plan import plan
    from unsee.prepare import prepare
    from unsee.vision.attention import attention_for

    with attention_for(visual.model, config.bf16):
        job = prepare(visual, request, statistics, config, never)
        lines = plan(visual, job, time.perf_counter() - started, bool(request.retain)).lines()
    tell(*lines)


def _request(forget: Path, retain: Path | None, neutral: Path | None, concepts: str, skip_bad: bool) -> Request:
    """Read the folders. Where retained images lie in the same folder, what is to be forgotten is taken out of them."""
    everything = read(forget, skip_bad)
    asked, twice = once(pick(everything, concepts, "--concepts"))
    if twice:
        say(f"left out {len(twice)} image(s) to forget that are there twice, first {twice[0]}")
    if retain and retain.resolve() == forget.resolve():
        ids = {c.id for c in asked}
        kept = [c for c in everything if c.id not in ids]
        if not kept:
            raise UnseeError(f"all of '{forget}' is to be forgotten, so nothing is left for --retain: give --concepts.")
    else:
        kept = read(retain, skip_bad) if retain else []
    return Request(asked, kept, read(neutral, skip_bad) if neutral else [])


def statistics(
    *,
    model: str,
    images: Path,
    out: Path,
    concepts: str = "",
    without: str = "",
    skip_bad: bool = False,
    depth: float = ForgetConfig.depth,
    cache: Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: Device = "auto",
) -> None:
    """Record statistics of images that are to stay, so that the images can be deleted.

    Under torchrun the work is shared.

    Args:
        model: folder of the multimodal checkpoint, or its hub name; its language model is neither loaded nor downloaded
        images: DIR/<concept>/*.jpg
        out: new file
        depth: share of the tower's blocks, the last ones, that a request with these statistics may train
        cache: folder of what frozen layers make of each image, as for `unsee forget`
        revision: branch, tag or commit of a hub name
        trust_remote_code: run code that the checkpoint brings along
        device: where the visual module runs; auto: a GPU where there is one
        concepts: only these folders, with commas: fr,de
        without: all but these folders
        skip_bad: leave out images that cannot be read, and say which
    """
    refuse_existing(out)
    chosen = pick(read(images, skip_bad), concepts, "--concepts")
    unwanted = {c.id for c in pick(chosen, without, "--without")} if without else set()
    chosen = [c for c in chosen if c.id not in unwanted]
    steady_memory(model)
    from unsee import api
    from unsee.vision.module import load_visual

    with processes.alike():
        visual = load_visual(model, revision, trust_remote_code, device_of(device))
    if skip_bad:
        chosen = fitting(visual, chosen)
    with only_here(out):
        moments = api.statistics(visual, None, chosen, ForgetConfig(depth=depth), cache)
        with processes.alike():
            if processes.first():
                moments.save(out)
    tell(f"{out}: {moments.images} images of {len(chosen)} concepts, {len(moments.layers)} layers")


def add_statistics(files: tyro.conf.Positional[tuple[Path, ...]], *, out: Path) -> None:
    """Add up statistics of different images, recorded with the same model.

    Args:
        files: files made by `unsee statistics`
        out: new file
    """
    refuse_existing(out)
    from unsee.forgetting.moments import Moments

    if len(files) < 2:
        raise UnseeError(f"{len(files)} file(s) to add up. Give at least 2.")
    first, *others = (Moments.load(f) for f in files)
    total = sum(others, start=first)
    total.save(out)
    tell(f"{out}: {total.images} images, {len(total.layers)} layers")
