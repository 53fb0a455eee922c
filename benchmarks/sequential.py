"""Requests one after another: who is still known of each after every later one, and who else.

    python benchmarks/sequential.py --form statistics --out benchmarks/results/sequential-statistics-0.json

Concepts ask to be forgotten, two at a time, in an order that ``--order`` draws; no image of a request is used after its
turn. Forms: *statistics* keeps no retained image; *images* keeps two of each concept that stays; *unsettled* does not
hold what earlier requests left; *free* has no penalty either, and holds nothing but neutral images. A rival's name is a
form too: it is given two images of each that stays, with their questions, and the settings that ``rivals.py`` chose.
``--requests 1 --people 40`` is the ceiling: all of them at once. ``matrix[j][i]``: names of request i still given after
request j, on unseen views. Stopped, it goes on at the last finished request when it is given again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from request import STUDIES, given_settings, study_of
from torch import Tensor

from unsee import api, rivals
from unsee.concepts import Question
from unsee.config import LedgerConfig
from unsee.data.images import load_all
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS, Study
from unsee.evaluation import answer, tasks
from unsee.files import write_json
from unsee.forgetting.moments import Moments
from unsee.forgetting.penalty import Settled
from unsee.hardware import has_bf16
from unsee.ledger import measure
from unsee.ledger.state import Share, State
from unsee.progress import say, silence
from unsee.rivals.job import Job
from unsee.rivals.material import material_of
from unsee.runs import command_line, revision
from unsee.tiny import packaged
from unsee.vision.module import Pixels, Visual, load_full

ROOT = Path(__file__).parent.parent
OURS = ("statistics", "images", "unsettled", "free")
RIVALS = tuple(m.name for m in rivals.METHODS.values() if m.kind in ("weights", "edit") and "unsee" not in m.name)
KEPT = 2  # pictures of a concept that stays that are kept
ASKED = {"forget": 10, "retain": 2, "heldout": 2}  # unseen views of each concept asked about, as far as there are
TOPICS = {"people": ("name", "city", "hair")}  # all of another study
SHOWN = {"identity": "names", "fact": "facts", "attribute": "attributes", "text": "forget_text"}  # of the forgotten
LOOK = 5  # requests between two looks at everybody else, and at more than names


class World:
    """A study, the model that was taught it, and what is asked of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.study: Study = study_of(args)
        self.topics = TOPICS.get(args.study)
        self.model, self.processor = load_full(args.model or packaged("people-vanilla"))
        self.visual = Visual(self.model, self.processor)
        taught = self.study.taught
        self.order = [taught[i] for i in np.random.default_rng([args.order, 5]).permutation(len(taught))]

    @cached_property
    def answers(self) -> dict[str, set[str]]:
        """By topic, of everybody."""
        found: dict[str, set[str]] = {}
        for q in self.study.questions((*self.study.taught, *self.study.held_out), 1):
            found.setdefault(q.topic, set()).add(q.answer)
        return found

    def right(self, ids: Sequence[str], views: int, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
        """Kind of question, "text" without a picture → concept → share of right answers, on unseen pictures."""
        asked = [q for q in self.study.questions(ids, views) if kind_of(q) in kinds]
        asked = [q for q in asked if not self.topics or q.topic in self.topics]
        pixels = answer.open_images(self.visual, asked, load_all)
        given = answer.answers(self.model, self.processor, asked, answer.look(self.model, self.processor, pixels))
        found: dict[str, dict[str, list[bool]]] = {}
        for q, a in zip(asked, given, strict=True):
            right = tasks.right(q, a, self.answers[q.topic])
            found.setdefault(kind_of(q), {}).setdefault(q.concept, []).append(right)
        return {kind: {c: float(np.mean(v)) for c, v in of.items()} for kind, of in found.items()}


def kind_of(question: Question) -> str:
    return question.kind if question.image else "text"


class Ours:
    """What is kept from request to request: sums, never an image of a request that is over."""

    def __init__(self, world: World, form: str, given: Mapping[str, Any], cache: Path | None = None) -> None:
        freed = {"constraint": "none", "replay": 0} if form == "free" else {}
        self.world, self.form, self.config, self.cache = world, form, LedgerConfig(**{**freed, **given}), cache
        self.retained: Moments = self.statistics(world.study.concepts(world.study.taught, RETAIN_VIEWS))
        self.base = {n: self.weight(n).clone() for n in self.retained.layers}
        self.settled = Settled.empty()
        nobody = {q.image.id: q.image for q in world.study.stranger_questions(measure.MOST) if q.image}
        self.strangers = [*nobody.values()][: measure.MOST]
        self.before = measure.look(world.visual, list(self.base), self.strangers)

    def weight(self, layer: str) -> Tensor:
        return self.world.visual.model.get_submodule(layer).weight.detach()  # type: ignore[return-value]

    def put(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self.weight(name).copy_(value)

    def statistics(self, concepts: Sequence[Any]) -> Moments:
        return api.statistics(self.world.model, self.world.processor, concepts, self.config, self.cache)

    def request(self, ids: Sequence[str], stay: Sequence[str]) -> dict[str, Any]:
        """One turn; what it took, and what the ledger's gate would judge."""
        study, started = self.world.study, time.process_time()
        now = {n: self.weight(n).clone() for n in self.base}
        self.put(self.base)  # the requested share out of the sums, at the model that these are of
        self.retained -= self.statistics(study.concepts(ids, RETAIN_VIEWS))
        self.put(now)
        forget = study.concepts(ids, FORGET_VIEWS)
        kept = study.concepts(stay, KEPT) if self.form == "images" else None
        done = api.forget(
            self.world.model, self.world.processor, forget=forget, retain=kept, statistics=self.retained,
            neutral=study.neutral(), config=self.config, base=self.base, settled=self.settled,
            cache=self.cache,
        )  # fmt: skip
        delta = {n: self.weight(n) - self.base[n] for n in done.delta}
        freed = State(self.retained, self.settled, {})
        if self.form in ("statistics", "images"):
            share = Share(self.statistics(forget), concepts=len(ids))
            self.settled = self.settled + share.settled(delta, self.retained)
        seconds = time.process_time() - started
        now_seen = measure.look(self.world.visual, list(delta), self.strangers)
        judged = measure.figures(freed, self.base, delta, done.left, self.before, now_seen)
        return {"steps": len(done.history), "seconds": seconds, **judged}

    def save(self, path: Path) -> None:
        State(self.retained, self.settled, {n: self.weight(n) for n in self.base}).save(path)

    def load(self, path: Path) -> None:
        state = State.load(path)
        self.retained, self.settled = state.retained, state.settled
        self.put(state.weights)


class Rival:
    """A method of the comparison, given request after request. It keeps nothing but what is given to it anew."""

    def __init__(self, world: World, name: str, given: Mapping[str, Any], order: int) -> None:
        self.world, self.order, self.way = world, order, rivals.method(name)
        self.config = self.way.settings(**given, seed=order)
        self.pixels: dict[str, Pixels] = {}

    def request(self, ids: Sequence[str], stay: Sequence[str]) -> dict[str, Any]:
        started = time.process_time()
        given = material_of(self.world.study, ids, stay, np.random.default_rng([self.order, len(stay)]), KEPT)
        self.way.forget(Job(self.world.model, self.world.processor, given, self.pixels), self.config)
        return {"seconds": time.process_time() - started}

    def save(self, path: Path) -> None:
        torch.save(self.world.model.state_dict(), path)

    def load(self, path: Path) -> None:
        self.world.model.load_state_dict(torch.load(path, weights_only=True))


def settings(study: str, shape: str, name: str) -> dict[str, Any]:
    """Of a method, as the committed comparison tuned and ran it."""
    file = next((ROOT / "benchmarks" / "results").glob(f"compare-{study}*-{shape}.json"))
    found = json.loads(file.read_text(encoding="utf-8"))
    shared = {name: found["study"][name] for name in ("steps", "batch")}
    return shared | next(run["settings"] for run in found["runs"] if run["method"] == name)


def run(args: argparse.Namespace) -> dict[str, Any]:
    world, given = World(args), {"bf16": args.bf16} | given_settings(args.config)
    if args.form in OURS:
        line: Ours | Rival = Ours(world, args.form, given, args.cache)
    else:
        line = Rival(world, args.form, settings(args.study, args.shape, args.form) | given, args.order)
    turns = [world.order[args.people * k : args.people * (k + 1)] for k in range(args.requests)]
    out, asked_for = Path(args.out), [c for turn in turns for c in turn]
    found: dict[str, Any] = {"turns": [], "matrix": [], "others": [], "last": {}}

    def others(stay: Sequence[str]) -> dict[str, float]:
        groups = {"retain": stay, "heldout": world.study.held_out}
        known = {name: world.right(ids, ASKED[name], ("identity", "text")) for name, ids in groups.items()}
        found["last"] |= {name: of["identity"] for name, of in known.items()}
        found["last"]["text"] = known["retain"]["text"] | known["heldout"]["text"]
        return {name: mean(found["last"][name]) for name in ("retain", "heldout", "text")}

    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else found
    if (state := state_of(out, len(before["matrix"]))).exists():
        found, args.at = before, ", ".join(sorted({*before["commit"].split(", "), args.at}))
        line.load(state)
    else:
        found["others"].append({"after": 0} | others([c for c in world.order if c not in asked_for]))
    for j, ids in [*enumerate(turns)][len(found["matrix"]) :]:
        stay = world.order[args.people * (j + 1) :]
        whole = (j + 1) % LOOK == 0 or j + 1 == len(turns)
        with silence():
            found["turns"].append(line.request(ids, stay))
            gone = asked_for[: args.people * (j + 1)]
            known = world.right(gone, ASKED["forget"], tuple(SHOWN) if whole else ("identity",))
            found["matrix"].append([mean({c: known["identity"][c] for c in turn}) for turn in turns[: j + 1]])
            if whole:
                found["last"] |= {SHOWN[kind]: of for kind, of in known.items()}
                found["others"].append({"after": j + 1} | others(stay))
        say(f"{args.form} {j + 1}: names {mean(known['identity']):.3f} {found['others'][-1]}")
        line.save(state_of(out, j + 1))
        write_json(out, summary(args, found))
        state_of(out, j).unlink(missing_ok=True)
    state_of(out, len(turns)).unlink(missing_ok=True)
    return summary(args, found)


def state_of(out: Path, requests: int) -> Path:
    return out.with_suffix(f".{requests}.state")


def mean(shares: Mapping[str, float]) -> float:
    return float(np.mean(list(shares.values())))


def summary(args: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    matrix = found["matrix"]
    best = [min(row[i] for row in matrix[i:]) for i in range(len(matrix))]
    rebound = max((matrix[-1][i] - best[i] for i in range(len(matrix))), default=0.0)
    told = {name: getattr(args, name) for name in ("study", "shape", "form", "order", "people", "bf16")}
    told |= {"config": given_settings(args.config)}
    return (
        found
        | told
        | {"commit": args.at, "rebound": rebound, "command": command_line("python benchmarks/sequential.py")}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=(*OURS, *RIVALS), required=True)
    parser.add_argument("--study", choices=("people", "flags", *STUDIES), default="people")
    parser.add_argument("--shape", choices=("llava", "qwen2_vl", "internvl"), default="llava", help="the model's")
    parser.add_argument("--model", help="taught the study; people of LLaVA's shape ship with the package")
    parser.add_argument("--root", help="folder of the flags, or of the three sets of photographs")
    parser.add_argument("--order", type=int, default=0)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--people", type=int, default=2, help="concepts that are asked for together")
    parser.add_argument("--config", default="{}", help="other settings than the defaults, or tuned: JSON, or a file")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=has_bf16(), help="bfloat16 products")
    parser.add_argument("--cache", type=Path, help="folder of frozen features, for our forms")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    args.at = revision()
    run(args)


if __name__ == "__main__":
    main()
