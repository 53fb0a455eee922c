"""A step of forgetting beside one of GradDiff and one of NPO: time and memory, same model and images, in one run.

    python benchmarks/versus.py --shape small --steps 5 --warmup 2 --out FILE    anywhere, in about two minutes
    python benchmarks/versus.py --shape llava-1.5-7b --out FILE                  one GPU
    python benchmarks/versus.py --shape llava-1.5-7b --request --out FILE        and a whole request
    python benchmarks/versus.py --folder build/llava --out FILE                  a checkpoint of LLaVA's layout

Models have random weights (benchmarks/shapes.py), images are drawn. A *presentation* is an image that passes through
one training step; every step takes ``--batch`` images to forget and as many retained ones, 4 as in MLLMU-Bench. Each
method has a process of its own: warm-up steps, then ``--steps`` timed ones. ``seconds_per_presentation`` is the median,
``spread`` the fastest and the slowest. ``peak_bytes``: on a GPU the most memory that torch allocated there from the
first weight on; on a CPU the process's resident memory at most (VmHWM), less what it held before the first weight
(``idle_bytes``; an interpreter that only imports torch and transformers: ``baseline_bytes``). ``step_peak_bytes``: the
same of the timed steps. ``resident_peak_bytes``: of the whole process, nothing taken off.

- *unsee*: the visual module alone, in float32, with bfloat16 products; no language model is read or built. Its layers,
  moments, region and penalty are those of a request with the default settings, but for region ``mean``: no neutral
  images, so that a step has as many images as the rivals'. *unsee-batch-32*: with the default batch. What comes before
  the first step is ``prepare_seconds``, and is not in the figures of a step; it is in those of ``--request``.
- *graddiff*: −CE(answers about images to forget) + CE(answers about retained ones). *npo*: −2/β · log σ(−β (log π −
  log π_ref)), log π summed over an answer's tokens, + CE(retained). Both as MLLMU-Bench and MMUnlearner train LLaVA:
  LoRA of rank 16, α 16, dropout 0.05 on every linear layer of the language model, AdamW, lr 2e-5, batch 4. The image's
  tokens come first, then ``--text`` of question and answer, half of them each; only answers have labels.
  *-checkpointing*: blocks are recomputed in the backward pass.

Wherever the rivals leave a choice they have the cheap one: adapters in bfloat16 as the base is, no adapter on the
vision tower (peft's match by suffix put some there in MLLMU-Bench), logits of answers alone, the two losses one after
the other (the gradient is the same, activations are of one), pixels on the device before the first step, and NPO's
reference is computed once, so there is no second model and no second pass.

``--request``: api.forget with the default settings, as many people and retained images as MLLMU-Bench's 5 % request
has (25 with 8 images each, 475, and 200 neutral ones; of other shapes fewer), images in memory, until the patch is
made. A tower with random weights forgets sooner than a taught one: ``--config '{"stop": 0}'`` takes all 300 steps.
``steps_alone``: what the steps of each method would take for as many presentations. The rivals' papers take fewer: one
epoch of the images to forget and the retained ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from cost import Opened
from peft import LoraConfig, get_peft_model
from realsize import BASELINE, MIB, draw, machine, measure, memory
from shapes import SHAPES, llava, make, skeleton, stack, visual_parameters
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

from unsee import api, prepare
from unsee.concepts import Concept, Request
from unsee.config import ForgetConfig
from unsee.files import write_json
from unsee.progress import say
from unsee.runs import command_line, revision
from unsee.vision.attention import attention_for
from unsee.vision.module import load_visual

# Twenty parameters of language to one of vision, as LLaVA-1.5-7B has.
SHAPES["small"] = llava(
    stack(1024, 2752, 12, 16, vocab_size=2064), stack(256, 1024, 8, 4, image_size=112), 1_000_000_000
)
LARGE = "llava-1.5-7b"
PEOPLE = {"forget": (3, 6), "retain": (24, 1)}  # concepts, and images of each
REQUEST = {"forget": (25, 8), "retain": (475, 1), "neutral": (200, 1)}
SMALL_REQUEST = {"forget": (3, 8), "retain": (40, 1), "neutral": (20, 1)}
LORA = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.05, "init_lora_weights": "gaussian"}
LORA["target_modules"] = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
RATE, BETA = 2e-5, 0.1
TEXT = 64  # tokens of question and answer behind the 576 of an image
Step = Callable[[int], Any]
Row = dict[str, Any]


def people(sets: dict[str, tuple[int, int]]) -> dict[str, list[Concept]]:
    """Drawn images in memory, no concept in two sets."""
    found, first = dict[str, list[Concept]](), 0
    for kind, (count, views) in sets.items():
        ids = range(first, first := first + count)
        found[kind] = [Concept(f"{c}", tuple(Opened(f"{c}/{v}", draw(c, v)) for v in range(views))) for c in ids]
    return found


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def clock(device: str) -> float:
    """Seconds, when the device has done all it was given."""
    synchronise(device)
    return time.perf_counter()


def timed(args: argparse.Namespace, step: Step, presentations: int) -> Row:
    """Figures of ``step``, a function of its number, that takes so many images."""
    for number in range(args.warmup):
        step(number)
    before = peak(args.device, anew=True)
    seconds = []
    for number in range(args.steps):
        started = clock(args.device)
        step(args.warmup + number)
        seconds.append((clock(args.device) - started) / presentations)
    row: Row = {"seconds_per_presentation": median(seconds), "spread": [min(seconds), max(seconds)]}
    most = peak(args.device)
    return row | {
        "presentations_per_step": presentations, "each_step": seconds,
        "step_peak_bytes": most, "peak_bytes": max(before, most),
    }  # fmt: skip


def peak(device: str, anew: bool = False) -> int:
    """The most bytes that the GPU, or this process, held so far. ``anew``: the next time, the most from now on."""
    most = torch.cuda.max_memory_allocated() if device == "cuda" else memory(os.getpid())[0] * MIB
    if anew and device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif anew:
        with suppress(OSError):  # where it is not allowed, the steps' peak is the whole process's
            Path("/proc/self/clear_refs").write_text("5")  # the highest mark becomes what is held now
    return most


def ours(args: argparse.Namespace, batch: int | None = None) -> Row:
    """Our step. ``batch``: in place of the one that was asked for."""
    config = replace(ForgetConfig(**json.loads(args.config)), region="mean", batch=batch or args.batch)
    visual, asked = load_visual(args.folder, device=args.device), people(PEOPLE)
    started = clock(args.device)
    with attention_for(visual.model, training=False):
        job = prepare.prepare(visual, Request(**asked), None, config)
    prepared = clock(args.device) - started

    def step(number: int) -> None:
        job.gradients(number)
        job.optimizer.step()

    eager = config.bf16 and job.module.few_rows
    with attention_for(visual.model, eager), visual.training(f"{n}.weight" for n in job.layers):
        row = timed(args, step, sum(min(config.batch, len(s)) for s in (job.forget, job.retain)))
    images = len(job.forget) + len(job.check) + len(job.retain)
    row |= {"prepare_seconds": prepared, "prepared_images": images, "skipped_blocks": len(job.module.lower)}
    return row | {"trained_parameters": sum(m.weight.numel() for m in job.layers.values())}


def tuned(args: argparse.Namespace, checkpointing: bool) -> Any:
    """The whole model with random weights in bfloat16, made where it runs, and LoRA on its language model."""
    torch.manual_seed(0)
    with torch.device(args.device):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(args.folder), dtype=torch.bfloat16)
    model.requires_grad_(False)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return get_peft_model(model, LoraConfig(**LORA), autocast_adapter_dtype=False)


def samples(args: argparse.Namespace, config: Any, concepts: Sequence[Concept]) -> list[dict[str, Tensor]]:
    """Whole batches of (image, question, answer), on the device: random words behind an image's tokens."""
    processor, size = AutoImageProcessor.from_pretrained(args.folder), args.batch
    images, rng = [i.load() for c in concepts for i in c.images], torch.Generator().manual_seed(0)
    found = []
    for start in range(0, len(images) - size + 1, size):
        pixels = processor(images=images[start : start + size], return_tensors="pt")["pixel_values"]
        picture = torch.full((size, image_tokens(config)), config.image_token_id)
        words = torch.randint(3, config.image_token_id, (size, text_tokens(args, config)), generator=rng)
        ids = torch.cat([picture, words], 1)
        found.append({"input_ids": ids.to(args.device), "pixel_values": pixels.to(args.device, torch.bfloat16)})
    return found


def image_tokens(config: Any) -> int:
    return (config.vision_config.image_size // config.vision_config.patch_size) ** 2


def text_tokens(args: argparse.Namespace, config: Any) -> int:
    """Unless they were asked for, as many beside the image's as there are in the large shape; an even number."""
    return args.text or 2 * max(2, round(TEXT / 2 * image_tokens(config) / 576))


def log_probability(model: Any, batch: dict[str, Tensor], answer: int) -> Tensor:
    """Of each answer, the last ``answer`` tokens: summed over them."""
    logits = model(**batch, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1]
    truth = batch["input_ids"][:, -answer:]
    return -cross_entropy(logits.flatten(0, 1).float(), truth.flatten(), reduction="none").view_as(truth).sum(1)


def rival(args: argparse.Namespace, npo: bool, checkpointing: bool) -> Row:
    model, sets = tuned(args, checkpointing), people(PEOPLE)
    forget, retain = (samples(args, model.config, sets[kind]) for kind in ("forget", "retain"))
    answer, reference = text_tokens(args, model.config) // 2, list[Tensor]()
    started = clock(args.device)
    if npo:
        with torch.no_grad():
            reference = [log_probability(model.eval(), batch, answer) for batch in forget]
    row: Row = {"prepare_seconds": clock(args.device) - started}
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=RATE), list[Tensor]()

    def step(number: int) -> None:
        optimizer.zero_grad()
        there = number % len(forget)
        told = log_probability(model, forget[there], answer)
        loss = away(told, reference[there]) if npo else told.mean() / answer
        loss.backward()
        kept = -log_probability(model, retain[number % len(retain)], answer).mean() / answer
        kept.backward()
        optimizer.step()
        losses.append(torch.stack([loss.detach(), kept.detach()]))

    row |= timed(args, step, 2 * args.batch)
    row |= {"trained_parameters": sum(p.numel() for p in trained), "dtypes": sorted({str(p.dtype) for p in trained})}
    row |= {"image_tokens": image_tokens(model.config), "text_tokens": text_tokens(args, model.config)}
    row |= {"answer_tokens": answer, "parameters": sum(p.numel() for p in model.parameters())}
    return row | {"first_losses": losses[0].tolist(), "last_losses": losses[-1].tolist()}


def away(told: Tensor, reference: Tensor) -> Tensor:
    """NPO's loss of answers that are to become less likely than they were."""
    return -2 / BETA * logsigmoid(-BETA * (told - reference)).mean()


METHODS: dict[str, Callable[[argparse.Namespace], Row]] = {
    "unsee": ours,
    "unsee-batch-32": partial(ours, batch=32),
    "graddiff": partial(rival, npo=False, checkpointing=False),
    "graddiff-checkpointing": partial(rival, npo=False, checkpointing=True),
    "npo": partial(rival, npo=True, checkpointing=False),
    "npo-checkpointing": partial(rival, npo=True, checkpointing=True),
}


def request(args: argparse.Namespace) -> Row:
    """A whole request, from opened images to the patch."""
    config = replace(ForgetConfig(), **json.loads(args.config))
    sizes = REQUEST if args.shape == LARGE else SMALL_REQUEST
    visual, asked = load_visual(args.folder, device=args.device), people(sizes)
    started = clock(args.device)
    done = api.forget(visual, **asked, config=config)
    row: Row = {"seconds": clock(args.device) - started, **done.cost, "steps": len(done.history)}
    row |= {"peak_bytes": peak(args.device), "stopped": done.stopped}
    row |= {"images": {kind: n * views for kind, (n, views) in sizes.items()}}
    times = {"forget": 1 + prepare.copies(asked["forget"])}
    times |= {kind: 1 + prepare.fill(asked[kind]) for kind in ("retain", "neutral")}
    row["looked_at"] = sum(len(c.images) * times[kind] for kind in asked for c in asked[kind])
    return row | {"presentations": row["steps"] * 3 * config.batch}


def child(args: argparse.Namespace) -> None:
    """What runs in a process of its own."""
    skeleton(args.folder)  # imports what a model of this kind needs
    idle = sum(memory(os.getpid())[1:]) * MIB
    row = request(args) if args.method == "request" else METHODS[args.method](args)
    if args.device == "cuda":
        row["device"] = torch.cuda.get_device_name()
    else:
        row |= {"idle_bytes": idle, **{k: row[k] - idle for k in row if k.endswith("peak_bytes")}}
    write_json(args.out, row)


def apart(args: argparse.Namespace, method: str, folder: Path) -> Row:
    """``method`` in a process of its own, with the peak of its memory; or the error it ended with."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "row.json"
        names = ("shape", "device", "batch", "steps", "warmup", "text", "config")
        given = {name: getattr(args, name) for name in names}
        given |= {"method": method, "folder": folder, "out": out}
        flags = [part for name, value in given.items() for part in (f"--{name}", f"{value}")]
        process = measure([sys.executable, __file__, *flags])
        row: Row = {} if process["exit"] else json.loads(out.read_text())
    row |= {"resident_peak_bytes": process["peak_mib"] * MIB, "process_seconds": process["seconds"]}
    return row | {k: v for k, v in process.items() if k == "error"}


def ratios(methods: dict[str, Row]) -> dict[str, dict[str, Row]]:
    """How many times as much each rival takes as we do."""
    done = {n: row for n, row in methods.items() if "error" not in row}
    mine = [n for n in done if n.startswith("unsee")]
    keys = {"time": "seconds_per_presentation", "memory": "peak_bytes", "step_memory": "step_peak_bytes"}
    return {
        one: {n: {k: row[v] / done[one][v] for k, v in keys.items()} for n, row in done.items() if n not in mine}
        for one in mine
    }


def counted(folder: Path) -> dict[str, Any]:
    """Parameters of the shape, by what they are for."""
    model = skeleton(folder)
    visual, every = (sum(p.numel() for p in ps) for ps in (visual_parameters(model).values(), model.parameters()))
    return {"visual": visual, "language": every - visual, "language_per_visual": (every - visual) / visual}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", help="a LLaVA's; not needed where a folder is given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4, help="images to forget a step, and retained ones")
    parser.add_argument("--steps", type=int, default=10, help="timed ones")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--text", type=int, default=0, help="tokens; 0: one to nine of the image's")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between")
    parser.add_argument("--request", action="store_true", help="measure a whole request too")
    parser.add_argument("--config", default="{}", help="ours: JSON of ForgetConfig fields that differ")
    parser.add_argument("--folder", help="a checkpoint of LLaVA's layout, made before (its tower's weights are read)")
    parser.add_argument("--method", help=argparse.SUPPRESS)  # of a process that measures one
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not args.folder and args.shape not in SHAPES:
        parser.error(f"--shape {args.shape}: give one of {', '.join(SHAPES)}, or --folder of a checkpoint")
    args.shape = args.shape or Path(args.folder).name
    return args


def compare(args: argparse.Namespace, folder: Path) -> Row:
    baseline = measure(BASELINE)["peak_mib"] * MIB
    methods = {name: apart(args, name, folder) for name in args.methods.split(",")}
    found: Row = {"device": next((r["device"] for r in methods.values() if "device" in r), args.device)}
    found |= {"shape": args.shape, "parameters": counted(folder), "baseline_bytes": baseline}
    found |= {"methods": methods, "ratios": ratios(methods)}
    if args.request:
        row = found["request"] = apart(args, "request", folder)
        each = {n: r["seconds_per_presentation"] for n, r in methods.items() if "error" not in r}
        row["steps_alone"] = {n: row["presentations"] * s for n, s in each.items() if "presentations" in row}
    return found


def main() -> None:
    args = arguments()
    if args.method:
        child(args)
        return
    at = revision()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder) if args.folder else make(args.shape, Path(scratch) / args.shape)
        found = compare(args, folder)
    write_json(
        args.out, {**found, "command": command_line("python benchmarks/versus.py"), "commit": at, "machine": machine()}
    )
    for mine, rows in found["ratios"].items():
        for name, row in rows.items():
            say(f"{name} takes {row['time']:.1f} times the time and {row['memory']:.1f} times the memory of {mine}")


if __name__ == "__main__":
    main()
