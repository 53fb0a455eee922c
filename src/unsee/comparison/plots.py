"""The comparison's plots: what is forgotten against what is kept, and the scores of a method's trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from unsee.comparison.outcome import OURS, REFERENCES, Trial
from unsee.report.plots import BLUE, GREY, INK, RED, STYLE, WIDTH, svg

Point = tuple[float, float]
FONT = 8.5
TURNS, STEPS = 16, (8, 13, 19, 26, 34, 43, 54, 67, 82)  # directions, and points away, in which a label is tried


def pareto(points: Mapping[str, Point], name: str = "pareto") -> str:
    """Method → (forgetting, kept), each 0 to 1. The front is of the methods; references and failures are not on it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, WIDTH * 1.05), layout="constrained")
        axes = figure.add_subplot(xlabel="forgotten, of what was known →", ylabel="kept, of what was known →")
        axes.grid()
        _limits(axes, list(points.values()))
        best = front({m: p for m, p in points.items() if m not in REFERENCES})
        axes.step(*_corners(best, axes), where="post", color=INK, alpha=0.35, linewidth=1.2, zorder=1)
        for method, (x, y) in points.items():
            colour, marker = look(method)
            hollow = method in REFERENCES
            face = "none" if hollow else colour
            axes.scatter(x, y, s=36, marker=marker, facecolor=face, edgecolor=colour, linewidths=1.3, zorder=3)
        _label(figure, axes, points)
        return svg(figure, name)


def look(method: str) -> tuple[str, str]:
    """Colour and marker: ours, the references, and all others."""
    if method in REFERENCES:
        return INK, "D"
    return (RED, "s") if method.startswith(OURS) else (BLUE, "o")


def front(points: Mapping[str, Point]) -> list[Point]:
    """Those that no other beats in one and equals in the other, from least forgetting to most."""
    given = set(points.values())
    beaten = {a for a, b in product(given, given) if a != b and b[0] >= a[0] and b[1] >= a[1]}
    return sorted(given - beaten)


def trials(tried: Sequence[Trial], chosen: int | None, name: str) -> str:
    """Score of every trial; the one that was chosen is filled. A failed trial is a cross at the foot."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.75, 1.5), layout="constrained")
        axes = figure.add_subplot(xlabel="trial", ylabel="score", ylim=(-0.06, 1.06), yticks=[0, 0.5, 1])
        axes.grid(axis="y")
        done = [(t.number, t.score, t.number == chosen) for t in tried if t.score is not None]
        for number, score, best in done:
            axes.plot([number, number], [0, score], color=GREY, alpha=0.5, linewidth=1)
            face = BLUE if best else "none"
            axes.plot(number, score, "o", markersize=6, markerfacecolor=face, markeredgecolor=BLUE, markeredgewidth=1.3)
        for trial in tried:
            if trial.score is None:
                axes.plot(trial.number, 0, "x", markersize=6, color=RED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(min(t.number for t in tried) - 0.6, max(t.number for t in tried) + 0.6)
        return svg(figure, name)


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """Around the points, with room for labels; shares have no business below 0 or above 1."""
    x, y = (_room(values) for values in zip(*points, strict=True))
    axes.set(xlim=x, ylim=y)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_ticks([t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= min(high, 1.0001) and t >= 0])


def _room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(high - low, 0.1) * 0.13
    return low - room, high + room


def _corners(best: Sequence[Point], axes: Axes) -> tuple[list[float], list[float]]:
    """The front as steps, from the left edge to the foot."""
    if not best:
        return [], []
    x, y = zip(*best, strict=True)
    return [axes.get_xlim()[0], *x], [y[0], *y[1:], axes.get_ylim()[0]]


def _label(figure: Figure, axes: Axes, points: Mapping[str, Point]) -> None:
    """Each name at the nearest place that is free of marks and names, and a line to its mark if it is not beside it."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    scale, frame = figure.dpi / 72, axes.get_window_extent()
    marks = {method: axes.transData.transform(point) for method, point in points.items()}
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in marks.values()]
    for method in sorted(points, key=lambda m: (not m.startswith(OURS), m)):
        size = _size(figure, method)
        box, away = _place(marks[method], size, taken, frame, scale)
        taken.append(box)
        x, y = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
        line: Any = {"arrowstyle": "-", "color": INK, "alpha": 0.35, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            method, points[method], (x, y), ha="center", va="center", fontsize=FONT, zorder=4,
            color=RED if method.startswith(OURS) else INK, arrowprops=line if away > STEPS[0] else None,
        )  # fmt: skip


def _size(figure: Figure, text: str) -> tuple[float, float]:
    """Width and height of a label, in pixels."""
    drawn = figure.text(0, 0, text, fontsize=FONT)
    box = drawn.get_window_extent()
    drawn.remove()
    return box.width * 1.04, box.height


def _place(
    mark: np.ndarray, size: tuple[float, float], taken: Sequence[Bbox], frame: Bbox, scale: float
) -> tuple[Bbox, float]:
    """The first free box around a mark, and how far from it, in points; the last one tried where none is free."""
    width, height = size
    for away in STEPS:
        for turn in range(TURNS):
            angle = 2 * math.pi * turn / TURNS
            x = mark[0] + math.cos(angle) * (away * scale + width / 2)
            y = mark[1] + math.sin(angle) * (away * scale + height / 2)
            box = Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return box, away
    return box, away
