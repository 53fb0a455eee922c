"""What a request costs beside the bare forward and backward passes it needs, as a ratio in one run.

    python benchmarks/cost.py --vanilla DIR --out results/cost.json

Whole: from opened images to the patch (processor, altered copies, features before, moments, region, steps, checks of
held-back views, certificates). Bare: every image once through the module, and each step's forward and backward pass
with the same batches and the same layers training; once as the loop runs them (from the first trained block on), once
through the whole module, as a loop without that would.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import PIL.Image
import torch
from request import VIEWS

from unsee import api, prepare
from unsee.concepts import Concept
from unsee.config import ForgetConfig
from unsee.data.images import load_all
from unsee.data.study import PeopleStudy
from unsee.files import write_json
from unsee.progress import say
from unsee.runs import command_line, revision
from unsee.vision.attention import attention_for
from unsee.vision.blocks import Upper, upper_layers
from unsee.vision.module import Pixels, Visual, load_full
from unsee.vision.trace import trace


@dataclass(frozen=True)
class Opened:
    """An image already in memory: drawing the faces is no part of a request."""

    id: str
    image: PIL.Image.Image

    def load(self) -> PIL.Image.Image:
        return self.image


def opened(concepts: list[Concept]) -> list[Concept]:
    return [
        Concept(c.id, tuple(Opened(r.id, i) for r, i in zip(c.images, load_all(c.images), strict=True)))
        for c in concepts
    ]


def bare(visual: Visual, sets: list[list[Pixels]], config: ForgetConfig, steps: int, upper: bool) -> float:
    """Seconds of the passes alone. ``sets``: forget images, held-back ones among them, neutral and retained."""
    layers = trace(visual, sets[0][0]).linears
    trained = upper_layers(layers, config.depth)
    weights = [visual.model.get_submodule(n).weight for n in trained]
    short = Upper(visual, layers, trained, sets[0][:2], config.bf16)
    if not upper:
        short.lower = []
    started = time.perf_counter()
    pixels = [[dict(p) for p in s] for s in sets]
    for part in pixels:
        short.look(part)
    for step in range(steps):
        batch = [p for part in pixels[:3] for p in [*part, *part][step % len(part) :][: config.batch]]
        total = torch.stack([f.float().square().mean() for f in short.features(batch)]).sum()
        torch.autograd.grad(total, weights)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vanilla", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", required=True)
    args, at = parser.parse_args(), revision()
    study, config = PeopleStudy(), ForgetConfig()
    forget_ids, retain_ids = study.split("forget_10")
    forget, retain = study.concepts(forget_ids, VIEWS["forget"]), study.concepts(retain_ids, VIEWS["retain"])
    forget, retain, neutral = (opened(c) for c in (forget, retain, study.neutral()))
    runs = []
    for _ in range(args.repeats):
        model, processor = load_full(args.vanilla)
        visual = Visual(model, processor)
        started = time.perf_counter()
        done = api.forget(model, processor, forget=forget, retain=retain, neutral=neutral, config=config)
        whole, steps = time.perf_counter() - started, len(done.history)
        times = (1 + prepare.copies(forget), 1, 1)
        opened_ = [[i.load() for c in concepts for i in c.images] for concepts in (forget, neutral, retain)]
        sets = [visual.pixels(images * n) for images, n in zip(opened_, times, strict=True)]
        with attention_for(model, config.bf16):
            upper, through = (bare(visual, sets, config, steps, short) for short in (True, False))
        runs.append({"whole": whole, "steps": steps, "ratio": whole / upper, "ratio_whole_module": whole / through})
        say(f"whole request {whole:.1f} s, bare passes {upper:.1f} s ({whole / upper:.2f}), of all {through:.1f} s")
    write_json(args.out, {"runs": runs, "command": command_line("python benchmarks/cost.py"), "commit": at})


if __name__ == "__main__":
    main()
