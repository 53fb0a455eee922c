"""Write the tables and pictures of README.md and docs from the files in benchmarks/results.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import photograph_tables
from committed import RESULTS, ROOT, SHAPES, origin, percent, result
from in_sequence import gate, sequences, sequences_picture
from matplotlib.figure import Figure

from unsee.comparison.outcome import Comparison
from unsee.comparison.page import points
from unsee.comparison.plots import paretos
from unsee.comparison.table import table as side_by_side
from unsee.evaluation.table import Table
from unsee.report.plots import BLUE, GOLD, GREEN, GREY
from unsee.rivals import METHODS
from unsee.vision.families import FAMILIES

MODES = {"retain": "retain images in the loss", "statistics": "statistics only"}
FORMS = {"none": (GREY, "x"), "hard": (GOLD, "v"), "soft": (GREEN, "^"), "cumulative": (BLUE, "o")}
SHORT = {  # columns of the overview of the comparison
    "score": "score", "forget_names": "forgotten names", "retained": "retained", "heldout": "held-out",
    "attributes": "attributes", "text": "text", "misnamed": "misnamed",
}  # fmt: skip
SHORTER = ("score", "forget_names", "heldout", "text")  # of every study but the first
COLUMNS = {
    "forget_names": "forgotten: names", "forget_facts": "facts", "forget_unknown": "“unknown”",
    "forget_attributes": "attributes", "retain_names": "retained: names", "retain_facts": "facts",
    "heldout_names": "held-out: names", "heldout_facts": "facts", "strangers_unknown": "strangers “unknown”",
}  # fmt: skip


def requests(photographed: bool = False) -> dict[str, dict[str, Any]]:
    """Results of ``request.py`` by what was forgotten and by which model: of photographs, or of drawn worlds."""
    found = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}
    drawn = ("people", "flags")
    named = {_title(n): d for n, d in found.items() if "draws" in d and (d["study"] not in drawn) == photographed}
    return {name: named[name] for name in sorted(named, key=lambda n: (n[0].isdigit(), n))}


def with_defaults(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those that were made with the defaults of their commit."""
    return {name: data for name, data in found.items() if "--config" not in data["command"]}


def _title(name: str) -> str:
    """people-llava → people, LLaVA; flags10-qwen2_vl → 10 flags, Qwen2-VL; a_b-llava → a b, LLaVA."""
    what, _, shape = name.partition("-")
    what = what.replace("_", " ")
    count = what.removeprefix("flags")
    return f"{what if what == count else f'{count} flags'}, {SHAPES[shape]}"


def details() -> str:
    """Of drawn worlds."""
    parts = [_details(requests(), MODES)]
    if drawn := curves():
        parts.append("\n\n".join(("### Trade-off", "![Retained against forgotten names](tradeoff.png)")))
        parts += [origin(data) for data in drawn.values()]
    return "\n\n".join(parts)


def photograph_details() -> str:
    return _details(requests(photographed=True), photograph_tables.MODES)


def _details(found: dict[str, dict[str, Any]], modes: dict[str, str]) -> str:
    """Every model and draw, each figure with its interval."""
    parts = []
    for name, data in found.items():
        columns = {k: title for k, title in COLUMNS.items() if k in data["draws"][0]["vanilla"]}
        rows = ["| draw, model | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
        for row in data["draws"]:
            models = {k: row[k] for k in ("vanilla", "gold") if k in row}
            models |= {title: row[mode]["metrics"] for mode, title in modes.items() if mode in row}
            for title, metrics in models.items():
                rows.append(f"| {row['draw']}, {title} | " + " | ".join(percent(metrics[k]) for k in columns) + " |")
        worst = max(row[m]["misnamed"]["worst"] for row in data["draws"] for m in modes if m in row)
        text = all(row[m]["text_identical"] for row in data["draws"] for m in modes if m in row)
        asked = data["draws"][0]["vanilla"]
        groups = {"forget_names": "forgotten", "retain_names": "retained", "heldout_names": "held-out"}
        counts = ", ".join(f"{asked[k]['n']} {title}" for k, title in groups.items())
        note = (
            f"Percent, with 95 % bootstrap intervals over concepts. Views asked for a name in a draw: {counts}. "
            f"Text answers and language model the same to the bit: {'yes' if text else 'NO'}. "
            f"Largest share of a forgotten concept's views given one other name: {100 * worst:.0f} %."
        )
        parts.append("\n\n".join((f"### {name}", note, "\n".join(rows), origin(data))))
    return "\n\n".join(parts)


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
        f"and {whole} times all passes through the whole module ([cost.json](../benchmarks/results/cost.json))."
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
    found = {name: result(name) for name in sorted(path.stem for path in RESULTS.glob("realsize*.json"))}
    columns = ("checkpoint", "on disk", "read", "inspect", "peak memory", "over what it needs", "preparation", "a step")
    rows = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for run in (run for data in found.values() for run in data["runs"]):
        need, forget, took = run["denominator"], run["forget"], run["run_seconds"]
        steps = int(run["flags"][run["flags"].index("--steps") + 1])
        rows.append(
            f"| {run['shape']} | {run['weights_bytes'] / 1e9:.1f} GB | {run['visual_bytes'] / 1e9:.2f} GB | "
            f"{run['inspect']['seconds']:.1f} s | {forget['peak_mib'] / 1024:.2f} GiB | "
            f"{run['ratio']:.2f} × {need['mib'] / 1024:.2f} GiB | {took['prepare'] / 60:.0f} min | "
            f"{took['loop'] / steps:.0f} s |"
        )
    origins = ", ".join(f"[{name}.json](benchmarks/results/{name}.json)" for name in found)
    return "\n\n".join(("\n".join(rows), f"Commands and commits: {origins}.", speed(), rivals()))


def speed() -> str:
    """What ``speed.py`` measured, in a sentence."""
    data, null = result("speed"), result("speed")["null_spaces"]
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
    data = result("versus-small")
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
    data = result("asking")
    ratio, same = data["ratio"], "the same answers" if data["same_answers"] else "OTHER answers"
    return (
        f"{data['questions']} questions on {data['images']} images, up to {data['tokens']} tokens, a small LLaVA, two "
        f"cores: {ratio['value']:.1f} times as fast as one question at a time [{ratio['low']:.1f}, "
        f"{ratio['high']:.1f}] (aim 8), {same}, {max(data['encoded'])} images encoded "
        f"([asking.json](../benchmarks/results/asking.json): `{data['command']}`, commit {data['commit']})."
    )


def _range(ratios: dict[str, dict[str, float]], what: str) -> str:
    return " to ".join(dict.fromkeys(f"{pick(r[what] for r in ratios.values()):.1f}" for pick in (min, max)))


@cache
def compared() -> dict[str, tuple[Comparison, Table]]:
    """Results of ``rivals.py`` by file name: people, then flags."""
    names = sorted((p.stem for p in RESULTS.glob("compare-*.json")), key=lambda n: ("people" not in n, n))
    found = {name: Comparison.from_json(result(name)) for name in names}
    return {name: (comparison, side_by_side(comparison)) for name, comparison in found.items()}


def _study(name: str) -> str:
    return _title(name.removeprefix("compare-"))


def rivals_picture() -> None:
    """docs/rivals.svg: what every method forgets and keeps, a panel a study."""
    if drawn := {_study(name): points(found) for name, (found, _) in compared().items()}:
        (ROOT / "docs" / "rivals.svg").write_text(paretos(drawn), encoding="utf-8")


def rivals_short() -> str:
    """docs/results.md: every method in every study side by side, in a picture and without intervals."""
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
    files = ", ".join(f"[{name}.json](../benchmarks/results/{name}.json)" for name in studies)
    return "\n\n".join(["![What every method forgets and keeps](rivals.svg)", "\n".join(lines), f"{note} ({files})."])


def rivals_full() -> str:
    """docs/results.md: the same with intervals, marks, and where unsee is behind."""
    parts = []
    for name, (found, table) in compared().items():
        parts += [f"### {_study(name)}", table.markdown(), origin(vars(found))]
    return "\n\n".join(parts)


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
    ("docs/photographs.md", "photographs", photograph_tables.taught),
    ("docs/photographs.md", "forgotten", photograph_details),
    ("docs/photographs.md", "general", photograph_tables.general),
    ("README.md", "photographs", lambda: photograph_tables.forgotten(with_defaults(requests(photographed=True)))),
    ("docs/models.md", "families", families),
    ("docs/evaluation.md", "asking", asking),
    ("docs/results.md", "summary", summary),
    ("README.md", "sizes", sizes),
    ("docs/results.md", "overview", rivals_short),
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
