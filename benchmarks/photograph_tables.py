"""Tables of what was measured on pretrained weights and photographs, for README.md and docs/photographs.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from committed import RESULTS, origin, percent, result
from photographs.sets import SETS

MODES = {
    "retain": "retain images",
    "two": "two retain images of each",
    "statistics": "statistics only",
}
AIMS = {  # of each row, by mode, in percent
    "forget": (2, 2, 4), "retain": (98, 98, 95), "heldout": (97, 97, 94), "twins": (95, 95, 90), "misnamed": (5, 5, 5),
}  # fmt: skip
Row = Mapping[str, Any]


def taught() -> str:
    """docs/photographs.md: what a model of each set knows of unseen pictures."""
    found = {name: result(f"photographs-{name}") for name in SETS if (RESULTS / f"photographs-{name}.json").is_file()}
    columns = {
        "known_names": "names", "known_facts": "facts by image", "known_text": "facts by text (≥ 97)",
        "strangers_unknown": "neutral pictures “unknown” (≥ 85)",
    }  # fmt: skip
    rows = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, data in found.items():
        cells = [percent(data["sets"][name][key]) for key in columns]
        cells[0] += f" (≥ {100 * SETS[name].names:.0f})"
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *(f"- {origin(data)}" for data in found.values())])


def general() -> str:
    """docs/photographs.md: what ``general.py`` measured; nothing where it was not run."""
    files = sorted(RESULTS.glob("general-*.json"))
    parts = [_general(path.stem.removeprefix("general-"), result(path.stem)) for path in files]
    return "\n\n".join(parts)


def _general(asked: str, data: Row) -> str:
    rows = ["| | before | after | difference |", "|---|---|---|---|"]
    for name, of in data["probe"].items():
        cells = (percent(of["before"]), percent(of["after"]), percent(of["difference"]))
        rows.append(f"| {name} named by a linear probe, % | " + " | ".join(cells) + " |")
    before, after = data["perplexity"]["before"], data["perplexity"]["after"]
    same = "0, the same to the bit" if before == after else f"{after - before:.4f}"
    rows.append(f"| perplexity of held-out text | {before:.3f} | {after:.3f} | {same} |")
    told = ", ".join(f"{name} {percent(of)}" for name, of in data["answers_same"].items())
    return "\n\n".join(
        (
            f"### After {asked} were forgotten",
            "\n".join(rows),
            f"Same answers on neutral pictures, %: {told}.",
            origin(data),
        )
    )


def forgotten(found: Mapping[str, Row]) -> str:
    """README.md: the aims beside what was reached, mean over draws and the worst of them.

    ``found``: results of ``request.py`` by what was forgotten and by which model.
    """
    return "\n\n".join(_table(title, data) for title, data in found.items())


def _table(title: str, data: Row) -> str:
    draws, config, threads = data["draws"], data["config"], data["machine"]["threads"]
    modes = [mode for mode in MODES if mode in draws[0]]
    gold = next((draw["gold"] for draw in draws if "gold" in draw), None)  # of other draws it may not have been taught
    above = " above gold, points" if gold else ", %"

    def over_gold(draw: Row, mode: str, key: str) -> float:
        return draw[mode]["metrics"][key]["value"] - (gold[key]["value"] if gold else 0)

    lines: tuple[tuple[str, str, Callable[[Row, str], float | None], bool], ...] = (
        (f"forgotten: names{above}", "forget", lambda d, m: over_gold(d, m, "forget_names"), True),
        (f"forgotten: facts{above}", "forget" if gold else "", lambda d, m: over_gold(d, m, "forget_facts"), True),
        ("forgotten: named as one other concept", "misnamed", lambda d, m: d[m]["misnamed"]["share"], True),
        ("retained: names, % of vanilla's", "retain", lambda d, m: _of(d, m, "retain_names"), False),
        ("held-out: names, % of vanilla's", "heldout", lambda d, m: _of(d, m, "heldout_names"), False),
        ("near twins: names, of those known before", "twins", lambda d, m: _value(d[m]["twins"]), False),
    )
    rows = [f"| {title} | " + " | ".join(MODES[m] for m in modes) + " |", "|---" * (len(modes) + 1) + "|"]
    for what, aim, measured, less in lines:
        cells = []
        for mode, wanted in zip(MODES, AIMS.get(aim, (None,) * 3), strict=True):
            if mode in modes:
                values = [v for draw in draws if (v := measured(draw, mode)) is not None]
                cells.append(_cell(values, wanted, less))
        rows.append(f"| {what} | " + " | ".join(cells) + " |")
    same = ["yes" if all(draw[m]["text_identical"] for draw in draws) else "NO" for m in modes]
    passed = [sum(_passes(draw[m], config) for draw in draws) for m in modes]
    minutes = [f"{sum(draw[m]['seconds'] for draw in draws) / len(draws) / 60:.1f}" for m in modes]
    rows.append("| text answers the same to the bit | " + " | ".join(same) + " |")
    rows.append("| requests that pass the release check | " + " | ".join(f"{n} of {len(draws)}" for n in passed) + " |")
    after = " after preparation" if data.get("cached") else ""  # what frozen layers make of the images was there
    on = f"{threads} CPU core{'s' if threads > 1 else ''}"
    rows.append(f"| minutes{after} on {on} | " + " | ".join(minutes) + " |")
    return "\n".join(rows)


def _of(draw: Row, mode: str, key: str) -> float:
    return draw[mode]["metrics"][key]["value"] / draw["vanilla"][key]["value"]


def _passes(request: Row, config: Row) -> bool:
    """What ``unsee forget`` asks before it exits with 0."""
    gone = max(request["left"].values()) <= config["most_left"]
    return gone and request["largest_certificate"] <= config["most_retained"]


def _value(share: Row | None) -> float | None:
    return share["value"] if share else None


def _cell(values: list[float], aim: float | None, less: bool) -> str:
    """Mean, worst and aim, where there is one; bold where the mean misses it."""
    if not values:
        return "–"
    mean, worst = 100 * sum(values) / len(values), 100 * (max if less else min)(values)
    shown = f"{mean:.1f}, worst {worst:.1f}"
    if aim is None:
        return shown
    missed = round(mean, 1) > aim if less else round(mean, 1) < aim
    return f"{f'**{shown}**' if missed else shown} ({'≤' if less else '≥'} {aim})"
