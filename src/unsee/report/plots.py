"""The report's plots, as SVG that stands inside an HTML page and takes its ink and its font from there."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

INK = "#123456"  # a colour no plot uses: replaced by currentColor, so that plots follow light and dark mode
BLUE, RED, GREEN, GREY, GOLD = "#0072b2", "#d55e00", "#009e73", "#868e96", "#b8860b"  # told apart by the colour-blind
GROUPS = {"forgotten": (RED, "o"), "kept": (BLUE, "s"), "held out": (GREEN, "^"), "stranger": (GREY, "D")}
OTHERS = ((GOLD, "v"), (BLUE, "P"), (GREEN, "X"))
POINTS = 300  # of a group: more only makes the file larger
LAYERS = 24
_PLAIN_WORDS = set("model visual vision_tower vision_model encoder layers blocks self_attn attn mlp".split())
WIDTH = 5.2  # inches; one column on a phone, half of a wide page
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "unsee", "svg.fonttype": "none", "text.parse_math": False, "font.size": 11,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.axisbelow": True,
    "grid.color": INK, "grid.alpha": 0.13, "grid.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": 11,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "lines.linewidth": 2, "lines.markersize": 4,
}  # fmt: skip


def space(groups: Mapping[str, ArrayLike], around: Mapping[str, ArrayLike], name: str) -> str:
    """Points of a plane, by group; the axes have room for ``around`` too, so that two pictures can be compared."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, WIDTH * 0.86), layout="constrained")
        axes = figure.add_subplot(xticks=[], yticks=[])
        others = iter(OTHERS * len(groups))
        for group, points in groups.items():
            colour, marker = GROUPS.get(group) or next(others)
            x, y = _thin(_points(points)).T
            axes.scatter(
                x, y, s=26, c=colour, marker=marker, alpha=0.75, linewidths=0, label=group, zorder=1 + 1 / (1 + len(x))
            )  # a few points are not to vanish below many
        everything = np.concatenate([_points(p) for p in (*groups.values(), *around.values())])
        _frame(axes, everything)
        figure.legend(loc="outside lower center", ncols=min(len(groups), 4), handletextpad=0.2, columnspacing=1.3)
        return svg(figure, name)


def curve(steps: Sequence[Mapping[str, float]]) -> str:
    """What is still known of the forgotten and of the kept, and the loss, over the steps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        shares, losses = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        for key, label, colour, marker in (("retain", "kept", BLUE, "s"), ("forget", "forgotten", RED, "o")):
            _line(shares, steps, key, colour=colour, marker=marker, label=label)
        shares.set(ylim=(-0.03, 1.04), ylabel="still known")
        shares.yaxis.set_major_formatter(PercentFormatter(1, 0))
        _line(losses, steps, "loss", colour=GREY, marker="")
        losses.set(xlabel="step", ylabel="loss")
        losses.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses.yaxis.set_major_locator(MaxNLocator(3))
        for axes in (shares, losses):
            axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=2)
        return svg(figure, "curve")


def layers(drifts: Sequence[Mapping[str, Any]]) -> str:
    """Relative drift of retained inputs, layer by layer: computed from the statistics, and measured on images."""
    shown = most_drift(drifts)
    names, height = short_names([str(layer["layer"]) for layer in shown]), np.arange(len(shown))
    columns = {key: _positive([layer.get(key) for layer in shown]) for key in ("certificate", "measured")}
    floor, ceiling = _decades(np.concatenate(list(columns.values())))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.22 * len(shown)), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlim=(floor, ceiling), xlabel="relative drift")
        for offset, colour, (key, values) in zip((-0.2, 0.2), (GREY, BLUE), columns.items(), strict=True):
            axes.barh(height + offset, values - floor, 0.34, left=floor, color=colour, label=key)
        axes.set_yticks(height, names)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.minorticks_off()
        axes.set_xticks(_ticks(floor, ceiling), [f"{tick:.0e}".replace("e-0", "e-") for tick in _ticks(floor, ceiling)])
        axes.grid(axis="x")
        figure.legend(loc="outside upper left", ncols=2)
        return svg(figure, "layers")


def most_drift(drifts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The layers that are shown, in the model's order: those with the largest measured drift."""
    order = sorted(range(len(drifts)), key=lambda i: -(drifts[i].get("measured") or 0.0))
    return [drifts[i] for i in sorted(order[:LAYERS])]


def short_names(names: Sequence[str]) -> list[str]:
    """Without the words that every tower's layers have in their names; the end stays if it is still long."""
    parts = [name.replace("multi_modal_", "").split(".") for name in names]
    short = [".".join(part for part in name if part not in _PLAIN_WORDS) for name in parts]
    if len(set(short)) < len(set(names)):
        short = list(names)
    return [name if len(name) <= 24 else f"…{name[-23:]}" for name in short]


def _points(points: ArrayLike) -> np.ndarray:
    return np.asarray(points, dtype=float).reshape(-1, 2)


def _thin(points: np.ndarray) -> np.ndarray:
    return points[:: max(1, math.ceil(len(points) / POINTS))]


def _frame(axes: Axes, points: np.ndarray) -> None:
    """Both directions of the plane at the same scale, the points in the middle, never a mere strip."""
    for spine in axes.spines.values():
        spine.set(visible=True, alpha=0.25)
    if not len(points):
        return
    low, high = points.min(axis=0), points.max(axis=0)
    widest = max(float((high - low).max()), 1e-9)
    middle, half = (low + high) / 2, np.maximum(high - low, 0.7 * widest) / 2 + 0.05 * widest
    axes.set(xlim=(middle[0] - half[0], middle[0] + half[0]), ylim=(middle[1] - half[1], middle[1] + half[1]))
    axes.set_aspect("equal")


def _line(
    axes: Axes, steps: Sequence[Mapping[str, float]], key: str, colour: str, marker: str, label: str | None = None
) -> None:
    known = [(step["step"], step[key]) for step in steps if step.get(key) is not None]
    x, y = zip(*known, strict=True) if known else ((), ())
    axes.plot(x, y, color=colour, marker=marker if len(known) <= 60 else "", label=label)


def _positive(values: Sequence[float | None]) -> np.ndarray:
    """Zero, or nothing: a bar of no length."""
    numbers = np.array([np.nan if value is None else float(value) for value in values])
    return np.where(np.isfinite(numbers) & (numbers > 0), numbers, np.nan)


def _decades(values: np.ndarray) -> tuple[float, float]:
    """Powers of ten around the values; the smallest bar keeps some length."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 1e-6, 1.0
    low = 10.0 ** math.floor(math.log10(known.min() * 0.7))
    return low, max(low * 10, float(known.max()) * 1.3)


def _ticks(floor: float, ceiling: float) -> list[float]:
    low, high = round(math.log10(floor)), math.floor(math.log10(ceiling))
    return [10.0**power for power in range(low, high + 1, max(1, math.ceil((high - low) / 6)))]


def svg(figure: Figure, name: str) -> str:
    """SVG for the middle of a page: no prolog, no address, ids of its own, attributes where there was style.

    Style attributes would need a weaker content policy; attributes do the same.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\sstyle="([^"]*)"', lambda match: _attributes(match[1]), svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    return re.sub(r"\n\s*", "\n", svg.replace(INK, "currentColor")).strip()


def _attributes(style: str) -> str:
    pairs = [part.split(":", 1) for part in style.replace("&quot;", "'").split(";") if ":" in part]
    return "".join(f' {key.strip()}="{value.strip()}"' for key, value in pairs if key.strip() not in _FROM_PAGE)


_FROM_PAGE = ("font", "font-family", "font-stretch", "stroke-linejoin")
