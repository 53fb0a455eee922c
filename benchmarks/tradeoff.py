"""Retention against forgetting over strength, for every constraint, with and without retain images.

    python benchmarks/tradeoff.py --study people --vanilla DIR --out benchmarks/results/tradeoff-people-llava.json

Strength is the weight with which targets pull (contrast and ``anchor`` together) against what holds the rest (``keep``
and ``penalty``). Each point is one request of as many steps, without the stop rule. ``python benchmarks/tables.py``
draws docs/tradeoff.png of all results.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import get_args

from request import VIEWS, brief, study_of

from unsee.concepts import Request
from unsee.config import Constraint, ForgetConfig
from unsee.evaluation import tasks
from unsee.files import write_json
from unsee.prepare import prepare, stand_ins
from unsee.progress import say
from unsee.runs import command_line, revision
from unsee.vision.attention import attention_for
from unsee.vision.module import Visual, load_full

STRENGTHS = (0.3, 1.0, 4.0, 16.0, 64.0)
STEPS = 120
SIZE = tasks.Size(forget=4, retain=1, heldout=2, strangers=50, facts=1, attributes=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("people", "flags"), default="people")
    parser.add_argument("--root", default="../shared/data/flags")
    parser.add_argument("--vanilla", required=True)
    parser.add_argument("--split", default="forget_10")
    parser.add_argument("--out", required=True)
    args, at = parser.parse_args(), revision()
    study = study_of(args)
    model, processor = load_full(args.vanilla)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    visual = Visual(model, processor)
    exam = tasks.exam(visual, study, args.split, size=SIZE)
    forget_ids, retain_ids = study.split(args.split)
    shown = (study.concepts(forget_ids, VIEWS["forget"]), study.concepts(retain_ids, VIEWS["retain"]), study.neutral())
    base = replace(ForgetConfig(), steps=STEPS, stop=0.0)
    points = []
    with attention_for(model, base.bf16):
        job = prepare(visual, Request(*shown), None, base)
        kept = {"retain": job.retain, "statistics": stand_ins(job, job.module, base)}
        for mode, retain in kept.items():
            for form in get_args(Constraint):
                for strength in STRENGTHS:
                    config = replace(base, constraint=form, keep=base.keep / strength, penalty=base.penalty / strength)
                    job.variant(config, retain).run()
                    metrics = tasks.metrics(tasks.sit(model, processor, exam, probabilities=False))
                    model.load_state_dict(state)
                    points.append({"form": form, "mode": mode, "strength": strength, "metrics": metrics})
                    say(f"{form} {mode} strength {strength}: {brief(metrics)}")
    write_json(args.out, {"points": points, "command": command_line("python benchmarks/tradeoff.py"), "commit": at})


if __name__ == "__main__":
    main()
