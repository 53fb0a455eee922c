"""The folder of an evaluation: every answer, the table in four formats, what it was made from, and the page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import unsee
from unsee.data.benchmark import Benchmark
from unsee.evaluation.ask import Likelihood
from unsee.evaluation.evaluate import VANILLA, Outcome
from unsee.evaluation.metrics import mean_loss
from unsee.evaluation.protocols.figures import FORGOTTEN
from unsee.evaluation.protocols.plan import Item
from unsee.evaluation.score import State
from unsee.files import new_folder, write_json
from unsee.report.browse import Page, Said, Shown, write_browser

MOST = 6000  # questions on the page: a browser holds some 20 MB of them well
PACKAGES = ("torch", "transformers", "tokenizers", "rouge-score", "nltk", "scikit-learn", "scipy", "numpy", "Pillow")


def write_outcome(out: Path | str, outcome: Outcome, command: str = "") -> None:
    """Write the new folder ``out``, whole or not at all: the same outcome and command give the same bytes.

    It names people and shows them, so only who wrote it may read it.

    items.jsonl (a line for each model and question), table.json, .csv, .md and .tex, metrics.json, manifest.json,
    report.html.
    """
    with new_folder(out, private=True) as folder:
        with (folder / "items.jsonl").open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines(outcome))
        outcome.table.write(folder)
        write_json(folder / "metrics.json", figures(outcome))
        write_json(folder / "manifest.json", manifest(outcome, command))
        write_browser(folder / "report.html", page(outcome, command))


def lines(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """One for each item, models one after the other."""
    known = {item.id for item in outcome.items.get(VANILLA, ()) if item.right}
    for model, items in outcome.items.items():
        for item in items:
            eligible = {"eligible": item.id in known} if VANILLA in outcome.items else {}
            yield {"model": model, **_line(item), **eligible}


def _line(item: Item) -> dict[str, Any]:
    entry, prompt = item.ask.entry, item.ask.prompt
    asked = entry.question
    return {
        "id": item.id, "group": entry.group, "task": entry.task, "concept": asked.concept, "topic": asked.topic,
        "image": asked.image.id if asked.image else None, "prompt": prompt.text, "answer": asked.answer,
        "given": item.given, "state": item.state, "scores": dict(item.scores),
        **({"pair": entry.pair} if entry.pair else {}),
        **({"likelihoods": [_likelihood(*of) for of in zip(item.ask.answers, item.likelihoods, strict=True)]}
           if item.likelihoods else {}),
    }  # fmt: skip


def _likelihood(answer: str, found: Likelihood) -> dict[str, Any]:
    """``loss``: nats per token, of so many."""
    return {"answer": answer, "loss": mean_loss(found), "tokens": len(found.logprobs)}


def figures(outcome: Outcome) -> dict[str, Any]:
    """All figures by model and column, and how they were taken."""
    return {
        "benchmark": outcome.benchmark.name,
        "split": outcome.benchmark.split,
        "protocol": outcome.protocol,
        **asdict(outcome.setting),
        "models": {row.model: {key: asdict(cell) for key, cell in row.cells.items()} for row in outcome.table.rows},
        "notes": outcome.table.footnotes,
    }


def manifest(outcome: Outcome, command: str) -> dict[str, Any]:
    """What the outcome was made from. No time and no machine: those do not change it."""
    return {
        "command": command,
        "unsee": unsee.__version__,
        "versions": {name: version(name) for name in PACKAGES},
        "benchmark": fingerprint(outcome.benchmark),
        "models": dict(outcome.engines),
        "seed": outcome.setting.seed,
    }


def fingerprint(benchmark: Benchmark) -> dict[str, Any]:
    """How much there is, and one hash of all questions, answers and ids of images in their order."""
    asked = [(entry.id, entry.question.prompt, entry.question.answer) for entry in benchmark.entries]
    images = [entry.question.image.id if entry.question.image else "" for entry in benchmark.entries]
    digest = hashlib.sha256(json.dumps([asked, images], ensure_ascii=False).encode())
    return {
        "name": benchmark.name,
        "split": benchmark.split,
        "entries": {group: len(entries) for group, entries in benchmark.groups.items()},
        "sha256": digest.hexdigest(),
    }


def page(outcome: Outcome, command: str) -> Page:
    benchmark = outcome.benchmark
    everything = _shown(outcome)
    asked = _fewer(everything)
    shown = f" {len(asked)} of them are on this page, all in items.jsonl." if len(asked) < len(everything) else ""
    models = ", ".join(outcome.items)
    seed = {"command": command} if command else {}
    return Page(
        title=f"{benchmark.name}, {benchmark.split}",
        lead=f"{len(everything)} questions by the {outcome.protocol} protocol, asked of {models}.{shown}",
        asked=asked,
        table=outcome.table,
        facts=seed | {"unsee": unsee.__version__, "seed": str(outcome.setting.seed)},
    )


def _shown(outcome: Outcome) -> list[Shown]:
    """One for each entry; where a model says the same to several wordings it is shown once."""
    said: dict[str, dict[tuple[str, str], tuple[State, list[Item]]]] = {}
    entries = {}
    for model, items in outcome.items.items():
        for item in items:
            if item.state is not None:
                entry = item.ask.entry
                entries[entry.id] = entry
                alike = said.setdefault(entry.id, {}).setdefault((model, item.given), (item.state, []))
                alike[1].append(item)
    return [
        Shown(
            entry.group, entry.task, entry.question.concept, entry.question.prompt, entry.question.answer,
            entry.question.image, tuple(
                Said(model, given, state, items[0].main or 0.0, len(items))
                for (model, given), (state, items) in said[entry.id].items()
            ),
            entry.question.options,
        )
        for entry in entries.values()
    ]  # fmt: skip


def _fewer(asked: list[Shown]) -> list[Shown]:
    """All about the forgotten; of the others as many whole concepts as fit, spread evenly over them."""
    forgotten = sum(shown.group in FORGOTTEN for shown in asked)
    concepts = dict.fromkeys(shown.concept for shown in asked if shown.group not in FORGOTTEN)
    share = min(1.0, max(0, MOST - forgotten) / max(1, len(asked) - forgotten))
    kept = {concept for place, concept in enumerate(concepts) if int((place + 1) * share) > int(place * share)}
    return [shown for shown in asked if shown.group in FORGOTTEN or shown.concept in kept]
