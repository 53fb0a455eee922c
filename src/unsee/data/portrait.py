"""Fictional people, drawn by code."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from unsee.data.face import BACKGROUND, CLOTHES, HAIR, IRISES, SHAPES, Colour, Identity, View

Points = np.ndarray
OVERSAMPLING = 3


def draw(identity: Identity, view: View, size: int = 96) -> PIL.Image.Image:
    brush = _Brush(identity, view, size * OVERSAMPLING)
    _background(brush)
    _hair_behind(brush)
    _body(brush)
    _head(brush)
    _beard(brush)
    _mouth(brush)
    _nose(brush)
    for side in (-1, 1):
        _eye(brush, side)
        _brow(brush, side)
    _hair_in_front(brush)
    if view.glasses != "none":
        _glasses(brush)
    return _develop(brush.image, view, size)


_T = np.linspace(0, 2 * math.pi, 22, endpoint=False)
_CIRCLE = np.stack([np.cos(_T), np.sin(_T)], axis=1)
_U = np.linspace(-1, 1, 11)
_BOW = 1 - _U**2
_WIDE = np.sin(np.linspace(-math.pi / 2, math.pi / 2, 29))
_Y = np.sin(np.linspace(-math.pi / 2, math.pi / 2, 27))  # from crown to chin, denser at both ends


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    a, b, c = (round(x + (y - x) * share) for x, y in zip(colour, other, strict=True))
    return a, b, c


def _shade(colour: Colour, factor: float) -> Colour:
    a, b, c = (min(255, round(x * factor)) for x in colour)
    return a, b, c


def _oval(x: float, y: float, rx: float, ry: float) -> Points:
    return _CIRCLE * (rx, ry) + (x, y)


def _curve(x: Points, y: Points) -> Points:
    return np.stack([x, y], axis=1)


def _band(x: Points, top: Points, bottom: Points) -> Points:
    return np.concatenate([_curve(x, top), _curve(x, bottom)[::-1]])


class _Brush:
    """Draws in three frames: the picture, the head (rolled), the face (rolled, and turned by the yaw)."""

    def __init__(self, identity: Identity, view: View, side: int) -> None:
        self.who, self.view, self.side = identity, view, side
        self.image = PIL.Image.new("RGB", (side, side), _shade(BACKGROUND[view.background], view.background_shade))
        self.pen = PIL.ImageDraw.Draw(self.image, "RGBA")
        half = side / 2 * view.scale
        cos, sin = math.cos(view.roll) * half, math.sin(view.roll) * half
        self.rolled = np.array([[cos, sin], [-sin, cos]])
        self.upright = np.array([[half, 0.0], [0.0, half]])
        self.origin = np.array([1.0 + view.shift[0], 0.86 + view.shift[1]]) * side / 2
        self.cos, self.sin = math.cos(view.yaw), math.sin(view.yaw)
        self.hair = _shade(HAIR[view.hair], view.hair_shade)
        self.outline = self._outline()

    def _outline(self) -> Points:
        top, jaw, taper = SHAPES[self.who.shape]
        power = np.where(_Y < 0, top, jaw)
        half = (1 - np.abs(_Y) ** power).clip(0) ** (1 / power) * (1 - taper * _Y.clip(0) ** 1.2)
        x, y = half * self.who.width, _Y * self.who.height
        return np.concatenate([_curve(x, y), _curve(-x, y)[::-1]])

    def turned(self, points: Points) -> Points:
        """Where points of the face come to lie when the head, a barrel, turns."""
        x, y = points.T
        radius = self.who.width * (0.8 - 0.4 * (y / self.who.height).clip(0, 1))  # narrower towards the chin
        depth = np.sqrt((1 - (x / self.who.width) ** 2).clip(0)) * radius
        return _curve(x * self.cos + depth * self.sin, y)

    def face(self, points: Points, fill: Colour, alpha: int = 255) -> None:
        self.head(self.turned(points), fill, alpha)

    def head(self, points: Points, fill: Colour, alpha: int = 255) -> None:
        self.pen.polygon((points @ self.rolled + self.origin).ravel().tolist(), fill=(*fill, alpha))

    def body(self, points: Points, fill: Colour, alpha: int = 255) -> None:
        self.pen.polygon((points @ self.upright + self.origin).ravel().tolist(), fill=(*fill, alpha))

    def stroke(self, points: Points, fill: Colour, width: float) -> None:
        path = (self.turned(points) @ self.rolled + self.origin).ravel().tolist()
        self.pen.line(path, fill=fill, width=max(1, round(width * self.side / 2)), joint="curve")


def _background(brush: _Brush) -> None:
    colour, side = _shade(BACKGROUND[brush.view.background], brush.view.background_shade), brush.side
    lighter, step = _mix(colour, (255, 255, 255), 0.2) if sum(colour) < 690 else _shade(colour, 0.94), side // 6
    if brush.view.pattern == "stripes":
        for x in range(-side, side, 2 * step):
            brush.pen.polygon([x, side, x + step, side, x + side + step, 0, x + side, 0], fill=lighter)
    elif brush.view.pattern == "dots":
        for i in range(36):
            x, y = (i % 6) * step + step // 2 * (i // 6 % 2), (i // 6) * step
            brush.pen.ellipse([x, y, x + step // 2, y + step // 2], fill=lighter)
    elif brush.view.pattern == "halo":
        brush.pen.ellipse([side * 0.06, side * -0.02, side * 0.94, side * 0.86], fill=lighter)


def _body(brush: _Brush) -> None:
    who, colour = brush.who, _shade(CLOTHES[brush.view.clothes], brush.view.clothes_shade)
    dark, top = _mix(colour, (30, 24, 60), 0.22), who.height + 0.08
    neck = who.width * 0.52
    far = ((np.abs(_WIDE) * 1.1 - neck) / (1.1 - neck)).clip(0)
    x, y = _WIDE * 1.1, top + 0.14 * far + 0.3 * (1 - np.sqrt(1 - far**4))
    x, y = np.array([-1.1, *x, 1.1]), np.array([1.7, *y, 1.7])
    brush.body(_curve(x * 1.03, y - 0.025), dark)
    brush.body(_curve(x, y), colour)
    for edge in (-0.66, 0.66):
        brush.body(np.array([[edge, top + 0.32], [edge * 1.04, 1.6], [edge * 0.96, 1.6]]), dark)
    _neckline(brush, neck, top, dark)


def _neckline(brush: _Brush, neck: float, top: float, dark: Colour) -> None:
    skin, cut = _shade(brush.who.skin, 0.86), brush.view.cut
    colour = _shade(CLOTHES[brush.view.clothes], brush.view.clothes_shade)
    if cut == "vee":
        brush.body(np.array([[-neck * 1.2, top - 0.02], [0, top + 0.36], [neck * 1.2, top - 0.02]]), dark)
        brush.body(np.array([[-neck, top - 0.02], [0, top + 0.29], [neck, top - 0.02]]), skin)
    else:
        brush.body(_oval(0, top, neck * 1.2, 0.14), dark)
        brush.body(_oval(0, top - 0.02, neck, 0.1), skin)
    brush.body(np.array([[-neck, 0.2], [-neck, top], [neck, top], [neck, 0.2]]), skin)
    brush.body(_oval(0, brush.who.height - 0.1, neck * 1.05, 0.17), _shade(brush.who.skin, 0.7), 150)
    if cut == "roll":
        brush.body(np.array([[-neck * 1.15, top - 0.09], [neck * 1.15, top - 0.09], [neck * 1.2, top + 0.09],
                             [-neck * 1.2, top + 0.09]]), _mix(colour, dark, 0.45))  # fmt: skip
    if cut == "collar":
        for s in (-1, 1):
            flap = [[s * neck, top - 0.06], [0, top + 0.12], [s * 0.2, top + 0.28], [s * neck * 1.5, top + 0.08]]
            brush.body(np.array(flap), _mix(colour, (255, 255, 255), 0.3) if sum(colour) < 690 else dark)


def _head(brush: _Brush) -> None:
    who, skin = brush.who, brush.who.skin
    for side in (-1, 1):
        x = side * who.width * 0.97 - brush.sin * 0.1
        brush.head(_oval(x, 0.02, who.ear * 0.75, who.ear), _shade(skin, 0.88))
        brush.head(_oval(x, 0.02, who.ear * 0.4, who.ear * 0.6), _mix(skin, (180, 60, 50), 0.35))
    brush.head(brush.outline, _mix(skin, (110, 40, 70), 0.24))
    lit = math.copysign(0.05, brush.view.light[0])
    brush.head(brush.outline * (0.92, 0.96) + (lit * who.width * 1.4, -0.012), skin)
    brush.head(_oval(lit * 2, -who.height * 0.5, who.width * 0.55, who.height * 0.3), (255, 255, 255), 22)
    _marks(brush)


def _marks(brush: _Brush) -> None:
    who, ink = brush.who, _mix(brush.who.skin, (80, 20, 16), 0.55)
    if who.cheeks > 0:
        for side in (-1, 1):
            oval = _oval(side * who.width * 0.58, who.height * 0.3, 0.1, 0.075)
            brush.face(oval, (240, 70, 90), round(110 + 150 * who.cheeks))
    if who.freckles:
        for i in range(10):
            x, y = (0.2 + 0.13 * (i // 2)) * (1 if i % 2 else -1), 0.13 + 0.1 * (i // 2 % 2) + 0.04 * (i % 3)
            brush.face(_oval(x * who.width, y * who.height, 0.02, 0.02), ink)
    if who.mole is not None:
        brush.face(_oval(who.mole[0] * who.width, who.mole[1] * who.height, 0.034, 0.034), (40, 18, 18))


def _beard(brush: _Brush) -> None:
    who, y = brush.who, brush.who.mouth_height * brush.who.height
    if who.beard == "full":
        lower = brush.outline[brush.outline[:, 1] > 0.16 * who.height] * (1.02, 1.05)
        x = np.linspace(lower[-1, 0], lower[0, 0], 13)
        sag = 0.5 - 0.5 * np.cos(np.linspace(0, 2 * math.pi, 13))
        rim = _curve(x + sag * brush.sin * 0.3, lower[0, 1] + sag * (y - 0.1 - lower[0, 1]))
        brush.head(np.concatenate([lower, rim]), who.brow)
    if who.beard == "goatee":
        brush.face(_oval(0, who.height * 0.88, who.width * 0.34, who.height * 0.26), who.brow)
    if who.beard in ("moustache", "full"):
        droop = 0.05 * np.abs(_U) ** 1.5
        brush.face(_band(_U * (who.mouth_width + 0.05), y - 0.1 + droop, y - 0.02 + droop), who.brow)


def _mouth(brush: _Brush) -> None:
    who = brush.who
    stretch, lift, gap = {"smiling": (1.2, 0.1, 0.075), "serious": (0.95, -0.022, 0.0), "surprised": (0.6, 0.0, 0.2)}[
        brush.view.expression
    ]
    x = _U * who.mouth_width * stretch
    middle = who.mouth_height * who.height + 0.03 + lift * (0.5 - _U**2) - gap * 0.3
    round_bow = np.sqrt(_BOW) if gap > 0.1 else _BOW
    upper = middle - who.lip * np.sqrt(_BOW) * (1 - 0.45 * np.exp(-((_U / 0.25) ** 2))) - (gap > 0.1) * 0.3 * gap * _BOW
    brush.face(_band(x, upper - 0.008, middle + (gap + who.lip * 1.3) * round_bow + 0.01), who.lip_colour)
    if gap:
        inner = _band(x * 0.88, middle - (gap > 0.1) * 0.3 * gap * _BOW, middle + gap * round_bow)
        brush.face(inner, (255, 255, 255) if gap < 0.1 else (70, 14, 26))
    else:
        brush.stroke(_curve(x, middle), _shade(who.lip_colour, 0.45), 0.026)


def _nose(brush: _Brush) -> None:
    who, y = brush.who, brush.who.height * brush.who.eye_height + 0.09
    dark, light = _mix(who.skin, (110, 30, 40), 0.42), _mix(who.skin, (255, 255, 255), 0.3)
    end, w, lean = y + who.nose_length, who.nose_width, brush.sin * 0.12
    if who.nose == "button":
        brush.face(_oval(lean, end - 0.03, w, w * 0.8), dark)
        brush.face(_oval(lean * 1.2, end - 0.045, w * 0.8, w * 0.6), _mix(who.skin, (230, 90, 80), 0.3))
    elif who.nose == "wide":
        brush.face(_oval(lean, end, w * 1.6, 0.045), dark)
        brush.face(_oval(lean, end - 0.03, w * 1.1, 0.06), _shade(who.skin, 0.95))
    elif who.nose == "pointed":
        brush.face(np.array([[lean * 0.3, y - 0.02], [lean + w * 1.3, end], [lean - w * 0.9, end + 0.02]]), dark)
        brush.face(np.array([[lean * 0.3, y], [lean + w * 0.5, end - 0.02], [lean - w * 0.9, end + 0.02]]), who.skin)
    else:
        path = [
            [lean * 0.2 + w * 0.5, y],
            [lean + w * 0.8, end - 0.02],
            [lean, end + 0.01],
            [lean - w * 0.7, end - 0.01],
        ]
        brush.stroke(np.array(path), dark, 0.034)
    brush.face(_oval(lean * 1.3, end - 0.06, 0.018, 0.022), light)


def _eye_frame(brush: _Brush, side: int) -> tuple[float, float, float, float]:
    """Middle, half width and openness of an eye."""
    who = brush.who
    wide = {"smiling": 0.86, "serious": 0.9, "surprised": 1.25}[brush.view.expression]
    return side * who.eye_gap * who.width, who.eye_height * who.height, who.eye_size, who.eye_size * who.eye_open * wide


def _eye(brush: _Brush, side: int) -> None:
    who = brush.who
    x, y, half, opening = _eye_frame(brush, side)
    slant = -who.eye_tilt * side
    top, bottom = -opening * np.sqrt(_BOW) * 1.05, opening * _BOW * 0.85
    across = _U * half
    brush.face(_band(across + x, y + top * 1.25 - 0.012 + slant * across, y + bottom * 0.4 + slant * across),
               _mix(who.skin, (60, 20, 50), 0.38))  # fmt: skip
    brush.face(_band(across + x, y + top + slant * across, y + bottom + slant * across), (252, 252, 250))
    disc = _CIRCLE * (half * 0.62)
    for radius, colour in ((1.0, _shade(IRISES[who.iris], 0.7)), (0.84, IRISES[who.iris]), (0.4, (14, 10, 14))):
        px = disc[:, 0] * radius
        limit = 1 - (px / half) ** 2
        py = np.clip(disc[:, 1] * radius, -opening * np.sqrt(limit) * 1.05, opening * limit * 0.85)
        brush.face(_curve(px + x, py + y + slant * px), colour)
    brush.face(_oval(x - half * 0.22, y - opening * 0.35, half * 0.2, half * 0.2), (255, 255, 255))
    lid = _curve(across + x, y + top + slant * across)
    brush.stroke(lid, (28, 18, 22), 0.034 if who.lashes else 0.022)
    if who.lashes:
        outer = x + side * half
        edge = y + slant * side * half
        brush.stroke(np.array([[outer - side * 0.02, edge], [outer + side * 0.05, edge - 0.06]]), (28, 18, 22), 0.034)


def _brow(brush: _Brush, side: int) -> None:
    who = brush.who
    x, y, half, _ = _eye_frame(brush, side)
    raise_by = {"smiling": 0.015, "serious": -0.01, "surprised": 0.065}[brush.view.expression]
    y -= who.eye_size * who.eye_open * 1.1 + who.brow_lift + raise_by + 0.02
    along = _U * half * 1.2
    middle = y - who.brow_tilt * side * along * 0.6 - who.brow_arch * _BOW
    thick = who.brow_thickness * (0.55 + 0.45 * (1 - (_U * side + 1) / 2))
    brush.face(_band(along + x, middle - thick * 0.6, middle + thick * 0.5), who.brow)


def _crown(brush: _Brush, grow: float, until: float) -> Points:
    """The outline of the head above ``until``, from the right over the crown to the left, a little larger."""
    right, left = np.split(brush.outline, 2)
    above = until * brush.who.height
    return np.concatenate([right[right[:, 1] < above][::-1], left[left[:, 1] < above][::-1]]) * grow


def _hair_behind(brush: _Brush) -> None:
    who, back, dark = brush.who, brush.view.back, _shade(brush.hair, 0.8)
    w, h = who.width, who.height
    if back in ("long", "bob"):
        low, wide = (h + 0.3, 1.3) if back == "long" else (h * 0.82, 1.34)
        arch = -np.sqrt(1 - _WIDE**2) * h * 1.14
        brush.head(_band(_WIDE * w * wide, arch, low - 0.12 * _WIDE**4), dark)
    elif back == "curly":
        for t in np.linspace(-0.5, math.pi + 0.5, 10):
            brush.head(_oval(math.cos(t) * w * 1.1, -math.sin(t) * h * 0.95 - 0.08, 0.17, 0.17), dark)
    elif back == "spiky":
        t = np.linspace(-0.2, math.pi + 0.2, 19)
        far = np.where(np.arange(19) % 2, 1.34, 1.05)
        brush.head(_curve(np.cos(t) * w * far, -np.sin(t) * h * far - 0.04), dark)
    elif back == "bun":
        brush.head(_oval(0, -h * 1.12, 0.22, 0.2), dark)
    elif back == "tails":
        for side in (-1, 1):
            brush.head(_oval(side * (w + 0.1), -0.02, 0.17, 0.36), dark)
    brush.head(_oval(0, -h * 0.12, w * 1.12, h * 1.0), dark)


def _hairline(fringe: str, x: Points, side: int) -> Points:
    """Where the hair ends on the forehead, as a share of the half height of the face."""
    if fringe == "fringe":
        return -0.56 - 0.04 * np.cos(x * 14)
    if fringe == "side":
        return -0.72 + 0.2 * x * side
    if fringe == "centre":
        return -0.88 + 0.34 * np.abs(x) ** 0.8
    return -0.72 + 0.1 * x**2 if fringe == "round" else -0.62 + 0.12 * np.where(np.arange(len(x)) % 2, 1, -1)


def _hair_in_front(brush: _Brush) -> None:
    who, x = brush.who, np.linspace(-1, 1, 25)
    side_y = -0.12 if brush.view.back in ("short", "spiky", "bun") else 0.1
    line = _hairline(brush.view.fringe, x, brush.view.side)
    line = line + (side_y - line) * np.abs(x) ** 9
    low = brush.turned(_curve(x * who.width, line * who.height))
    low[0, 0], low[-1, 0] = -who.width * 1.04, who.width * 1.04
    brush.head(np.concatenate([_crown(brush, 1.09, side_y), low]), brush.hair)
    shine = _curve(_U * who.width * 0.5 + brush.view.side * 0.1, -who.height * (0.88 + 0.1 * _BOW))
    brush.stroke(shine, _mix(brush.hair, (255, 255, 255), 0.28), 0.03)


def _glasses(brush: _Brush) -> None:
    who = brush.who
    frame = (24, 22, 30) if sum(who.skin) > 330 else (244, 236, 214)
    radius, y = min(max(0.17, who.eye_size * 1.35), who.eye_gap * who.width * 0.98), who.eye_height * who.height
    for side in (-1, 1):
        x = side * who.eye_gap * who.width
        if brush.view.glasses == "round":
            ring = _oval(x, y, radius, radius)
        else:
            ring = np.array([[-1, -0.8], [1, -0.8], [1, 0.85], [-1, 0.85]]) * radius + (x, y)
        brush.face(ring, (220, 240, 255), 45)
        brush.stroke(np.concatenate([ring, ring[:2]]), frame, 0.044)
        arm = np.array([[x + side * radius, y - 0.02], [side * who.width * 0.99, y - 0.05]])
        brush.stroke(arm, frame, 0.034)
    gap = who.eye_gap * who.width - radius
    brush.stroke(np.array([[-gap, y - 0.03], [gap, y - 0.03]]), frame, 0.04)


def _develop(image: PIL.Image.Image, view: View, size: int) -> PIL.Image.Image:
    """Down to the size asked for, then the light and the blur."""
    small = image.reduce(OVERSAMPLING)
    if view.blur > 0.1:
        small = small.filter(PIL.ImageFilter.GaussianBlur(view.blur * size / 96))
    slope, (across, down, gain) = np.linspace(-1, 1, size, dtype=np.float32), view.light
    light = np.float32(gain) + np.float32(across) * slope[None, :] + np.float32(down) * slope[:, None]
    pixels = np.asarray(small, dtype=np.float32) * light[:, :, None]
    return PIL.Image.fromarray(np.minimum(pixels, 255).astype(np.uint8))
