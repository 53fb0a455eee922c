"""What a request would do and cost: everything is prepared and one batch is timed, nothing is changed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from unsee.forgetting import nullspace
from unsee.forgetting.run import Forgetting
from unsee.memory import peak_memory
from unsee.vision.module import Visual


@dataclass(frozen=True)
class Layer:
    """``free`` of ``width`` input directions can change without touching what is to stay."""

    name: str
    parameters: int
    width: int
    free: float


@dataclass(frozen=True)
class Plan:
    """``seconds``: preparing again and ``config.steps`` steps as long as the timed one. ``bytes``: peak memory."""

    layers: list[Layer]
    images: dict[str, int]
    visual_parameters: int
    seconds: float
    bytes: int

    def lines(self) -> list[str]:
        """The plan for a person."""
        wide = max(len(layer.name) for layer in self.layers)
        trained = sum(layer.parameters for layer in self.layers)
        head = f"{'layer that trains':<{wide}}  {'parameters':>12}  {'free directions':>16}"
        rows = [f"{x.name:<{wide}}  {x.parameters:>12,}  {x.free:>8.1f} of {x.width:>4}" for x in self.layers]
        return [
            head,
            *rows,
            f"trains {len(self.layers)} layers, {trained:,} of {self.visual_parameters:,} visual parameters",
            "images, with altered copies: " + ", ".join(f"{n} {kind}" for kind, n in self.images.items()),
            f"about {clock(self.seconds)} and {self.bytes / 2**30:.1f} GiB of memory; nothing was written",
        ]


def plan(visual: Visual, job: Forgetting, prepared: float, given: bool) -> Plan:
    """``prepared``: seconds that loading and preparing took. ``given``: retained images were, and are not drawn."""
    weights = [m.weight for m in job.layers.values()]
    with visual.training(f"{n}.weight" for n in job.layers):
        started = time.perf_counter()
        job.gradients(0)
        step = time.perf_counter() - started
    sets = {"to forget": job.forget, "held back": job.check, "neutral": job.neutral}
    sets |= {"retained" if given else "drawn from statistics": job.retain}
    return Plan(
        [_layer(job, name) for name in job.layers],
        {kind: len(images) for kind, images in sets.items()},
        sum(p.numel() for p in visual.parameters().values()),
        prepared + step * job.config.steps,
        peak_memory() + 8 * sum(w.numel() for w in weights),  # Adam's two moments, in float32, are not there yet
    )


def _layer(job: Forgetting, name: str) -> Layer:
    weight = job.layers[name].weight
    width = weight.shape[1]
    if job.config.constraint == "cumulative":  # no projector: the soft rule counts what the statistics leave free
        free = nullspace.fit(job.moments.mean(name), "soft", job.config.soft_ratio).rank
    else:
        free = job.rank.get(name, float(width))
    return Layer(name, weight.numel(), width, free)


def clock(seconds: float) -> str:
    """``75`` → ``1 min 15 s``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [(hours, "h"), (minutes, "min"), (whole % 60, "s")]
    shown = [f"{n} {unit}" for n, unit in parts if n]
    return " ".join(shown[:2]) or "a second"
