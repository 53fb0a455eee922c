"""What unsee would do with a model, from its config and headers alone: no weight is read."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import AutoImageProcessor

from unsee.config import ForgetConfig
from unsee.vision.blocks import ACTIVATIONS, ROOM, tower, upper_layers
from unsee.vision.checkpoint import Checkpoint, readable
from unsee.vision.families import OTHER
from unsee.vision.module import Visual, load_visual
from unsee.vision.trace import Strange, Trace, follow, running
from unsee.vision.whole import refuse_incomplete, spare

SIDE = 336  # pixels of the square image that is followed through the model
PROGRAM = 800 * 2**20  # bytes that Python, torch and transformers take by themselves


@dataclass(frozen=True)
class Inspection:
    """``trained``: names of the layers that would train. ``traced``: of a grey image, SIDE pixels wide."""

    checkpoint: Checkpoint
    visual: Visual
    traced: Trace
    trained: list[str]
    depth: float
    speed: float  # flops a second, of bfloat16 matrix products here

    @property
    def weights(self) -> int:
        """Parameters of the trained layers."""
        return sum(x.out * x.width for n, x in self.traced.linears.items() if n in self.trained)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of a request where they are most, by what takes them: while it is prepared, or in its loop."""
        linears, parameters = self.traced.linears, self.visual.parameters()
        moments = sum({x.shares: x.width**2 for n, x in linears.items() if n in self.trained}.values())
        blocks = [b for b in tower(linears) if not any(n.startswith(f"{b}.") for n in self.trained)]
        lower = sum(p.numel() for n, p in parameters.items() if any(n.startswith(f"{b}.") for b in blocks))
        whole = sum(p.numel() for p in parameters.values())
        every = {"images": ROOM, "Python, torch, transformers": PROGRAM}
        prepared = {"visual weights": 4 * whole, "moments": 8 * moments, **every}
        loop = {
            "visual weights from the first trained block on": 4 * (whole - lower), "Adam": 8 * self.weights,
            "gradients, weights before": 6 * self.weights, "moments in bfloat16": 2 * moments,
            "activations": ACTIVATIONS, **every,
        }  # fmt: skip
        return max(prepared, loop, key=lambda parts: sum(parts.values()))

    def lines(self) -> list[str]:
        """For a person."""
        config, family, checkpoint = self.checkpoint.config, self.visual.family, self.checkpoint
        stored = self._stored()
        every, memory = len(set(checkpoint.shards.values())), self.memory
        known = f"{family.encoder}, {family.projector}" if family is not OTHER else "not in the list; can be followed"
        parameters = sum(p.numel() for p in self.visual.parameters().values())
        forward = self.traced.flops / self.speed
        return [
            f"family       {config.model_type} ({type(self.visual.model).__name__}): {known}",
            f"dtype        {', '.join(sorted({str(d).removeprefix('torch.') for d, _ in stored}))} on disk, "
            "float32 in training",
            f"reads        {len(stored)} of {len(checkpoint.shards):,} tensors, {size(sum(n for _, n in stored))}, "
            f"from {len(checkpoint.visual_files)} of {every} file(s); the language model is not read",
            f"features     {self.traced.features[0]} × {self.traced.features[1]} of an image {SIDE} pixels wide, "
            f"{self.traced.flops / 1e9:,.0f} GFLOP",
            f"trains       {len(self.trained)} layers, {self.weights:,} of {parameters:,} visual parameters",
            *(f"  {name}  {x.out} × {x.width}" for name, x in self.traced.linears.items() if name in self.trained),
            "stays as it is",
            *self._frozen(),
            f"memory       about {size(sum(memory.values()))}",
            *(f"  {size(n)} {what}" for what, n in memory.items()),
            f"time         {forward:.2g} s an image forward, {3 * forward:.2g} s forward and backward through all, "
            "on this machine; unsee forget --dry-run measures a request",
        ]

    def _stored(self) -> list[tuple[torch.dtype, int]]:
        """Dtype and bytes on disk of each visual tensor; of a hub's that was not downloaded, by its config."""
        checkpoint, state = self.checkpoint, self.visual.model.state_dict()
        found = []
        for name, module in checkpoint.visual.items():
            if (checkpoint.folder / checkpoint.shards[name]).is_file():
                entry = checkpoint.entry(name)
                found.append((entry.dtype, entry.end - entry.start))
            else:
                dtype = checkpoint.config.dtype or torch.float32
                found.append((dtype, state[module].numel() * dtype.itemsize))
        return found

    def _frozen(self) -> list[str]:
        lower = [n for n in self.traced.linears if n not in self.trained]
        reasons = Counter(self.traced.frozen.values())
        first = {why: name for name, why in reversed(self.traced.frozen.items())}
        lines = (
            [f"  {len(lower)} layers: below the last {self.depth:.0%} of the blocks ({lower[0]} …)"] if lower else []
        )
        lines += [f"  {count} parameter(s): {why} ({first[why]} …)" for why, count in reasons.most_common()]
        more = spare(self.checkpoint)
        if more:
            lines.append(f"  {len(more)} tensor(s) of blocks that config.json does not ask for: not read ({more[0]} …)")
        return lines


def inspect(model: str, revision: str | None, trust: bool, depth: float = ForgetConfig.depth) -> Inspection:
    """Follow a grey image through the model's skeleton. UnseeError: what the model lacks."""
    checkpoint = Checkpoint.open(model, revision, trust)
    with readable(model):
        processor = AutoImageProcessor.from_pretrained(checkpoint.folder, trust_remote_code=trust)
    refuse_incomplete(checkpoint)
    visual = Visual(checkpoint.skeleton, processor)
    visual.checkpoint = checkpoint
    visual.refuse_unlike()
    grey = PIL.Image.fromarray(np.full((SIDE, SIDE, 3), 127, dtype=np.uint8))
    (pixels,) = visual.pixels([grey])
    try:
        traced = follow(visual, pixels)
    except Strange:  # shapes hang on values: its weights are needed
        with running(visual, pixels):
            traced = follow(load_visual(model, revision, trust), pixels)
    return Inspection(checkpoint, visual, traced, upper_layers(traced.linears, depth), depth, speed())


def speed(side: int = 1024) -> float:
    """Floating-point operations a second in a bfloat16 matrix product: a tenth of a second's test."""
    matrix: Any = torch.ones(side, side, dtype=torch.bfloat16)
    matrix @ matrix
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        matrix @ matrix
        times += 1
    return 2 * side**3 * times / (time.perf_counter() - started)


def size(count: int) -> str:
    """``1536`` → ``1.5 KiB``."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.4g} {unit}"
