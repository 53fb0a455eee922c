"""Tables and pictures of what ``sequential.py`` measured; ``tables.py`` places them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import cycle, pairwise
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from committed import RESULTS, ROOT, SHAPES, origin, percent, result
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from request import STUDIES

from unsee.config import LedgerConfig
from unsee.evaluation.statistics import share
from unsee.report.plots import BLUE, GOLD, GREEN, GREY, RED
from unsee.rivals import METHODS
from unsee.untrusted import read_yaml

COLORS = (BLUE, GREEN, GOLD, GREY, RED, "black")
LEDGER = ("statistics", "images")
SEQUENCES = (*LEDGER, "unsettled", "free")
PRETRAINED = Path("recipes/photographs/ledger.yaml")


def committed_sequences() -> dict[Line, list[dict[str, Any]]]:
    """Results of ``sequential.py``, an order each: ours as they are, ours with other settings, rivals; people first."""
    found: dict[Line, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("sequential-*.json")):
        data = result(path.stem)
        older = "bf16" not in data  # noted since there is --crowd; until then one alone was pulled as hard as many
        config = ({"crowd": 0} if older and data["people"] == 1 else {}) | data.get("config", {})
        line = Line(data["study"], data["shape"], data["form"], len(data["turns"]), data["people"], json.dumps(config))
        found.setdefault(line, []).append(data)
    forms = [*SEQUENCES, *METHODS]
    return {
        line: found[line]
        for line in sorted(found, key=lambda n: (n.study != "people", n.loose, forms.index(n.form), *n))
    }


class Line(NamedTuple):
    """A sequence of requests: what is the same in all its orders."""

    study: str
    shape: str
    form: str
    requests: int
    people: int
    config: str

    @property
    def title(self) -> str:
        if self.form not in SEQUENCES:
            return METHODS[self.form].title
        config, recipe = json.loads(self.config), read_yaml(ROOT / PRETRAINED)
        of_recipe = recipe.keys() <= config.keys()
        usual = asdict(LedgerConfig()) | (recipe if of_recipe else {})
        own = [f"{k} {v}" for k, v in config.items() if v != usual[k]]
        return ", ".join(["unsee", self.form, *([PRETRAINED.name] if of_recipe else []), *own])

    @property
    def row(self) -> str:
        """Which lines stand side by side in the picture."""
        if self.study in STUDIES:
            return "photographs"
        if self.study == "people" and self.form not in SEQUENCES:
            return "rivals"
        return f"{self.study}, {'a hundred' if self.requests * self.people >= 100 else 'few'}"

    @property
    def loose(self) -> bool:
        """Forgotten with other settings on purpose, to see what the gate's figures go along with."""
        return json.loads(self.config).get("steps", LedgerConfig.steps) < LedgerConfig.steps


def sequences_picture() -> None:
    """docs/sequences.png: who comes back after which request, and who stays, the forms that came one after another."""
    found = {line: runs for line, runs in committed_sequences().items() if line.requests > 1 and not line.loose}
    rows: dict[str, list[Line]] = {}
    for line in found:
        rows.setdefault(line.row, []).append(line)
    if not rows:
        return
    wide = max(map(len, rows.values()))
    figure = Figure(figsize=(3 * wide + 6.6, 3 * len(rows) + 0.8), layout="constrained")
    grid = figure.subplots(len(rows), wide + 1, squeeze=False, width_ratios=[1] * wide + [1.2])
    for (*maps, curves), lines in zip(grid, rows.values(), strict=True):
        for axes in maps[len(lines) :]:
            axes.set_axis_off()
        for axes, line, color in zip(maps, lines, cycle(COLORS), strict=False):
            title = line.title + (f", {line.study}" if line.study != "people" else "")
            title += f", {line.requests} of {line.people}" if line.people != 2 else ""
            image = _heat(axes, found[line][0]["matrix"], fill(title, 32))
            for run, style in zip(found[line], ("-", "--", ":"), strict=False):
                kept = [100 * look["retain"] for look in run["others"]]
                label = fill(title, 24) if run is found[line][0] else ""
                gone = [line.people * look["after"] for look in run["others"]]
                curves.plot(gone, kept, style, color=color, label=label)
        curves.set(title="who stays", xlabel="forgotten", ylabel="names given, %", ylim=(0, 102))
        curves.grid(alpha=0.2)
        curves.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    bar = figure.colorbar(image, ax=grid[:, :-1], location="bottom", shrink=0.4)
    bar.set_label("names of the forgotten still given, %")
    figure.savefig(ROOT / "docs" / "sequences.png", dpi=100, metadata={"Software": None})


def _heat(axes: Any, rows: list[list[float]], title: str) -> Any:
    shown = [[100 * v for v in row] + [math.nan] * (len(rows) - len(row)) for row in rows]
    extent = (0.5, len(rows) + 0.5, len(rows) + 0.5, 0.5)
    axes.set(title=title, xlabel="request", ylabel="asked after request")
    image = axes.imshow(shown, cmap="magma_r", vmin=0, vmax=100, extent=extent)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return image


def sequences() -> str:
    """docs/results.md: what ``sequential.py`` measured, the orders of a form together."""
    found = {line: runs for line, runs in committed_sequences().items() if not line.loose}
    titles = (
        "form", "requests", "orders", "forgotten names", "facts", "largest rebound", "attributes", "retained",
        "held-out", "text", "retained on the way", "time",
    )  # fmt: skip
    parts = []
    for study, shape in dict.fromkeys(line[:2] for line in found):
        rows = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        mine = {line: runs for line, runs in found.items() if line[:2] == (study, shape)}
        rows += [_sequence(line, runs) for line, runs in mine.items()]
        parts += [
            f"### {study.capitalize()}, {SHAPES[shape]}",
            "\n".join(rows),
            *(origin(run) for runs in mine.values() for run in runs),
        ]
    return "\n\n".join(parts)


def _sequence(line: Line, runs: list[dict[str, Any]]) -> str:
    kinds = ("names", "facts", "attributes", "retain", "heldout", "text")
    names, facts, attributes, retained, heldout, text = (_pooled(runs, kind) for kind in kinds)
    if line.form in SEQUENCES:
        text = "unchanged"  # no weight of the language model is
    looks = [*zip(*([look["retain"] for look in run["others"][1:]] for run in runs), strict=True)]
    step = math.ceil(len(looks) / 5)
    way = ", ".join(f"{100 * sum(look) / len(look):.1f}" for look in looks[step - 1 :: step])
    rebound = ", ".join(f"{100 * run['rebound']:.0f}" for run in runs) if line.requests > 1 else ""
    seconds = [[turn["seconds"] for turn in run["turns"]] for run in runs]
    grown = sum(sum(s[-5:]) / sum(s[:5]) for s in seconds) / len(runs)
    cells = (
        line.title, f"{line.requests} of {line.people}", len(runs), names, facts, rebound, attributes, retained,
        heldout, text, way, f"{grown:.2f}" if line.requests > 1 else "",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _pooled(runs: list[dict[str, Any]], figure: str) -> str:
    """The mean over all orders at their end, and its interval: people drawn whole; nothing where none is asked."""
    if any(figure not in run["last"] for run in runs):
        return ""
    each = [(value, person) for run in runs for person, value in run["last"][figure].items()]
    return percent(share([v for v, _ in each], [p for _, p in each]))


EDGES = {  # of the gate's figures
    "left": (0.2, 0.3, 0.4, 0.5, 0.7),
    "earlier": (0.01, 0.02, 0.05, 0.1, 0.3),
    "retained": (0.05, 0.1, 0.2, 0.3, 0.5),
    "heldout": (0.05, 0.1, 0.2, 0.3, 0.5),
}


def gate() -> str:
    """docs/requests.md: what the gate's figures went along with, turn by turn, in runs on people that a ledger does."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in EDGES}
    for line, runs in committed_sequences().items():
        for run in runs if line.study == "people" and line.form in LEDGER and line.requests > 1 else ():
            _turns(run, found)
    told = {"left": "the requested", "earlier": "those before", "retained": "who stay", "heldout": "held-out people"}
    rows = ["| figure | of | turns | names given, % | the most or least |", "|---" * 5 + "|"]
    for name, both in found.items():
        worst = max if name in ("left", "earlier") else min
        for low, high in pairwise((0.0, *EDGES[name], math.inf)):
            if values := [100 * names for figure, names in both if low <= figure < high]:
                span = f"{low:g} to {high:g}" if high < math.inf else f"over {low:g}"
                mean = sum(values) / len(values)
                rows.append(f"| {name}, {span} | {told[name]} | {len(values)} | {mean:.1f} | {worst(values):.1f} |")
    loose = [run for line, runs in committed_sequences().items() if line.loose for run in runs]
    return "\n\n".join(["\n".join(rows), *map(origin, loose)])


def _turns(run: dict[str, Any], found: dict[str, list[tuple[float, float]]]) -> None:
    """Adds each turn's figures, and the names of whom they tell."""
    looks = {look["after"]: look for look in run["others"]}
    for j, (turn, row) in enumerate(zip(run["turns"], run["matrix"], strict=True)):
        if "earlier" not in turn:  # of a run before these were noted
            continue
        found["left"].append((turn["left"], row[j]))
        if j:
            found["earlier"].append((turn["earlier"], sum(row[:j]) / j))
        if j + 1 in looks:
            found["retained"].append((turn["retained"], looks[j + 1]["retain"]))
            found["heldout"].append((turn["heldout"], looks[j + 1]["heldout"]))
