"""The main job, measured: forget N concepts with retain images in the loss, or two of each, or statistics alone.

    python benchmarks/request.py --study people --vanilla DIR --gold DIR --out benchmarks/results/people-llava.json
    python benchmarks/request.py --study flags --root ../shared/data/flags --vanilla DIR --gold DIR --out …
    python benchmarks/request.py --study groceries --vanilla DIR --gold DIR --gold DIR --gold DIR --out …

Each draw of the request is another set of concepts; each gold was trained without one draw's, in order. Figures are on
unseen views and phrasings, with 95 % bootstrap intervals over concepts. ``known`` has them for what vanilla knew, and
``twins`` names of what stays and shares brand and category, or family, with a concept to forget. Each draw is written
when it is done; the same command goes on after the last one.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from photographs.sets import PHOTOS, SETS

from unsee import api
from unsee.config import ForgetConfig
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS, FolderStudy, PeopleStudy, Study
from unsee.evaluation import statistics, tasks
from unsee.files import write_json
from unsee.progress import say
from unsee.runs import command_line, revision
from unsee.untrusted import read_yaml
from unsee.vision.module import Visual, load_full

FLAGS = PHOTOS.parent / "flags"
VIEWS = {"forget": FORGET_VIEWS, "retain": RETAIN_VIEWS, "two": 2}
SIZES = {"people": tasks.Size(10, 2, 4, 100), "flags": tasks.Size(4, 4, 4, 100)}
PHOTOGRAPHED = tasks.Size(5, 5, 5, 100, 1)
STUDIES = {"groceries": "groceries", "landmarks": "landmarks", "photographed-people": "people"}


def study_of(args: argparse.Namespace) -> Study:
    if args.study == "people":
        return PeopleStudy()
    if args.study in STUDIES:
        return SETS[STUDIES[args.study]].study(Path(args.root or PHOTOS))
    root = Path(args.root or FLAGS)
    return FolderStudy(root, root / "facts.csv", Path(__file__).parent.parent / "recipes" / "flags.yaml")


def given_settings(text: str) -> dict[str, Any]:
    """Of a YAML file, or of JSON."""
    return read_yaml(Path(text)) if Path(text).is_file() else json.loads(text)


def run(args: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What is known after each draw; ``rows``: of draws that an interrupted run has done."""
    study, size = study_of(args), SIZES.get(args.study, PHOTOGRAPHED)
    if args.quick:
        size = replace(size, retain=1, heldout=1)
    sit = partial(tasks.sit, probabilities=args.probabilities)
    model, processor = load_full(args.vanilla)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    visual = Visual(model, processor)
    config = replace(ForgetConfig(), **given_settings(args.config))
    told = {"cached": bool(args.cache), "study": args.study, "split": args.split, "config": asdict(config)}
    for draw in range(len(rows), args.draws):
        exam = tasks.exam(visual, study, args.split, draw, size)
        forget_ids, retain_ids = study.split(args.split, draw)
        before = sit(model, processor, exam)
        row: dict[str, Any] = {"draw": draw, "vanilla": tasks.metrics(before)}
        gold_items = None
        if draw < len(args.gold):
            gold_items = sit(load_full(args.gold[draw])[0], processor, exam)
            row["gold"] = tasks.metrics(gold_items)
        forget = study.concepts(forget_ids, VIEWS["forget"])
        retain = study.concepts(retain_ids, VIEWS["retain"])
        for mode in args.modes.split(","):
            shown: dict[str, Any] = {"retain": study.concepts(retain_ids, VIEWS.get(mode, 0))}
            if mode == "statistics":
                shown = {"statistics": api.statistics(model, processor, retain, config, args.cache)}
            result = api.forget(
                model, processor, forget=forget, neutral=study.neutral(), config=config, cache=args.cache, **shown
            )
            items = sit(model, processor, exam)
            known = [i for i, b in zip(items, before, strict=True) if b.correct]
            row[mode] = {
                "metrics": tasks.metrics(items),
                "known": tasks.metrics(known),
                "twins": names_of(known, study.twins(forget_ids)),
                "misnamed": asdict(tasks.misnamed(items, exam.retained)),
                "text_identical": tasks.text_identical(visual, state, before, items),
                "seconds": result.cost["loop_seconds"] + (0 if args.cache else result.cost["prepare_seconds"]),
                "steps": len(result.history),
                "stopped": result.stopped,
                "left": result.left,
                "largest_certificate": max(result.certificates.values()),
                "certificate": sum(result.certificates.values()),
            }
            if gold_items and args.probabilities:
                row[mode]["distance_to_gold"] = tasks.distance(items, gold_items)
            model.load_state_dict(state)
            say(f"draw {draw} {mode}: " + brief(row[mode]["metrics"]))
        rows = [*rows, row]
        yield told | {"draws": rows}


def names_of(items: Sequence[tasks.Item], concepts: Collection[str]) -> statistics.Share | None:
    """Names given on images of some concepts that stay; None: no such image."""
    chosen = [i for i in items if i.group != "forget" and i.question.concept in concepts]
    named = [i for i in chosen if i.question.image and i.question.kind == "identity"]
    return statistics.share([float(i.correct) for i in named], [i.question.concept for i in named]) if named else None


def brief(metrics: dict[str, dict[str, float]]) -> str:
    return " ".join(f"{k} {v['value']:.3f}" for k, v in metrics.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("people", "flags", *STUDIES), default="people")
    parser.add_argument("--root", help="folder of the flags, or of the three sets of photographs")
    parser.add_argument("--vanilla", required=True)
    parser.add_argument("--gold", action="append", default=[], help="of a draw; again for the next one")
    parser.add_argument("--split", default="forget_10")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--modes", default="retain,statistics", help="of retain, two (pictures of each), statistics")
    parser.add_argument("--config", default="{}", help="ForgetConfig fields that differ: JSON, or a YAML file")
    parser.add_argument("--cache", type=Path, help="folder of frozen features; the seconds are then of the steps alone")
    parser.add_argument("--quick", action="store_true", help="one view of each concept that stays")
    parser.add_argument(
        "--probabilities", action=argparse.BooleanOptionalAction, default=True,
        help="of answers too, for the distance to gold: twice the time",
    )  # fmt: skip
    parser.add_argument(
        "--bf16", action="store_true", help="questions are asked in bfloat16: faster on some processors"
    )
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    started, out, command = time.time(), Path(args.out), command_line("python benchmarks/request.py")
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if before.get("command") != command or len(before["draws"]) >= args.draws:
        before = {}  # of another command, or complete
    made = {
        "command": command,
        "commit": ", ".join(sorted({*before.get("commit", "").split(", "), revision()} - {""})),
        "machine": {"cpu": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }
    # Without its cache, which would ask a model that has forgotten with the weights of before.
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16, cache_enabled=False):
        for found in run(args, before.get("draws", [])):
            write_json(out, found | made | {"seconds": before.get("seconds", 0) + time.time() - started})


if __name__ == "__main__":
    main()
