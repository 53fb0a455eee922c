"""What statistics cost beside the bare passes, how exact they are, and how long null spaces take, in one run.

    python benchmarks/speed.py --out benchmarks/results/speed.json

A LLaVA-1.5-7B-shaped visual module (CLIP ViT-L/14 at 336 pixels, random weights) looks at random pictures. *Bare*: the
forward pass of a batch alone. *Statistics*: the same with the moments of every layer that a request trains. The two
take turns, on the same batch; the ratio is of their medians, its interval by bootstrap over the turns. *Exact*: the
same moments with every product in float64. *Null spaces*: soft projectors, largest first, of all those layers' inputs,
and of all layers that reach the features (a square and a wide one are timed, and counted).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL.Image
import torch
from realsize import machine
from shapes import make

from unsee.files import write_json
from unsee.forgetting import nullspace
from unsee.forgetting import recorder as recording
from unsee.forgetting.moments import Moments
from unsee.forgetting.recorder import MomentRecorder
from unsee.progress import say
from unsee.runs import command_line, revision
from unsee.vision.blocks import upper_layers
from unsee.vision.module import Pixels, Visual, load_visual
from unsee.vision.trace import trace

RETAINED = 475  # images of MLLMU-Bench's 5 % request that are kept


def passes(visual: Visual, names: list[str], batch: list[Pixels], turns: int, half: bool) -> dict[str, Any]:
    """Seconds an image of either pass, by turns; the ratio of the bare pass to the other is the share of throughput."""
    layers = {n: visual.model.get_submodule(n) for n in names}
    seconds: dict[str, list[float]] = {"bare": [], "statistics": []}
    with torch.no_grad(), torch.autocast(visual.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
        visual.features(batch)
        with MomentRecorder(layers) as recorder:
            visual.features(batch)
        for _ in range(turns):
            seconds["bare"].append(timed(visual, batch))
            with recorder:
                seconds["statistics"].append(timed(visual, batch))
    each = {name: [t / len(batch) for t in times] for name, times in seconds.items()}
    return {"seconds_an_image": {n: median(t) for n, t in each.items()}, **throughput(each)}


def timed(visual: Visual, batch: list[Pixels]) -> float:
    synchronise(visual)
    started = time.perf_counter()
    visual.features(batch)
    synchronise(visual)
    return time.perf_counter() - started


def synchronise(visual: Visual) -> None:
    if visual.device.type == "cuda":
        torch.cuda.synchronize()


def throughput(each: dict[str, list[float]]) -> dict[str, Any]:
    rng, bare, full = np.random.default_rng(0), np.array(each["bare"]), np.array(each["statistics"])
    picks = rng.integers(0, len(bare), (2000, len(bare)))
    drawn = np.median(bare[picks], axis=1) / np.median(full[picks], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"throughput": {"value": float(np.median(bare) / np.median(full)), "low": float(low), "high": float(high)}}


def recorded(visual: Visual, names: list[str], batch: list[Pixels], wide: int) -> Moments:
    before, recording.WIDE = recording.WIDE, wide
    try:
        with MomentRecorder({n: visual.model.get_submodule(n) for n in names}) as recorder, torch.no_grad():
            visual.features(batch)
        return recorder.moments()
    finally:
        recording.WIDE = before


def exactness(visual: Visual, names: list[str], batch: list[Pixels]) -> float:
    """Largest difference of the flushed float32 moments from float64 ones, over the largest entry of a matrix."""
    exact, flushed = recorded(visual, names, batch, 10**9), recorded(visual, names, batch, recording.WIDE)
    pairs = [(exact.matrices[k], flushed.matrices[k]) for k in exact.matrices]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def null_spaces(moments: Moments, every: list[int]) -> dict[str, float]:
    """Seconds of the soft projectors of ``moments``, and of inputs as wide as ``every``."""
    took: dict[int, list[float]] = {}
    for key in sorted(moments.matrices, key=lambda k: -len(moments.matrices[k])):
        started = time.perf_counter()
        nullspace.fit(moments.mean(key), "soft", 0.03)
        took.setdefault(len(moments.matrices[key]), []).append(time.perf_counter() - started)
    return {"trained": sum(map(sum, took.values())), "every_layer": sum(median(took[width]) for width in every)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--folder", help="a checkpoint of that shape, made before (benchmarks/shapes.py)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=7)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", required=True)
    args, at = parser.parse_args(), revision()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder) if args.folder else make(args.shape, Path(scratch) / args.shape)
        visual = load_visual(folder, device=args.device)
    rng = np.random.default_rng(0)
    batch = visual.pixels(
        [PIL.Image.fromarray(rng.integers(0, 256, (384, 384, 3), np.uint8)) for _ in range(args.batch)]
    )
    linears = trace(visual, batch[0]).linears
    names = upper_layers(linears, 0.2)
    result: dict[str, Any] = {}
    for name, half in (("float32", False), ("bfloat16", True)):
        result[name] = passes(visual, names, batch, args.turns, half)
        say(f"{name}: {result[name]}")
    result["float32_moments_off_by"] = exactness(visual, names, batch)
    kept = recorded(visual, names, batch, recording.WIDE)
    inputs = recorded(visual, list(linears), batch[:1], recording.WIDE)
    seconds = null_spaces(kept, [len(m) for m in inputs.matrices.values()])
    one_pass = RETAINED * result["float32"]["seconds_an_image"]["bare"]
    result["null_spaces"] = {"seconds": seconds, "pass_over_475_images": one_pass}
    about = {
        "shape": args.shape,
        "device": args.device,
        "machine": machine(),
        "command": command_line("python benchmarks/speed.py"),
        "commit": at,
    }
    write_json(args.out, {**result, **about})
    say(f"null spaces: {result['null_spaces']}, float32 moments off by {result['float32_moments_off_by']:.1e}")


if __name__ == "__main__":
    main()
