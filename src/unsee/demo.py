"""``unsee demo``: a model that knew people by face forgets twenty of them, and everything is measured."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

import unsee
from unsee import api
from unsee.concepts import UNKNOWN, Concept, Question, Request
from unsee.config import FinetuneConfig, ForgetConfig
from unsee.data import people
from unsee.data.images import load_all
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS, Lesson, PeopleStudy
from unsee.embedded import packaged
from unsee.evaluation import tasks
from unsee.evaluation.statistics import Share
from unsee.evaluation.tasks import Exam, Item, Size
from unsee.files import new_folder, refuse_existing, write_json
from unsee.finetune import finetune
from unsee.forgetting import nullspace
from unsee.forgetting.contrast import fit_space, flat
from unsee.forgetting.moments import Moments
from unsee.forgetting.recorder import MomentRecorder
from unsee.forgetting.region import Images
from unsee.forgetting.run import Forgetting, Forgotten
from unsee.prepare import prepare, stand_ins
from unsee.progress import say
from unsee.report import Report, Shot, write_page
from unsee.vision.attention import attention_for
from unsee.vision.blocks import Upper
from unsee.vision.module import Pixels, Visual, load_full
from unsee.vision.patch import Patch

SPLIT = "forget_10"
SETTINGS = ForgetConfig()
UNFROZEN_STEPS = 30
SIZE = Size(forget=6, retain=1, heldout=3, strangers=60, facts=1, attributes=1)


@dataclass
class Sitting:
    """One model's answers and figures."""

    items: list[Item]
    metrics: dict[str, Share]


@dataclass(frozen=True)
class Found:
    """All that the demo measured."""

    vanilla: Sitting
    gold: Sitting
    ours: Sitting
    ablations: dict[str, Sitting]
    result: Forgotten
    patch: Patch
    moments: Moments
    same: bool
    layers: list[dict[str, Any]]
    space: dict[str, dict[str, Any]]
    cost: dict[str, float]
    begin: dict[str, float]  # of the curve


class Demo:
    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.study = PeopleStudy()
        self.forget_ids, self.retain_ids = self.study.split(SPLIT)
        self.model, self.processor = load_full(packaged("people-vanilla"))
        self.visual = Visual(self.model, self.processor)
        self.vanilla = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.forget = self.study.concepts(self.forget_ids, FORGET_VIEWS)
        self.retain = self.study.concepts(self.retain_ids, RETAIN_VIEWS)
        self.neutral = self.study.neutral()
        known = len(self.study.world.people)
        say(f"{known} people are known, {len(self.forget_ids)} are to be forgotten")
        self.exam = tasks.exam(self.visual, self.study, SPLIT, size=SIZE)

    def sit(self, model: Any, exam: Exam | None = None) -> Sitting:
        items = tasks.sit(model, self.processor, exam or self.exam)
        return Sitting(items, tasks.metrics(items))

    @contextmanager
    def fresh(self) -> Iterator[Any]:
        """The vanilla model, and vanilla again afterwards."""
        try:
            yield self.model
        finally:
            self.model.load_state_dict(self.vanilla)

    def pixels(self, concepts: Sequence[Concept]) -> list[Pixels]:
        return self.visual.pixels(load_all([i for c in concepts for i in c.images]))

    def prepare(self) -> Forgetting:
        """All that the request and its ablations share."""
        with attention_for(self.model, SETTINGS.bf16):
            return prepare(self.visual, Request(self.forget, self.retain, self.neutral), None, SETTINGS)

    def ours(self, job: Forgetting, watch: Callable[[int], dict[str, float]] | None = None) -> Forgotten:
        with attention_for(self.model, training=False):
            return job.run(watch=watch)

    def changed(self, job: Forgetting, retain: Images | None = None, **settings: Any) -> None:
        self.ours(job.variant(replace(SETTINGS, **settings), retain))

    def drawn(self, job: Forgetting) -> Images:
        """In place of the retained images, as where they are gone."""
        with attention_for(self.model, training=False):
            return stand_ins(job, cast(Upper, job.module), SETTINGS)

    def watch(self) -> Callable[[int], dict[str, float]]:
        """Names of a few people of each group, asked while the model forgets: the curve of the report."""
        few = {
            group: [q for q in self.exam.groups[group] if q.image and q.kind == "identity"][:: len(ids) and stride]
            for group, ids, stride in (("forget", self.forget_ids, 5), ("retain", self.retain_ids, 3))
        }
        pixels = {q.image.id: self.exam.pixels[q.image.id] for qs in few.values() for q in qs if q.image}
        quiz = Exam(few, pixels, {})

        def measure(step: int) -> dict[str, float]:
            items = tasks.sit(self.model, self.processor, quiz, probabilities=False)
            return {g: float(np.mean([i.correct for i in items if i.group == g])) for g in few}

        return lambda step: {f"{k}_names": v for k, v in measure(step).items()}

    def llm_unfrozen(self) -> None:
        """The paper's ablation: everything trains, on answering "unknown" about the forgotten people's images."""
        shown = [(self.study.person(i), v) for i in self.forget_ids for v in self.study.views_of(i, FORGET_VIEWS)]

        def ask(index: int, rng: np.random.Generator) -> list[Question]:
            asked = people.image_questions(*shown[index], "train", rng)
            return [replace(q, answer=UNKNOWN) for q in asked if q.kind != "attribute"]

        lesson = Lesson([i for _, i in shown], 0, ask, lambda i, rng: [])
        finetune(
            self.model, self.processor, lesson, FinetuneConfig(steps=UNFROZEN_STEPS, batch=32, lr=5e-4, vision_lr=1e-4)
        )


def run(out: Path) -> dict[str, Any]:
    """Everything on the embedded world, into the new folder ``out``: metrics.json, items.jsonl, report.html, patch/."""
    refuse_existing(out)
    demo = Demo()
    say("asking the model before it forgets, and one that was never taught the forgotten")
    vanilla = demo.sit(demo.model)
    gold = demo.sit(load_full(packaged("people-gold"))[0])
    say("forgetting")
    ready = time.perf_counter()
    job = demo.prepare()
    cost = {"statistics_and_reference_seconds": round(time.perf_counter() - ready, 2)}
    with demo.fresh():
        ready = time.perf_counter()
        watch = demo.watch()
        begin = watch(0)
        result = demo.ours(job, watch)
        cost["forgetting_seconds"] = round(time.perf_counter() - ready, 2)
        patch, _ = api.make_patch(demo.visual, job, SETTINGS, [api.opaque(c) for c in demo.forget])
        ours = demo.sit(demo.model)
        same = tasks.text_identical(demo.visual, demo.vanilla, vanilla.items, ours.items)
        layers, space = measured(demo, result), feature_space(demo)
    say("the same with a part changed")
    ablations: dict[str, Sitting] = {}
    cases: dict[str, Callable[[], None]] = {
        "CVF_without_null_space": lambda: demo.changed(job, Images([], []), constraint="none", keep=0.0),
        "null_space_without_retain_images": lambda: demo.changed(job, demo.drawn(job)),
        "projector_only": lambda: demo.changed(job, layers="projector"),
        "LLM_unfrozen": demo.llm_unfrozen,
    }
    for name, case in cases.items():
        with demo.fresh():
            case()
            ablations[name] = demo.sit(demo.model)
    found = Found(vanilla, gold, ours, ablations, result, patch, job.moments, same, layers, space, cost, begin)
    return write(out, demo, found)


def measured(demo: Demo, result: Forgotten) -> list[dict[str, Any]]:
    """Certificate of each layer beside the drift measured on held-out people, who are in no statistic."""
    layers = {n: demo.model.get_submodule(n) for n in result.delta}
    pixels = demo.pixels(demo.study.concepts(demo.study.held_out, 4))
    with torch.no_grad():
        after = {n: m.weight.clone() for n, m in layers.items()}
        for n, m in layers.items():
            m.weight.copy_(demo.vanilla[f"{n}.weight"])
        with MomentRecorder(layers) as recorder:
            demo.visual.features(pixels)
        moments = recorder.moments()
        for n, m in layers.items():
            m.weight.copy_(after[n])
    rows = []
    for n, bound in result.certificates.items():
        got = nullspace.certificate(result.delta[n], demo.vanilla[f"{n}.weight"], moments.mean(n))
        rows.append({"layer": n.removeprefix("model."), "certificate": bound, "measured": got})
    return rows


def feature_space(demo: Demo) -> dict[str, dict[str, Any]]:
    """Two principal directions of the forgotten and kept people's features, before and after."""
    groups = {"forgotten": demo.forget_ids, "kept": demo.retain_ids[:40]}
    shown = {g: demo.study.concepts(ids, 4) for g, ids in groups.items()} | {"strangers": demo.neutral[:60]}
    pixels = {g: demo.pixels(concepts) for g, concepts in shown.items()}
    after = {g: _pooled(demo, p) for g, p in pixels.items()}
    state = {k: v.clone() for k, v in demo.model.state_dict().items()}
    demo.model.load_state_dict(demo.vanilla)
    before = {g: _pooled(demo, p) for g, p in pixels.items()}
    demo.model.load_state_dict(state)
    space = fit_space(
        torch.cat(list(before.values())), [c.id for part in shown.values() for c in part for _ in c.images]
    )
    unit = {
        when: {g: space.identity(space.white(p)).numpy() for g, p in part.items()}
        for when, part in (("before", before), ("after", after))
    }
    plane = PCA(2, random_state=0).fit(np.concatenate([unit["before"]["forgotten"], unit["before"]["strangers"]]))
    return {when: {g: plane.transform(p) for g, p in part.items()} for when, part in unit.items()}


def _pooled(demo: Demo, pixels: Sequence[Pixels]) -> Tensor:
    with torch.no_grad():
        features = demo.visual.features(pixels)
        return flat(features, len(features[0]))


def gallery(vanilla: Sequence[Item], ours: Sequence[Item]) -> list[Shot]:
    """A few pictures of each group with what was said before and after."""
    after = {_key(i): i.given for i in ours}
    shots: list[Shot] = []
    wanted = (
        ("forget", "forgotten", 6),
        ("retain", "kept", 4),
        ("heldout", "held out", 2),
        ("strangers", "stranger", 2),
    )
    for group, title, most in wanted:
        items = [i for i in vanilla if i.group == group and i.question.image]
        first = {i.question.concept: i.question.image.id for i in reversed(items) if i.question.image}
        for concept in list(dict.fromkeys(i.question.concept for i in items))[:most]:
            for item in items:
                q = item.question
                if q.image and q.image.id == first[concept]:
                    stays = True if q.kind == "attribute" else None
                    shots.append(Shot(title, q.image.load(), q.prompt, item.given, after[_key(item)], q.answer, stays))
    return shots


def _key(item: Item) -> tuple[str, str, str]:
    return item.question.concept, item.question.image.id if item.question.image else "", item.question.prompt


def write(out: Path, demo: Demo, found: Found) -> dict[str, Any]:
    vanilla, gold, ours, ablations, result = found.vanilla, found.gold, found.ours, found.ablations, found.result
    misnamed = tasks.misnamed(ours.items, demo.exam.retained)
    cost: dict[str, Any] = {
        **found.cost,
        "steps": len(result.history),
        "trained_parameters": int(sum(d.numel() for d in result.delta.values())),
        "all_parameters": int(sum(p.numel() for p in demo.model.parameters())),
        "demo_seconds": round(time.perf_counter() - demo.started, 1),
    }
    metrics: dict[str, Any] = {
        "vanilla": vanilla.metrics,
        "gold": gold.metrics,
        "unsee": ours.metrics,
        "ablations": {name: s.metrics for name, s in ablations.items()},
        "text_identical": found.same,
        "misnamed": {"share": misnamed.share, "worst": misnamed.worst},
        "distance_to_gold": {
            n: tasks.distance(s.items, gold.items) for n, s in (("vanilla", vanilla), ("unsee", ours))
        },
        "cost": cost,
        "stopped": result.stopped,
    }
    rows = {"vanilla": vanilla.metrics, "gold": gold.metrics, "unsee": ours.metrics}
    rows |= {n: s.metrics for n, s in ablations.items()}
    curve = [
        {"step": h["step"], "loss": h["forget"], "forget": h["forget_names"], "retain": h["retain_names"]}
        for h in [{**result.history[0], "step": 0, **found.begin}, *result.history] if "forget_names" in h
    ]  # fmt: skip
    page = Report(
        title="A model forgets twenty people",
        lead=(
            f"A small LLaVA-shaped model knew {len(demo.study.world.people)} drawn people by face. "
            f"It was made to forget {len(demo.forget_ids)} of them by changing its visual module alone. "
            "All figures are on pictures and phrasings it has never seen."
        ),
        rows=rows,
        text_identical=found.same,
        cost=cost,
        gallery=gallery(vanilla.items, ours.items),
        space=found.space,
        curve=curve,
        layers=found.layers,
        misnamed=[{"forgotten": c, "named": n, "share": s} for c, n, s in misnamed.pairs[:8]],
        facts={
            "command": "unsee demo --out DIR",
            "unsee": unsee.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seed": str(SETTINGS.seed),
        },
    )
    with new_folder(out) as folder:
        write_json(folder / "metrics.json", metrics)
        found.patch.save(folder / "patch")
        found.moments.save(folder / "statistics.safetensors")
        sittings = {"vanilla": vanilla, "gold": gold, "unsee": ours, **ablations}
        lines = [json.dumps({"model": n} | i.line(), ensure_ascii=False) for n, s in sittings.items() for i in s.items]
        (folder / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_page(folder / "report.html", page)
    return metrics


def summary(metrics: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows for the terminal: figure, vanilla, gold, unsee."""
    names = [n for n in metrics["vanilla"] if "value" in metrics["vanilla"][n]]
    return [(n, *(f"{100 * metrics[m][n]['value']:.1f} %" for m in ("vanilla", "gold", "unsee"))) for n in names]
