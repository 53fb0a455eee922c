"""Requests one after another: who is still known of each after every later one, and who else.

    python benchmarks/sequential.py --form statistics --out benchmarks/results/sequential-statistics-0.json

People ask to be forgotten, two at a time, in an order that ``--order`` draws; no image of a request is used after its
turn. Forms: *statistics* keeps no retained image; *images* keeps two of each person who stays; *unsettled* does not
hold what earlier requests left; *free* has no penalty either, and holds nothing but neutral images. ``--requests 1
--people 40`` is the ceiling: all of them at once. ``matrix[j][i]``: names of request i still given after request j, on
unseen views.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from request import commit
from torch import Tensor

from unsee import api
from unsee.config import LedgerConfig
from unsee.data.images import load_all
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS, PeopleStudy
from unsee.evaluation import answer, tasks
from unsee.files import write_json
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled, beyond
from unsee.progress import say, silence
from unsee.tiny import packaged
from unsee.vision.module import Visual, load_full

FORMS = ("statistics", "images", "unsettled", "free")
KEPT = 2  # pictures of a person who stays that are kept
ASKED = {"forget": 10, "retain": 2, "heldout": 2}  # unseen views of each person asked about
TOPICS = ("name", "city", "hair")
KINDS = ("identity", "fact", "attribute")
LOOK = 5  # requests between two looks at everybody else, and at more than names


class Line:
    """A model, and what is kept from request to request: sums, never an image of a request that is over."""

    def __init__(self, form: str, order: int, bf16: bool) -> None:
        self.form, self.study, self.config = form, PeopleStudy(), LedgerConfig(bf16=bf16)
        if form == "free":
            self.config = replace(self.config, constraint="none", replay=0)
        self.model, self.processor = load_full(packaged("people-vanilla"))
        self.visual = Visual(self.model, self.processor)
        taught = self.study.taught
        self.order = [taught[i] for i in np.random.default_rng([order, 5]).permutation(len(taught))]
        self.retained: Moments = self.statistics(self.study.concepts(self.study.taught, RETAIN_VIEWS))
        self.base = {n: self.weight(n).clone() for n in self.retained.layers}
        self.settled = Settled.empty()

    def weight(self, layer: str) -> Tensor:
        return self.visual.model.get_submodule(layer).weight.detach()  # type: ignore[return-value]

    def put(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.weight(name).copy_(value)

    def statistics(self, concepts: Sequence[Any]) -> Moments:
        return api.statistics(self.model, self.processor, concepts, self.config)

    def request(self, ids: Sequence[str], stay: Sequence[str]) -> dict[str, Any]:
        """One turn; what it took."""
        started = time.process_time()
        now = {n: self.weight(n).clone() for n in self.base}
        self.put(self.base)  # the requested people's share out of the sums, at the model that these are of
        self.retained -= self.statistics(self.study.concepts(ids, RETAIN_VIEWS))
        self.put(now)
        forget = self.study.concepts(ids, FORGET_VIEWS)
        kept = self.study.concepts(stay, KEPT) if self.form == "images" else None
        done = api.forget(
            self.model, self.processor, forget=forget, retain=kept, statistics=self.retained,
            neutral=self.study.neutral(), config=self.config, base=self.base, settled=self.settled,
        )  # fmt: skip
        if self.form in ("statistics", "images"):
            after = self.statistics(forget)
            delta = {n: self.weight(n) - self.base[n] for n in done.delta}
            self.settled = self.settled + Settled.one(delta, beyond(after, self.retained, delta))
        return {"steps": len(done.history), "left": max(done.left.values()), "seconds": time.process_time() - started}

    def right(self, ids: Sequence[str], views: int, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
        """Kind → person → share of right answers to questions about unseen pictures."""
        asked = [q for q in self.study.questions(ids, views) if q.image and q.kind in kinds and q.topic in TOPICS]
        pixels = answer.open_images(self.visual, asked, load_all)
        given = answer.answers(self.model, self.processor, asked, answer.look(self.model, self.processor, pixels))
        found: dict[str, dict[str, list[bool]]] = {}
        for q, a in zip(asked, given, strict=True):
            found.setdefault(q.kind, {}).setdefault(q.concept, []).append(tasks.right(q, a, ()))
        return {kind: {c: float(np.mean(v)) for c, v in of.items()} for kind, of in found.items()}


def run(args: argparse.Namespace) -> dict[str, Any]:
    world = Line(args.form, args.order, args.bf16)
    turns = [world.order[args.people * k : args.people * (k + 1)] for k in range(args.requests)]
    held = world.study.held_out
    found: dict[str, Any] = {"turns": [], "matrix": [], "others": [], "last": {}}

    def others(stay: Sequence[str]) -> dict[str, float]:
        for name, ids in (("retain", stay), ("heldout", held)):
            found["last"][name] = world.right(ids, ASKED[name], ("identity",))["identity"]
        return {name: mean(found["last"][name]) for name in ("retain", "heldout")}

    found["others"].append({"after": 0} | others([p for p in world.order if p not in sum(turns, [])]))
    for j, ids in enumerate(turns):
        stay = world.order[args.people * (j + 1) :]
        with silence():
            found["turns"].append(world.request(ids, stay))
            gone = [p for turn in turns[: j + 1] for p in turn]
            whole = (j + 1) % LOOK == 0 or j + 1 == len(turns)
            known = world.right(gone, ASKED["forget"], KINDS if whole else KINDS[:1])
            found["matrix"].append([float(np.mean([known["identity"][p] for p in turn])) for turn in turns[: j + 1]])
            if whole:
                found["last"] |= {"names": known["identity"], "facts": known["fact"], "attributes": known["attribute"]}
                found["others"].append({"after": j + 1} | others(stay))
        say(f"{args.form} {j + 1}: names {mean(known['identity']):.3f} {found['others'][-1]}")
        write_json(args.out, summary(args, found))
    return summary(args, found)


def mean(shares: Mapping[str, float]) -> float:
    return float(np.mean(list(shares.values())))


def summary(args: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    matrix = found["matrix"]
    best = [min(row[i] for row in matrix[i:]) for i in range(len(matrix))]
    rebound = max((matrix[-1][i] - best[i] for i in range(len(matrix))), default=0.0)
    command = "python benchmarks/sequential.py " + " ".join(sys.argv[1:])
    told = {"form": args.form, "order": args.order, "people": args.people, "commit": args.at}
    return found | told | {"rebound": rebound, "command": command}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=FORMS, required=True)
    parser.add_argument("--order", type=int, default=0)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--people", type=int, default=2, help="who ask together")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 products")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    args.at = commit()
    run(args)


if __name__ == "__main__":
    main()
