"""Comparisons made up for tests: every figure of a method is right as often as is said here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unsee.comparison.outcome import Comparison, Run, Trial
from unsee.evaluation import statistics

GROUPS = {"forget": 20, "retain": 60, "heldout": 20}  # concepts
ITEMS = {"names": 3, "facts": 4, "attributes": 4, "text": 3}  # of each concept
GOLD_SEED = 7


def clusters(attributes: bool = True) -> dict[str, list[str]]:
    found = {
        f"{group}_{kind}": [f"{group}-{c:03}" for c in range(n) for _ in range(items)]
        for group, n in GROUPS.items()
        for kind, items in ITEMS.items()
        if attributes or kind != "attributes"
    }
    found["forget_truth_ratio"] = found["forget_names"]
    return found


def values(of: Mapping[str, Sequence[str]], rates: Mapping[str, float], seed: int) -> dict[str, list[float]]:
    """Right or wrong at random, as often as ``rates`` say of a figure or of all: "forget_names", "*"."""
    rng = np.random.default_rng(seed)
    found = {f: (rng.random(len(c)) < rates.get(f, rates["*"])).astype(float).tolist() for f, c in of.items()}
    shift = rates.get("forget_truth_ratio", 0.0)
    return found | {"forget_truth_ratio": rng.uniform(shift, 1 + shift, len(of["forget_truth_ratio"])).tolist()}


def run(method: str, rates: Mapping[str, float], seed: int, of: Mapping[str, Sequence[str]], draw: int = 0) -> Run:
    given = values(of, rates, GOLD_SEED if method == "gold" else 1000 * draw + seed)
    settings = {"lr": 1e-3 * (1 + draw), "steps": 100, "batch": 8, "seed": seed}
    metrics = {figure: statistics.share(given[figure], of[figure], draws=100) for figure in of}
    gold = values(of, {"*": 0.0}, GOLD_SEED)["forget_truth_ratio"]
    apart = None if method == "gold" else statistics.ks(given["forget_truth_ratio"], gold)["distance"]
    return Run(method, seed, settings, metrics, given, apart, 3.0 + draw, (900 + draw) * 10**6, 10_000 * draw)


def failed(method: str, error: str, seed: int = 0) -> Run:
    return Run(method, seed, {}, {}, {}, None, 0.0, 0, 0, error)


def tried(n: int, seed: int) -> tuple[Trial, ...]:
    rng = np.random.default_rng(seed)
    scores = rng.random(n).round(3).tolist()
    return tuple(
        Trial(i, {"lr": float(f"{10 ** rng.uniform(-5, -2):.3g}")}, score, {"forget_names": 0.1}, 2.5)
        for i, score in enumerate(scores)
    )


def comparison(
    methods: Mapping[str, Mapping[str, float]], seeds: int = 2, attributes: bool = True, **other: Any
) -> Comparison:
    """Vanilla, gold, and ``methods``: name → how often it is right."""
    of = clusters(attributes)
    cut = {"forget_names": 0.0, "forget_facts": 0.02, "*": 0.97}
    runs = [run("vanilla", {"*": 0.98}, 0, of), run("gold", cut, 0, of, 1)]
    for draw, (name, rates) in enumerate(methods.items(), start=2):
        runs += [run(name, rates, seed, of, draw) for seed in range(seeds)]
    study = {
        "model": "people-vanilla (llava)", "data": "people", "split": "forget_10", "seeds": list(range(seeds)),
        "trials": 8, "steps": 100, "batch": 8,
    }  # fmt: skip
    trials = {name: tried(8, i) for i, name in enumerate(methods)}
    made = Comparison(
        "People, 10 % forgotten", study, of, tuple(runs), trials, {"cores": 2, "processor": "any"},
        "unsee compare --data people --split forget_10 --trials 8", "abc1234", counted=True,
    )  # fmt: skip
    return Comparison(**{**vars(made), **other})
