"""What a request costs beside the bare forward and backward passes it needs, as a ratio in one run.

    python benchmarks/cost.py --vanilla DIR --out results/cost.json

Bare: the features of the same images in the same batches, with their backward pass, and one pass over
every image without.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from request import VIEWS, commit

from unsee import api
from unsee.concepts import Request
from unsee.config import ForgetConfig
from unsee.data.study import PeopleStudy
from unsee.files import write_json
from unsee.progress import say
from unsee.vision.module import Visual, load_full


def bare(job: api.Forgetting, steps: int) -> float:
    """Seconds of the passes alone."""
    config = job.config
    started = time.perf_counter()
    with torch.no_grad():
        for images in (job.forget, job.check, job.neutral, job.retain):
            for at in range(0, len(images), api.BATCH):
                job.features(images.pixels[at : at + api.BATCH])
    weights = [m.weight for m in job.layers.values()]
    for _ in range(steps):
        batch = [p for s in (job.forget, job.neutral, job.retain) for p in s.pixels[: config.batch]]
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            total = torch.stack([f.float().square().mean() for f in job.features(batch)]).sum()
        torch.autograd.grad(total, weights)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vanilla", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    study, config = PeopleStudy(), ForgetConfig()
    forget_ids, retain_ids = study.split("forget_10")
    request = Request(
        study.concepts(forget_ids, VIEWS["forget"]), study.concepts(retain_ids, VIEWS["retain"]), study.neutral()
    )
    ratios = []
    for _ in range(args.repeats):
        model, processor = load_full(args.vanilla)
        visual = Visual(model, processor)
        opened = time.perf_counter()
        job = api.prepare(visual, request, None, config)
        done = job.run()
        whole = time.perf_counter() - opened
        passes = bare(job, len(done.history))
        ratios.append(whole / passes)
        say(f"whole request {whole:.1f} s, bare passes {passes:.1f} s, ratio {whole / passes:.2f}")
    command = "python benchmarks/cost.py " + " ".join(sys.argv[1:])
    write_json(args.out, {"ratios": ratios, "command": command, "commit": commit()})


if __name__ == "__main__":
    main()
