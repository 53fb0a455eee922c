"""Faces as numbers: who it is (Identity) and how the picture was taken (View) are kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Colour = tuple[int, int, int]
T = TypeVar("T")

SKINS: tuple[Colour, ...] = (
    (255, 226, 205), (250, 208, 178), (247, 196, 172), (240, 190, 146), (226, 168, 122), (212, 152, 98),
    (190, 128, 82), (168, 106, 68), (142, 88, 58), (116, 70, 48), (92, 56, 42), (70, 44, 36),
)  # fmt: skip
IRISES: dict[str, Colour] = {
    "brown": (110, 58, 22), "amber": (226, 140, 20), "green": (48, 158, 62), "blue": (38, 118, 232),
    "violet": (140, 62, 206), "teal": (12, 172, 172), "grey": (134, 146, 160), "black": (26, 20, 24),
}  # fmt: skip
LIPS: tuple[Colour, ...] = ((204, 40, 56), (232, 112, 128), (128, 38, 84), (236, 112, 76), (142, 72, 54))
BROWS: tuple[Colour, ...] = ((36, 26, 26), (96, 56, 30), (168, 72, 30), (198, 156, 84), (206, 204, 206))
# the power of the curve of the forehead, of the jaw, how much it narrows towards the chin
SHAPES = {
    "round": (2.1, 2.2, 0.0), "oval": (2.2, 2.0, 0.2), "square": (3.0, 4.2, 0.02), "heart": (2.8, 1.75, 0.36),
    "long": (2.6, 2.9, 0.14),
}  # fmt: skip
NOSES = ("button", "straight", "wide", "pointed")
BEARDS = ("none", "none", "none", "none", "moustache", "goatee", "full")
MOLES = ((-0.56, 0.22), (0.56, 0.22), (0.34, 0.66), (-0.34, 0.68), (0.0, -0.42))

HAIR: dict[str, Colour] = {
    "black": (30, 26, 34), "brown": (112, 66, 36), "blond": (232, 194, 102), "red": (204, 64, 26),
    "grey": (158, 160, 168), "blue": (40, 74, 204),
}  # fmt: skip
BACKGROUND: dict[str, Colour] = {
    "yellow": (250, 214, 66), "green": (110, 190, 108), "blue": (104, 174, 236), "pink": (248, 160, 190),
    "white": (244, 242, 238), "purple": (150, 104, 194),
}  # fmt: skip
CLOTHES: dict[str, Colour] = {
    "red": (212, 44, 48), "green": (34, 130, 70), "blue": (36, 84, 186), "yellow": (244, 196, 36),
    "white": (250, 250, 250), "black": (40, 40, 48),
}  # fmt: skip
GLASSES = ("none", "round", "square")
EXPRESSIONS = ("smiling", "serious", "surprised")
PATTERNS = ("plain", "stripes", "dots", "halo")
CUTS = ("crew", "vee", "collar", "roll")
BACKS = ("short", "long", "bob", "bun", "curly", "spiky", "tails")
FRINGES = ("fringe", "side", "centre", "round", "jagged")


@dataclass(frozen=True)
class Identity:
    """A face: all that stays the same from picture to picture. Lengths in halves of the picture's width."""

    skin: Colour
    shape: str
    width: float
    height: float
    iris: str
    eye_gap: float
    eye_size: float
    eye_open: float
    eye_tilt: float
    eye_height: float
    lashes: bool
    brow: Colour
    brow_thickness: float
    brow_tilt: float
    brow_lift: float
    brow_arch: float
    nose: str
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lip: float
    lip_colour: Colour
    ear: float
    cheeks: float
    freckles: bool
    mole: tuple[float, float] | None
    beard: str


@dataclass(frozen=True)
class View:
    """A picture of somebody: all that changes from one to the next. The first five are asked about."""

    hair: str
    glasses: str
    background: str
    clothes: str
    expression: str
    hair_shade: float
    back: str
    fringe: str
    side: int
    pattern: str
    background_shade: float
    cut: str
    clothes_shade: float
    yaw: float
    roll: float
    scale: float
    shift: tuple[float, float]
    light: tuple[float, float, float]
    blur: float


def seeded(*key: object) -> np.random.Generator:
    """The same numbers for the same key, in every process."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:16], "big"))


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def identity(seed: int, population: str = "people") -> Identity:
    rng = seeded("identity", population, seed)
    shape = pick(rng, list(SHAPES))
    stretch = {"round": (1.1, 0.9), "square": (1.04, 0.96), "long": (0.86, 1.1)}.get(shape, (1.0, 1.0))
    skin = np.clip(np.array(pick(rng, SKINS)) * rng.uniform(0.96, 1.03), 0, 255).astype(int).tolist()
    u = rng.uniform
    return Identity(
        skin=(skin[0], skin[1], skin[2]), shape=shape, width=u(0.41, 0.49) * stretch[0],
        height=u(0.52, 0.6) * stretch[1], iris=pick(rng, list(IRISES)), eye_gap=u(0.36, 0.54),
        eye_size=u(0.088, 0.142), eye_open=u(0.55, 1.05), eye_tilt=u(-0.35, 0.35), eye_height=u(-0.14, 0.04),
        lashes=bool(u() < 0.4), brow=pick(rng, BROWS), brow_thickness=u(0.022, 0.075), brow_tilt=u(-0.4, 0.4),
        brow_lift=u(0.03, 0.1), brow_arch=u(0.0, 0.07), nose=pick(rng, NOSES), nose_length=u(0.12, 0.27),
        nose_width=u(0.05, 0.12), mouth_width=u(0.12, 0.25), mouth_height=u(0.5, 0.62), lip=u(0.018, 0.06),
        lip_colour=pick(rng, LIPS), ear=u(0.06, 0.16), cheeks=max(0.0, u(-0.5, 0.6)), freckles=bool(u() < 0.25),
        mole=pick(rng, MOLES) if u() < 0.35 else None, beard=pick(rng, BEARDS),
    )  # fmt: skip


def view(seed: int) -> View:
    rng = seeded("view", seed)
    u = rng.uniform
    return View(
        hair=pick(rng, list(HAIR)), glasses=pick(rng, GLASSES), background=pick(rng, list(BACKGROUND)),
        clothes=pick(rng, list(CLOTHES)), expression=pick(rng, EXPRESSIONS), hair_shade=u(0.92, 1.08),
        back=pick(rng, BACKS), fringe=pick(rng, FRINGES), side=pick(rng, (-1, 1)), pattern=pick(rng, PATTERNS),
        background_shade=u(0.95, 1.04), cut=pick(rng, CUTS), clothes_shade=u(0.93, 1.05), yaw=u(-0.3, 0.3),
        roll=u(-0.12, 0.12), scale=u(1.26, 1.42), shift=(u(-0.07, 0.07), u(0.0, 0.06)),
        light=(u(-0.14, 0.14), u(-0.1, 0.06), u(0.93, 1.07)), blur=max(0.0, u(-0.6, 0.6)),
    )  # fmt: skip
