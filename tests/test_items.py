"""Every figure of a table, computed anew out of items.jsonl alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import hmean, ks_2samp
from tests.small_benchmarks import CITIES, NAMES, Told, clear, mllmu, umu

from unsee.evaluation.ask import Prompt
from unsee.evaluation.evaluate import evaluate
from unsee.evaluation.protocols.plan import Setting
from unsee.evaluation.table import Table
from unsee.report.outcome import write_outcome

Line = dict[str, Any]
FORGOTTEN = ("forget", "test")


def chance(*of: str) -> float:
    return int(hashlib.sha256("/".join(of).encode()).hexdigest()[:8], 16) / 16**8


def engine(name: str) -> Told:
    """Answers and likelihoods that hang on the model, the prompt and the image, and are otherwise by chance."""

    def shown(prompt: Prompt) -> str:
        return prompt.image.id if prompt.image else ""

    said = (*CITIES, *NAMES.values(), "B", "I do not know", "", "She lives in Belmora.")
    return Told(
        lambda p: said[int(chance(name, p.text, shown(p)) * len(said))],
        lambda p, answer: 0.05 + 0.9 * chance(name, p.text, shown(p), answer),
        name,
        ends=0.3,
    )


def main_of(line: Line) -> float | None:
    return next((line["scores"][s] for s in ("accuracy", "rougeL", "recall") if s in line["scores"]), None)


def mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def figures(
    lines: list[Line], gold: list[Line], vanilla: list[Line], benchmark: str, original: bool
) -> dict[str, float]:
    """Of one model, by the column's key."""
    forgotten = [line for line in lines if line["group"] == "forget" and main_of(line) is not None]
    known = [main_of(line) or 0.0 for line in forgotten]
    found = {
        "success_text_kept": mean(1 - k if line["image"] else k for line, k in zip(forgotten, known, strict=True)),
        "success_text_forgotten_too": mean(1 - k for k in known),
    }
    if benchmark == "strict":
        return found | strict(lines, gold, vanilla)
    for line in lines:
        mode = "image" if line["image"] else "text"
        where = [o for o in lines if (o["group"], o["task"], bool(o["image"])) == key(line)]
        for name in ("accuracy", "rouge1", "rouge2", "rougeL", "bleu", "recall", "probability"):
            values = [other["scores"][name] for other in where if name in other["scores"]]
            if values:
                found[f"{line['group']}_{line['task']}_{mode}_{name}"] = mean(values)
    if benchmark == "umu":
        found |= pairs(lines)
    if benchmark == "clear":
        found |= of_clear(lines, gold, found, original)
    return found


def key(line: Line) -> tuple[str, str, bool]:
    return line["group"], line["task"], bool(line["image"])


def pairs(lines: list[Line]) -> dict[str, float]:
    by_id = {line["id"]: line for line in lines}
    parts: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        if line["image"] and line.get("pair") in by_id:
            a, b = main_of(line) or 0.0, main_of(by_id[line["pair"]]) or 0.0
            forget, overlap = line["group"] == "forget", line["task"] == "generation"
            if overlap:
                value = ((a * a + b * b if forget else 2 * a * b) / (a + b)) if a + b else 0.0
            else:
                value = float(a + b > 0) if forget else float(a * b > 0)
            parts.setdefault((line["group"], line["task"]), []).append(value)
    means = {of: mean(values) for of, values in parts.items()}
    return {f"{group}_{task}_both": value for (group, task), value in means.items()} | {
        "forget_average_both": mean(v for (group, _), v in means.items() if group == "forget"),
        "utility_average_both": mean(v for (group, _), v in means.items() if group != "forget"),
    }


def log_ratios(lines: list[Line], original: bool) -> dict[tuple[str, str], list[float]]:
    parts: dict[tuple[str, str], list[list[float]]] = {}
    for line in lines:
        losses = [of["loss"] for of in line.get("likelihoods", ())]
        if len(losses) > 2:
            parts.setdefault((line["group"], line["task"]), []).append(losses)
    return {
        of: [
            mean(x for item in items for x in item[2:]) - own[1] if original else mean(own[2:]) - own[1]
            for own in items
        ]
        for of, items in parts.items()
    }


def of_clear(lines: list[Line], gold: list[Line], means: dict[str, float], original: bool) -> dict[str, float]:
    found, ratios = {}, log_ratios(lines, original)
    for (group, task), logs in ratios.items():
        values = [min(math.exp(r), math.exp(-r)) if group == "forget" else max(0, 1 - math.exp(-r)) for r in logs]
        found[f"{group}_{task}_truth_ratio"] = mean(values)
    for title, parts in (
        ("Forget_metric", ("forget_caption", "forget_name")), ("Retain_metric", ("retain_caption", "retain_name")),
        ("Real_metric", ("faces_name", "world_qa")),
    ):  # fmt: skip
        found[title] = float(
            hmean([v for p in parts for v in (means[f"{p}_image_probability"], found[f"{p}_truth_ratio"])])
        )
    ours, theirs = ratios["forget", "caption"], log_ratios(gold, original)["forget", "caption"]
    found["forget_quality"] = math.log(ks_2samp(ours, theirs).pvalue)
    if original:
        found["js_to_gold"] = float(jensenshannon(np.exp(ours), np.exp(theirs)))
    else:
        found["js_to_gold"] = histograms(*([1 / (1 + math.exp(-r)) for r in of] for of in (ours, theirs)))
    return found


def histograms(a: list[float], b: list[float]) -> float:
    bins = math.ceil(math.sqrt(min(len(a), len(b))))
    span = min(*a, *b), max(*a, *b)
    counts = [np.histogram(of, bins, span)[0] for of in (a, b)]
    return 0.0 if span[0] == span[1] else float(jensenshannon(*counts, base=2))


def strict(lines: list[Line], gold: list[Line], vanilla: list[Line]) -> dict[str, float]:
    found = {}
    eligible = {line["id"] for line in vanilla if line["scores"]["accuracy"] >= 0.5}
    assert all(line["eligible"] is (line["id"] in eligible) for line in lines)
    for line in lines:
        mode = "image" if line["image"] else "text"
        part = [o for o in lines if (o["group"], bool(o["image"])) == (line["group"], bool(line["image"]))]
        found[f"{line['group']}_{mode}_right"] = mean(o["scores"]["accuracy"] for o in part)
        known = [o["scores"]["accuracy"] for o in part if o["eligible"]]
        if known:
            found[f"{line['group']}_{mode}_right_of_eligible"] = mean(known)
    seen, of_gold = ([o for o in of if o["group"] == "forget" and o["image"]] for of in (lines, gold))
    for name in ("choice", "probability", "truth ratio", "extraction", "memorised", "misnamed"):
        if values := [o["scores"][name] for o in seen if name in o["scores"]]:
            found[f"forget_image_{name.replace(' ', '_')}"] = mean(values)
    for state in ("refusal", "invalid"):
        found[f"forget_image_{state}"] = mean(o["state"] == state for o in seen)
    ours, theirs = ([o["scores"]["truth ratio"] for o in of if "truth ratio" in o["scores"]] for of in (seen, of_gold))
    if ours:
        found |= {"KS_to_gold": ks_2samp(ours, theirs).statistic, "JS_to_gold": histograms(ours, theirs)}
    for attack in ("loss", "min_k", "zlib", "min_k++"):
        a, b = ([o["scores"][f"surprise {attack}"] for o in of] for of in (seen, of_gold))
        auc = mean((x < y) + 0.5 * (x == y) for x in a for y in b)
        found[f"{attack}_attack_fails"] = 1 - 2 * abs(auc - 0.5)
    return found


@pytest.mark.parametrize("original", [False, True], ids=["mended", "original"])
@pytest.mark.parametrize("protocol", ["official", "strict"])
@pytest.mark.parametrize("benchmark", [mllmu, clear, umu])
def test_every_figure_follows_from_the_items(benchmark, protocol: str, original: bool, tmp_path: Path) -> None:
    models = {name: engine(name) for name in ("vanilla", "gold", "unsee")}
    write_outcome(tmp_path / "run", evaluate(benchmark(), models, protocol, Setting("llava", original)))
    table = Table.read((tmp_path / "run" / "table.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    by_model = {name: [line for line in lines if line["model"] == name] for name in models}
    kind = "strict" if protocol == "strict" else benchmark.__name__
    for row in table.rows:
        found = figures(by_model[row.model], by_model["gold"], by_model["vanilla"], kind, original)
        assert found.keys() == row.cells.keys()
        for name, cell in row.cells.items():
            assert cell.value == pytest.approx(found[name], abs=2e-6), name
    varied = {name: {row.cells[name].value for row in table.rows} for name in table.rows[0].cells}
    assert sum(len(values) > 1 for values in varied.values()) > len(varied) / 4  # the engines are told apart


def test_likelihoods_are_those_that_the_scores_are_made_of(tmp_path: Path) -> None:
    write_outcome(tmp_path / "run", evaluate(mllmu(), {"m": engine("m")}, "strict"))
    for text in (tmp_path / "run" / "items.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        right, *wrong = (math.exp(-of["loss"]) for of in line["likelihoods"])
        assert line["scores"]["probability"] == pytest.approx(right)
        assert line["answer"] == line["likelihoods"][0]["answer"]
        if wrong:
            assert line["scores"]["truth ratio"] == pytest.approx(right / (right + mean(wrong)))
            assert line["scores"]["choice"] == float(right > max(wrong))
