"""Write the tables and pictures of README.md and docs from the files in benchmarks/results.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unsee.comparison.outcome import Comparison
from unsee.comparison.page import points
from unsee.comparison.plots import paretos
from unsee.comparison.table import table as side_by_side
from unsee.evaluation.statistics import share
from unsee.evaluation.table import Table
from unsee.report.plots import BLUE, GOLD, GREEN, GREY, RED
from unsee.rivals import METHODS
from unsee.vision.families import FAMILIES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHAPES = {"llava": "LLaVA", "qwen2_vl": "Qwen2-VL"}
MODES = {"retain": "retain images in the loss", "statistics": "statistics only"}
SEQUENCES = ("statistics", "images", "unsettled", "free")
FORMS = {"none": (GREY, "x"), "hard": (GOLD, "v"), "soft": (GREEN, "^"), "cumulative": (BLUE, "o")}
SHORT = {  # columns of the comparison in the README
    "score": "score", "forget_names": "forgotten names", "retained": "retained", "heldout": "held-out",
    "attributes": "attributes", "text": "text", "misnamed": "misnamed",
}  # fmt: skip
SHORTER = ("score", "forget_names", "heldout", "text")  # of every study but the first
COLUMNS = {
    "forget_names": "forgotten: names", "forget_facts": "facts", "forget_unknown": "“unknown”",
    "forget_attributes": "attributes", "retain_names": "retained: names", "retain_facts": "facts",
    "heldout_names": "held-out: names", "heldout_facts": "facts", "strangers_unknown": "strangers “unknown”",
}  # fmt: skip


def requests() -> dict[str, dict[str, Any]]:
    """Results of ``request.py`` by what was forgotten and by which model."""
    found = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}
    named = {_title(name): data for name, data in found.items() if "draws" in data}
    return {name: named[name] for name in sorted(named, key=lambda n: (n[0].isdigit(), n))}


def _title(name: str) -> str:
    """people-llava → people, LLaVA; flags10-qwen2_vl → 10 flags, Qwen2-VL."""
    what, _, shape = name.partition("-")
    count = what.removeprefix("flags")
    return f"{what if what == count else f'{count} flags'}, {SHAPES[shape]}"


def percent(share: dict[str, float]) -> str:
    value, low, high = (100 * share[k] for k in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def details() -> str:
    """Every model and draw, each figure with its interval."""
    parts = []
    for name, data in requests().items():
        columns = {k: title for k, title in COLUMNS.items() if k in data["draws"][0]["vanilla"]}
        rows = ["| draw, model | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
        for row in data["draws"]:
            models = {k: row[k] for k in ("vanilla", "gold") if k in row}
            models |= {title: row[mode]["metrics"] for mode, title in MODES.items() if mode in row}
            for title, metrics in models.items():
                rows.append(f"| {row['draw']}, {title} | " + " | ".join(percent(metrics[k]) for k in columns) + " |")
        worst = max(row[m]["misnamed"]["worst"] for row in data["draws"] for m in MODES if m in row)
        text = all(row[m]["text_identical"] for row in data["draws"] for m in MODES if m in row)
        asked = data["draws"][0]["vanilla"]
        groups = {"forget_names": "forgotten", "retain_names": "retained", "heldout_names": "held-out"}
        counts = ", ".join(f"{asked[k]['n']} {title}" for k, title in groups.items())
        note = (
            f"Percent, with 95 % bootstrap intervals over concepts. Views asked for a name in a draw: {counts}. "
            f"Text answers and language model the same to the bit: {'yes' if text else 'NO'}. "
            f"Largest share of a forgotten concept's views given one other name: {100 * worst:.0f} %."
        )
        parts.append("\n\n".join((f"### {name}", note, "\n".join(rows), origin(data))))
    if drawn := curves():
        parts.append("\n\n".join(("### Trade-off", "![Retained against forgotten names](tradeoff.png)")))
        parts += [origin(data) for data in drawn.values()]
    return "\n\n".join(parts)


def origin(data: dict[str, Any]) -> str:
    return f"`{data['command']}`, commit {data['commit']}."


def curves() -> dict[str, dict[str, Any]]:
    """Results of ``tradeoff.py`` by file name."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("tradeoff-*.json"))}


def summary() -> str:
    """The aims beside what was reached: the mean over draws and the worst of them; and what a request costs."""
    rows = ["| | aim | " + " | ".join(requests()) + " |", "|---" * (len(requests()) + 2) + "|"]
    few, most, all_but = (
        {"retain": a, "statistics": b} for a, b in (("≤ 2", "≤ 4"), ("≥ 98.5", "≥ 96"), ("≥ 98", "≥ 96"))
    )
    lines = (
        ("forget_names", "forgotten names over gold, points", few, "over"),
        ("forget_facts", "forgotten facts by image over gold, points", few, "over"),
        ("forget_unknown", "forgotten answered “unknown”, of gold's rate", dict.fromkeys(MODES, "≥ 85"), "gold"),
        ("forget_attributes", "attributes on their images, of vanilla", {"retain": "≥ 97", "statistics": "≥ 95"}, "of"),
        ("retain_names", "retained names, of vanilla", most, "of"),
        ("retain_facts", "retained facts, of vanilla", most, "of"),
        ("heldout_names", "held-out names, of vanilla", all_but, "of"),
    )  # fmt: skip
    for mode, title in MODES.items():
        rows.append(f"| **{title}** | |" + " |" * len(requests()))
        for key, what, aim, how in lines:
            cells = [_cell(data, mode, key, how) for data in requests().values()]
            rows.append(f"| {what} | {aim[mode]} | " + " | ".join(cells) + " |")
        cells = [
            _mean_and_worst([100 * r[mode]["misnamed"]["worst"] for r in d["draws"] if mode in r], max)
            for d in requests().values()
        ]
        rows.append("| a forgotten concept's views given one other name, most | ≤ 5 | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n\n" + cost()


def cost() -> str:
    """What ``cost.py`` measured, in a sentence."""
    runs = json.loads((RESULTS / "cost.json").read_text(encoding="utf-8"))["runs"]
    upper, whole = (
        " to ".join(f"{pick(r[k] for r in runs):.2f}" for pick in (min, max)) for k in ("ratio", "ratio_whole_module")
    )
    return (
        f"A whole request takes {upper} times the bare passes it needs, from the first trained block on (aim 1.3), "
        f"and {whole} times all passes through the whole module ([cost.json](benchmarks/results/cost.json))."
    )


def _cell(data: dict[str, Any], mode: str, key: str, how: str) -> str:
    draws = [row for row in data["draws"] if mode in row and key in row["vanilla"]]
    gold = next((row["gold"][key]["value"] for row in data["draws"] if key in row.get("gold", {})), None)
    if not draws or (gold is None and how != "of"):
        return "–"
    got = [row[mode]["metrics"][key]["value"] for row in draws]
    if how == "of":
        values = [100 * g / row["vanilla"][key]["value"] for g, row in zip(got, draws, strict=True)]
    elif how == "gold":
        values = [100 * g / gold for g in got]
    else:
        values = [100 * (g - gold) for g in got]
    return _mean_and_worst(values, max if how == "over" else min)


def _mean_and_worst(values: list[float], worst: Callable[[list[float]], float]) -> str:
    """Mean and worst; of what gold hardly does, any share of its rate is over 100."""
    mean, last = (f"{v:.1f}" if v <= 200 else "> 200" for v in (sum(values) / len(values), worst(values)))
    return f"{mean} (worst {last})"


def placed(text: str, mark: str, table: str) -> str:
    """``text`` with ``table`` between its ``<!-- mark -->`` lines."""
    start, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"no {end}")
    return f"{before}{start}\n{table}\n\n{end}{after}"


def tradeoff() -> None:
    """docs/tradeoff.png: a panel per result of ``tradeoff.py`` and mode; the better, the further up and left."""
    if not (found := curves()):
        return
    figure = Figure(figsize=(8.6, 3.9 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), len(MODES), squeeze=False)
    for row, (name, data) in zip(panels, found.items(), strict=True):
        for axes, (mode, title) in zip(row, MODES.items(), strict=True):
            for form, (colour, marker) in FORMS.items():
                points = [p["metrics"] for p in data["points"] if (p["form"], p["mode"]) == (form, mode)]
                x, y = ([100 * p[k]["value"] for p in points] for k in ("forget_names", "retain_names"))
                axes.plot(x, y, color=colour, marker=marker, label=form)
            axes.set(title=f"{name.removeprefix('tradeoff-')}, {title}", xlabel="forgotten names still given, %")
            axes.grid(alpha=0.2)
        row[0].set_ylabel("retained names, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(FORMS))
    figure.savefig(ROOT / "docs" / "tradeoff.png", dpi=110, metadata={"Software": None})


def families() -> str:
    """docs/models.md: the rows of the families' table."""
    rows = ["| `model_type` | encoder | projector |", "|---|---|---|"]
    rows += [f"| {', '.join(f.types)} | {f.encoder} | {f.projector} |" for f in FAMILIES]
    return "\n".join(rows)


def sizes() -> str:
    """README.md: what ``realsize.py`` measured."""
    found = {name: _result(name) for name in sorted(path.stem for path in RESULTS.glob("realsize*.json"))}
    rows = ["| checkpoint | on disk | read | inspect | forget: peak memory | over what it needs |", "|---" * 6 + "|"]
    for run in (run for data in found.values() for run in data["runs"]):
        need, forget = run["denominator"], run["forget"]
        rows.append(
            f"| {run['shape']} | {run['weights_bytes'] / 1e9:.1f} GB | {run['visual_bytes'] / 1e9:.2f} GB | "
            f"{run['inspect']['seconds']:.1f} s | {forget['peak_mib'] / 1024:.2f} GiB | "
            f"{run['ratio']:.2f} × {need['mib'] / 1024:.2f} GiB |"
        )
    origins = ", ".join(f"[{name}.json](benchmarks/results/{name}.json)" for name in found)
    return "\n\n".join(("\n".join(rows), f"Commands and commits: {origins}.", speed(), rivals()))


def speed() -> str:
    """What ``speed.py`` measured, in a sentence."""
    data, null = _result("speed"), _result("speed")["null_spaces"]
    share = {name: data[name]["throughput"] for name in ("float32", "bfloat16")}
    shown = {n: f"{100 * s['value']:.0f} % [{100 * s['low']:.0f}, {100 * s['high']:.0f}]" for n, s in share.items()}
    return (
        f"On LLaVA's tower, recording statistics leaves {shown['float32']} of the bare pass's throughput in float32 "
        f"(aim 85), {shown['bfloat16']} in bfloat16. Null spaces of all layers that train take "
        f"{null['seconds']['trained']:.0f} s, of every layer {null['seconds']['every_layer']:.0f} s; a pass over 475 "
        f"images {null['pass_over_475_images']:.0f} s ([speed.json](benchmarks/results/speed.json))."
    )


def rivals() -> str:
    """What ``versus.py`` measured, in a sentence."""
    data = _result("versus-small")
    ratios, size = data["ratios"]["unsee"], {n: data["parameters"][n] / 1e6 for n in ("visual", "language")}
    plain, again = ({n: r for n, r in ratios.items() if n.endswith("checkpointing") == c} for c in (False, True))
    return (
        f"Side by side in one run, on a small LLaVA shape ({size['visual']:.0f} M visual, {size['language']:.0f} M "
        f"language parameters, two cores), a step of GradDiff or NPO (LoRA as published) takes per image "
        f"{_range(plain, 'time')} times as long as ours and {_range(plain, 'memory')} times the memory; with gradient "
        f"checkpointing {_range(again, 'time')} and {_range(again, 'memory')}. The aims, 10 and 3, are of the 7B shape "
        f"on a GPU, which was not at hand ([versus-small.json](benchmarks/results/versus-small.json))."
    )


def asking() -> str:
    """docs/evaluation.md: what ``asking.py`` measured, in a sentence."""
    data = _result("asking")
    ratio, same = data["ratio"], "the same answers" if data["same_answers"] else "OTHER answers"
    return (
        f"{data['questions']} questions on {data['images']} images, up to {data['tokens']} tokens, a small LLaVA, two "
        f"cores: {ratio['value']:.1f} times as fast as one question at a time [{ratio['low']:.1f}, "
        f"{ratio['high']:.1f}] (aim 8), {same}, {max(data['encoded'])} images encoded "
        f"([asking.json](../benchmarks/results/asking.json): `{data['command']}`, commit {data['commit']})."
    )


def _range(ratios: dict[str, dict[str, float]], what: str) -> str:
    return " to ".join(dict.fromkeys(f"{pick(r[what] for r in ratios.values()):.1f}" for pick in (min, max)))


def _result(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


@cache
def compared() -> dict[str, tuple[Comparison, Table]]:
    """Results of ``rivals.py`` by file name: people, then flags."""
    names = sorted((p.stem for p in RESULTS.glob("compare-*.json")), key=lambda n: ("people" not in n, n))
    found = {name: Comparison.from_json(_result(name)) for name in names}
    return {name: (comparison, side_by_side(comparison)) for name, comparison in found.items()}


def _study(name: str) -> str:
    return _title(name.removeprefix("compare-"))


def rivals_picture() -> None:
    """docs/rivals.svg: what every method forgets and keeps, a panel a study."""
    if drawn := {_study(name): points(found) for name, (found, _) in compared().items()}:
        (ROOT / "docs" / "rivals.svg").write_text(paretos(drawn), encoding="utf-8")


def rivals_short() -> str:
    """README.md: every method in every study side by side, in a picture and without intervals."""
    if not (studies := compared()):
        return ""
    rows = {name: {row.model: row.cells for row in table.rows} for name, (_, table) in studies.items()}
    head, first = next(iter(rows.items()))
    shown = [(name, key) for name in rows for key in (SHORT if name == head else SHORTER)]
    heads = [f"{_study(name)}: score" if key == "score" else SHORT[key] for name, key in shown]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for model in first:
        found = (rows[name].get(model, {}).get(key) for name, key in shown)
        cells = [_short(cell.value, key) if cell else "–" for cell, (_, key) in zip(found, shown, strict=True)]
        lines.append(f"| {f'**{model}**' if model.startswith('unsee') else model} | " + " | ".join(cells) + " |")
    study = next(iter(studies.values()))[0].study
    note = f"{study['trials']} trials each, then {study['seeds']} seeds"
    files = ", ".join(f"[{name}.json](benchmarks/results/{name}.json)" for name in studies)
    return "\n\n".join(
        ["![What every method forgets and keeps](docs/rivals.svg)", "\n".join(lines), f"{note} ({files})."]
    )


def rivals_full() -> str:
    """docs/results.md: the same with intervals, marks, and where unsee is behind."""
    parts = []
    for name, (found, table) in compared().items():
        parts += [f"### {_study(name)}", table.markdown(), origin(vars(found))]
    return "\n\n".join(parts)


def in_sequence() -> dict[Line, list[dict[str, Any]]]:
    """Results of ``sequential.py``, an order each: ours as they are, ours with other settings, rivals; people first."""
    found: dict[Line, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("sequential-*.json")):
        data = _result(path.stem)
        study, config = data.get("study", "people"), json.dumps(data.get("config", {}))
        found.setdefault(Line(study, data["form"], len(data["turns"]), data["people"], config), []).append(data)
    forms = [*SEQUENCES, *METHODS]
    return {
        line: found[line]
        for line in sorted(found, key=lambda n: (n.study != "people", n.config != "{}", forms.index(n.form), *n))
    }


class Line(NamedTuple):
    """A sequence of requests: what is the same in all its orders."""

    study: str
    form: str
    requests: int
    people: int
    config: str

    @property
    def title(self) -> str:
        return f"unsee, {self.form}" if self.form in SEQUENCES else METHODS[self.form].title


def sequences_picture() -> None:
    """docs/sequences.png: who comes back after which request, and who stays, the forms that came one after another."""
    found = {line: runs for line, runs in in_sequence().items() if line.requests > 1 and line.config == "{}"}
    rows: dict[str, list[Line]] = {}
    for line in found:
        other = line.study != "people" or line.people == 1
        rows.setdefault("rivals" if line.form not in SEQUENCES else "others" if other else "ours", []).append(line)
    if not rows:
        return
    wide = max(map(len, rows.values()))
    figure = Figure(figsize=(3.6 * (wide + 1), 3.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), wide + 1, squeeze=False)
    for (*maps, curves), lines in zip(grid, rows.values(), strict=True):
        for axes in maps[len(lines) :]:
            axes.set_axis_off()
        for axes, line, color in zip(maps, lines, (BLUE, GREEN, GOLD, GREY, RED, "black"), strict=False):
            title = line.title + (f", {line.study}" if line.study != "people" else "")
            title += f", {line.requests} of {line.people}" if line.people == 1 else ""
            image = _heat(axes, found[line][0]["matrix"], title)
            for run, style in zip(found[line], ("-", "--", ":"), strict=False):
                kept = [100 * look["retain"] for look in run["others"]]
                label = title if run is found[line][0] else ""
                curves.plot([look["after"] for look in run["others"]], kept, style, color=color, label=label)
        curves.set(title="who stays", xlabel="requests", ylabel="names given, %", ylim=(0, 102))
        curves.grid(alpha=0.2)
        curves.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8)
    figure.colorbar(image, ax=grid[:, :-1], label="names of the forgotten still given, %", shrink=0.7)
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
    found = {line: runs for line, runs in in_sequence().items() if line.config == "{}"}
    titles = (
        "form", "requests", "orders", "forgotten names", "facts", "largest rebound", "attributes", "retained",
        "held-out", "text", "retained on the way", "time",
    )  # fmt: skip
    parts = []
    for study in dict.fromkeys(line.study for line in found):
        rows = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        mine = {line: runs for line, runs in found.items() if line.study == study}
        rows += [_sequence(line, runs) for line, runs in mine.items()]
        shape = {"people": "People, LLaVA"}.get(study, f"{study.capitalize()}, Qwen2-VL")
        parts += [f"### {shape}", "\n".join(rows), *(origin(run) for runs in mine.values() for run in runs)]
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
    """docs/requests.md: what the figures that the gate judges went along with, turn by turn, in all runs of people."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in EDGES}
    for line, runs in in_sequence().items():
        for run in runs if line.study == "people" and line.form in SEQUENCES and line.requests > 1 else ():
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
    loose = [run for line, runs in in_sequence().items() if line.config != "{}" for run in runs]
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


def methods() -> str:
    """docs/rivals.md: the rows of the methods' table."""
    rows = ["| method | | paper | what trains | what it needs beside the images to forget |", "|---" * 5 + "|"]
    for m in METHODS.values():
        arxiv = m.paper.removeprefix("arXiv ")
        paper = f"[{arxiv}](https://arxiv.org/abs/{arxiv})" if m.paper.startswith("arXiv ") else m.paper
        rows.append(f"| `{m.name}` | {m.title} | {paper} | {m.trains} | {', '.join(m.needs)} |")
    notes = [f"- `{m.name}`: {m.note}" for m in METHODS.values() if m.note]
    return "\n".join([*rows, "", "How they depart from their papers:", "", *notes])


def smallest() -> str:
    """docs/rivals.md: the method with the shortest file."""
    files = [p for p in (ROOT / "src" / "unsee" / "rivals").glob("*.py") if "METHOD = Method(" in p.read_text("utf-8")]
    sizes = {p: len(p.read_text("utf-8").splitlines()) for p in files if "train(" in p.read_text("utf-8")}
    return f"```python\n{min(sizes, key=lambda p: (sizes[p], p.name)).read_text('utf-8').strip()}\n```"


def _short(value: float, key: str) -> str:
    return f"{value:.3f}" if key == "score" else f"{100 * value:.0f}"


TABLES = [
    ("docs/results.md", "details", details),
    ("docs/models.md", "families", families),
    ("docs/evaluation.md", "asking", asking),
    ("README.md", "summary", summary),
    ("README.md", "sizes", sizes),
    ("README.md", "rivals", rivals_short),
    ("docs/results.md", "rivals", rivals_full),
    ("docs/results.md", "sequences", sequences),
    ("docs/requests.md", "gate", gate),
    ("docs/rivals.md", "methods", methods),
    ("docs/rivals.md", "smallest", smallest),
]


def main() -> None:
    for file, mark, table in TABLES:
        path = ROOT / file
        path.write_text(placed(path.read_text(encoding="utf-8"), mark, table()), encoding="utf-8")
    tradeoff()
    rivals_picture()
    sequences_picture()


if __name__ == "__main__":
    main()
