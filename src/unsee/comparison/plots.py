"""The comparison's plots: what is forgotten against what is kept, and the scores of a method's trials."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from unsee.comparison.outcome import OURS, REFERENCES, Trial
from unsee.report.plots import BLUE, GREY, INK, RED, STYLE, WIDTH, svg

Point = tuple[float, float]
FONT = 8.5
BLACK = "#1c1e21"  # of letters and axes where no page gives its own
ALONE: dict[Any, Any] = {  # "sans-serif" stands after it in the file
    "font.sans-serif": ["DejaVu Sans"],
    "figure.constrained_layout.w_pad": 0.13, "figure.constrained_layout.h_pad": 0.13,
}  # fmt: skip
TURNS, STEPS = 16, (8, 13, 19, 26, 34, 43, 54, 67, 82)  # directions, and points away, in which a label is tried


def pareto(points: Mapping[str, Point], name: str = "pareto") -> str:
    """Method → (forgetting, kept), each 0 to 1."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, WIDTH * 1.05), layout="constrained")
        _panel(figure.add_subplot(), points)
        _label(figure, [points])
        return svg(figure, name)


def paretos(points: Mapping[str, Mapping[str, Point]]) -> str:
    """A panel a study, as an SVG file that needs no page around it: black on white."""
    columns = min(2, len(points))
    rows = math.ceil(len(points) / columns)
    with matplotlib.rc_context(STYLE | ALONE):
        figure = Figure(figsize=(WIDTH * columns, WIDTH * rows), layout="constrained", facecolor="white")
        panels = [figure.add_subplot(rows, columns, i + 1, title=title) for i, title in enumerate(points)]
        for axes, of in zip(panels, points.values(), strict=True):
            _panel(axes, of)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3, handletextpad=0.2)
        _label(figure, list(points.values()))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue().replace(INK, BLACK)


def _panel(axes: Axes, points: Mapping[str, Point]) -> None:
    """The front is of the methods; references are not on it."""
    axes.set(xlabel="forgotten, of what was known →", ylabel="kept, of what was known →")
    axes.grid()
    _limits(axes, list(points.values()))
    best = front({m: p for m, p in points.items() if m not in REFERENCES})
    axes.step(*_corners(best, axes), where="post", color=INK, alpha=0.35, linewidth=1.2, zorder=1)
    for method, (x, y) in points.items():
        colour, marker = look(method)
        face = "none" if method in REFERENCES else colour
        axes.scatter(x, y, s=36, marker=marker, facecolor=face, edgecolor=colour, linewidths=1.3, zorder=3)


def _legend() -> list[Line2D]:
    shown = {"ours": OURS, "published": "", "references": REFERENCES[0]}
    looks = {title: look(method) for title, method in shown.items()}
    return [
        Line2D([], [], linestyle="", marker=marker, markersize=6, color=colour, label=title,
               markerfacecolor="none" if title == "references" else colour)
        for title, (colour, marker) in looks.items()
    ]  # fmt: skip


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


def _label(figure: Figure, panels: Sequence[Mapping[str, Point]]) -> None:
    """In every panel, once its place is known."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    for axes, points in zip(figure.axes, panels, strict=True):
        _label_panel(figure, axes, points)


def _label_panel(figure: Figure, axes: Axes, points: Mapping[str, Point]) -> None:
    """Each name at the nearest place that is free of marks and names, and a line to its mark if it is not beside it."""
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
