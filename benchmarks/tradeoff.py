"""Retention against forgetting over strength, for every constraint, with and without retain images.

    python benchmarks/tradeoff.py --study people --vanilla DIR --out results/tradeoff-people-llava.json

Strength is the floor of the contrast: the lower, the further a forgotten image is pushed. Each point is one request.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from request import SIZES, VIEWS, brief, commit, study_of

from unsee import api
from unsee.config import ForgetConfig
from unsee.evaluation import tasks
from unsee.files import write_json
from unsee.progress import say
from unsee.vision.module import Visual, load_full

FLOORS = (1.0, 0.3, 0.1, 0.02)
FORMS: dict[str, dict[str, Any]] = {
    "none": {"constraint": "none"},
    "hard": {"constraint": "hard"},
    "soft": {"constraint": "soft"},
    "cumulative": {"constraint": "cumulative"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("people", "flags"), default="people")
    parser.add_argument("--root", default="../shared/data/flags")
    parser.add_argument("--vanilla", required=True)
    parser.add_argument("--split", default="forget_10")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    study = study_of(args)
    model, processor = load_full(args.vanilla)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    exam = tasks.exam(Visual(model, processor), study, args.split, size=replace(SIZES[args.study], retain=1))
    forget_ids, retain_ids = study.split(args.split)
    forget, retain = study.concepts(forget_ids, VIEWS["forget"]), study.concepts(retain_ids, VIEWS["retain"])
    moments = api.statistics(model, processor, retain)
    points = []
    for given in ({"retain": retain}, {"statistics": moments}):
        for form, changes in FORMS.items():
            for floor in FLOORS:
                config = replace(ForgetConfig(), floor=floor, **changes)
                api.forget(model, processor, forget=forget, neutral=study.neutral(), config=config, **given)
                metrics = tasks.metrics(tasks.sit(model, processor, exam, probabilities=False))
                model.load_state_dict(state)
                points.append({"form": form, "mode": next(iter(given)), "floor": floor, "metrics": metrics})
                say(f"{form} {next(iter(given))} floor {floor}: {brief(metrics)}")
    command = "python benchmarks/tradeoff.py " + " ".join(sys.argv[1:])
    write_json(args.out, {"points": points, "command": command, "commit": commit()})


if __name__ == "__main__":
    main()
