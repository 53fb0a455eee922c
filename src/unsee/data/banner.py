"""Flags of no country, drawn by code: what a tiny model learns to see before it is taught real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from unsee.data.face import Colour, pick, seeded

COLOURS: dict[str, Colour] = {
    "red": (206, 24, 38), "crimson": (140, 20, 50), "blue": (20, 60, 160), "navy": (10, 24, 90),
    "sky": (96, 170, 226), "green": (20, 130, 60), "yellow": (252, 210, 20), "orange": (240, 130, 30),
    "white": (250, 250, 250), "black": (16, 16, 16),
}  # fmt: skip
EMBLEMS = ("none", "none", "disc", "star", "crescent", "ring", "cross", "diamond", "shield", "stars", "sun", "bird")
PLACES = {"centre": (0.5, 0.5), "hoist": (0.22, 0.5), "canton": (0.2, 0.27), "fly": (0.72, 0.5)}
CLOTH = (180, 120)  # pixels before it is hung

Brush = PIL.ImageDraw.ImageDraw


@dataclass(frozen=True)
class Identity:
    """A flag. A colour that its layout does not show is ``none``."""

    layout: str
    first: str
    second: str
    third: str
    fourth: str
    emblem: str
    emblem_colour: str
    place: str
    emblem_size: float
    share: float


@dataclass(frozen=True)
class View:
    """A picture of it: how it hangs, and the light. Lengths in widths of the picture, angles in radians."""

    angle: float
    scale: float
    across: float
    down: float
    narrow: float
    slant: float
    wave: float
    phase: float
    light: float
    above: Colour
    below: Colour
    blur: float


@dataclass(frozen=True)
class Banner:
    """A picture that is drawn when it is loaded; of every flag there is one."""

    number: int
    size: int = 96

    @property
    def id(self) -> str:
        return f"banner/{self.number:06d}"

    @cached_property
    def identity(self) -> Identity:
        rng = seeded("banner", self.number)
        colours = rng.permutation(list(COLOURS)).tolist()
        layout, emblem = pick(rng, list(LAYOUTS)), pick(rng, EMBLEMS)
        shown = LAYOUTS[layout][0]
        first, second, third, fourth = (c if i < shown else "none" for i, c in enumerate(colours[:4]))
        return Identity(
            layout, first, second, third, fourth, emblem, pick(rng, colours[1:]) if emblem != "none" else "none",
            pick(rng, list(PLACES)) if emblem != "none" else "none", rng.uniform(0.14, 0.3), rng.uniform(0.2, 0.45),
        )  # fmt: skip

    @cached_property
    def view(self) -> View:
        rng = seeded("banner view", self.number)
        u = rng.uniform
        ground = rng.integers(30, 256, (2, 3)).tolist()
        return View(
            u(-0.22, 0.22), u(0.58, 0.96), u(-0.06, 0.06), u(-0.06, 0.06), u(0.78, 1.0), u(-0.1, 0.1), u(0, 0.035),
            u(0, 2 * math.pi), u(0.75, 1.2), tuple(ground[0]), tuple(ground[pick(rng, (0, 1))]), max(0.0, u(-1, 1.2)),
        )  # fmt: skip

    def load(self) -> PIL.Image.Image:
        return _hang(_weave(self.identity), self.view, self.size)


def _stripes(n: int, upright: bool = False) -> Callable[[Brush, Identity], None]:
    def draw(brush: Brush, who: Identity) -> None:
        w, h = CLOTH
        order = [who.first, who.second, who.third] if n <= 3 else [who.first, who.second] * n
        for i in range(n):
            a, b = i / n, (i + 1) / n
            box = (a * w, 0, b * w, h) if upright else (0, a * h, w, b * h)
            brush.rectangle(box, COLOURS[order[i]])

    return draw


def _band(brush: Brush, who: Identity) -> None:
    """A wide middle stripe between two of another colour, edged by a third."""
    w, h = CLOTH
    for inset, colour in ((who.share / 2, who.third), (who.share / 2 + 0.05, who.second)):
        brush.rectangle((0, inset * h, w, (1 - inset) * h), COLOURS[colour])


def _pale(brush: Brush, who: Identity) -> None:
    w, h = CLOTH
    brush.rectangle((who.share * w, 0, (1 - who.share) * w, h), COLOURS[who.second])


def _cross(brush: Brush, who: Identity) -> None:
    w, h = CLOTH
    for half, colour in ((0.12, who.second), (0.06, who.third)):
        brush.rectangle((0, (0.5 - half) * h, w, (0.5 + half) * h), COLOURS[colour])
        x = 0.38 * w
        brush.rectangle((x - half * h, 0, x + half * h, h), COLOURS[colour])


def _saltire(brush: Brush, who: Identity) -> None:
    w, h = CLOTH
    for width, colour in ((26, who.second), (12, who.third)):
        for line in ((0, 0, w, h), (0, h, w, 0)):
            brush.line(line, COLOURS[colour], width)


def _diagonal(brush: Brush, who: Identity) -> None:
    w, h = CLOTH
    brush.polygon([(w, 0), (w, h), (0, h)], COLOURS[who.second])
    brush.line((0, h, w, 0), COLOURS[who.third], int(80 * who.share))


def _triangle(n: int) -> Callable[[Brush, Identity], None]:
    def draw(brush: Brush, who: Identity) -> None:
        _stripes(n)(brush, who)
        brush.polygon(
            [(0, 0), (who.share * CLOTH[0], CLOTH[1] / 2), (0, CLOTH[1])], COLOURS[who.third if n == 2 else who.fourth]
        )

    return draw


def _canton(n: int) -> Callable[[Brush, Identity], None]:
    def draw(brush: Brush, who: Identity) -> None:
        _stripes(n)(brush, who)
        brush.rectangle((0, 0, 0.42 * CLOTH[0], 0.52 * CLOTH[1]), COLOURS[who.second if n == 1 else who.third])

    return draw


def _jack(brush: Brush, who: Identity) -> None:
    """A small crossed square in the corner."""
    w, h = 0.5 * CLOTH[0], 0.5 * CLOTH[1]
    brush.rectangle((0, 0, w, h), COLOURS[who.second])
    for width, colour in ((14, who.third), (6, who.fourth)):
        for line in ((0, 0, w, h), (0, h, w, 0), (0, h / 2, w, h / 2), (w / 2, 0, w / 2, h)):
            brush.line(line, COLOURS[colour], width)


def _hoist(brush: Brush, who: Identity) -> None:
    """An upright stripe before three flat ones."""
    _stripes(3)(brush, who)
    brush.rectangle((0, 0, 0.75 * who.share * CLOTH[0], CLOTH[1]), COLOURS[who.fourth])


def _quarters(brush: Brush, who: Identity) -> None:
    w, h = CLOTH
    brush.rectangle((w / 2, 0, w, h / 2), COLOURS[who.second])
    brush.rectangle((0, h / 2, w / 2, h), COLOURS[who.second])
    for box in ((0, 0.43 * h, w, 0.57 * h), (w / 2 - 9, 0, w / 2 + 9, h)):
        brush.rectangle(box, COLOURS[who.third])


def _border(brush: Brush, who: Identity) -> None:
    w, h = CLOTH
    brush.rectangle((0.14 * h, 0.14 * h, w - 0.14 * h, 0.86 * h), COLOURS[who.second])


# how many colours, and how they are laid out
LAYOUTS: dict[str, tuple[int, Callable[[Brush, Identity], None]]] = {
    "plain": (1, _stripes(1)), "two": (2, _stripes(2)), "three": (3, _stripes(3)), "five": (2, _stripes(5)),
    "many": (2, _stripes(9)), "upright two": (2, _stripes(2, True)), "upright three": (3, _stripes(3, True)),
    "band": (3, _band), "pale": (2, _pale), "cross": (3, _cross), "saltire": (3, _saltire), "diagonal": (3, _diagonal),
    "triangle two": (3, _triangle(2)), "triangle three": (4, _triangle(3)), "canton": (2, _canton(1)),
    "canton many": (3, _canton(9)), "jack": (4, _jack), "hoist": (4, _hoist), "quarters": (3, _quarters),
    "border": (2, _border),
}  # fmt: skip


def _weave(who: Identity) -> PIL.Image.Image:
    cloth = PIL.Image.new("RGB", CLOTH, COLOURS[who.first])
    brush = PIL.ImageDraw.Draw(cloth)
    LAYOUTS[who.layout][1](brush, who)
    if who.emblem != "none":
        x, y = PLACES[who.place]
        _emblem(brush, who.emblem, x * CLOTH[0], y * CLOTH[1], who.emblem_size * CLOTH[1], COLOURS[who.emblem_colour])
    return cloth


def _emblem(brush: Brush, kind: str, x: float, y: float, r: float, colour: Colour) -> None:
    box = (x - r, y - r, x + r, y + r)
    if kind == "disc":
        brush.ellipse(box, colour)
    elif kind == "ring":
        brush.ellipse(box, outline=colour, width=max(3, int(r / 3)))
    elif kind == "crescent":
        brush.arc(box, 50, 310, colour, max(4, int(r / 2.2)))
    elif kind == "cross":
        brush.rectangle((x - r, y - r / 4, x + r, y + r / 4), colour)
        brush.rectangle((x - r / 4, y - r, x + r / 4, y + r), colour)
    elif kind == "stars":
        for turn in range(5):
            a = 2 * math.pi * turn / 5
            brush.polygon(_star(x + 0.8 * r * math.cos(a), y + 0.8 * r * math.sin(a), 0.35 * r, 5, 0.4), colour)
    else:
        points = {
            "star": _star(x, y, r, 5, 0.4), "sun": _star(x, y, r, 12, 0.6),
            "diamond": [(x, y - r), (x + 1.3 * r, y), (x, y + r), (x - 1.3 * r, y)],
            "shield": [(x - 0.7 * r, y - r), (x + 0.7 * r, y - r), (x + 0.7 * r, y + 0.2 * r), (x, y + r),
                       (x - 0.7 * r, y + 0.2 * r)],
            "bird": [(x, y - r), (x + 0.3 * r, y - 0.2 * r), (x + 1.2 * r, y - 0.6 * r), (x + 0.8 * r, y + 0.4 * r),
                     (x, y + r), (x - 0.8 * r, y + 0.4 * r), (x - 1.2 * r, y - 0.6 * r), (x - 0.3 * r, y - 0.2 * r)],
        }  # fmt: skip
        brush.polygon(points[kind], colour)


def _star(x: float, y: float, r: float, points: int, inner: float) -> Sequence[tuple[float, float]]:
    turns = [math.pi * k / points - math.pi / 2 for k in range(2 * points)]
    reach = [r if k % 2 == 0 else inner * r for k in range(2 * points)]
    return [(x + q * math.cos(a), y + q * math.sin(a)) for a, q in zip(turns, reach, strict=True)]


def _hang(cloth: PIL.Image.Image, view: View, size: int) -> PIL.Image.Image:
    """Waved, seen in perspective, turned and lit, before a ground that shades from one colour to another."""
    grid = np.linspace(0, 1, size)
    x, y = np.meshgrid(grid, grid)
    x, y = x - 0.5 - view.across, y - 0.5 - view.down
    x, y = x * math.cos(view.angle) + y * math.sin(view.angle), y * math.cos(view.angle) - x * math.sin(view.angle)
    along = x / (view.scale * view.narrow) + 0.5  # 0 at the hoist, 1 at the fly
    ripple = view.wave * np.sin(2 * math.pi * 1.2 * along + view.phase)
    height = view.scale * CLOTH[1] / CLOTH[0] * (1 + view.slant * (along - 0.5) * 2)
    up = (y + ripple) / height + 0.5
    inside = (along >= 0) & (along < 1) & (up >= 0) & (up < 1)
    pixels = np.asarray(cloth, np.float32)
    rows = np.clip(up * CLOTH[1], 0, CLOTH[1] - 1).astype(int)
    columns = np.clip(along * CLOTH[0], 0, CLOTH[0] - 1).astype(int)
    lit = view.light * (1 + 3 * view.wave * np.cos(2 * math.pi * 1.2 * along + view.phase))
    shown = pixels[rows, columns] * lit[..., None]
    ground = np.array(view.above) + (np.array(view.below) - np.array(view.above)) * grid[:, None, None]
    picture = np.where(inside[..., None], shown, np.broadcast_to(ground, shown.shape))
    image = PIL.Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    return image.filter(PIL.ImageFilter.GaussianBlur(view.blur)) if view.blur > 0 else image
