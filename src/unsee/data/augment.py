"""Altered copies of an image, for concepts with few views."""

from __future__ import annotations

import numpy as np
import PIL.Image
from PIL import ImageEnhance


def augment(image: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
    """A view that might have been taken a moment later: turned, cropped, lit. Never mirrored: flags differ."""
    resampling = PIL.Image.Resampling
    turned = image.rotate(rng.uniform(-8, 8), resampling.BILINEAR, fillcolor=image.getpixel((0, 0)))
    w, h = image.size
    share = rng.uniform(0.85, 1.0)
    x, y = rng.uniform(0, 1 - share) * w, rng.uniform(0, 1 - share) * h
    right, below = max(int(x) + 1, int(x + share * w)), max(int(y) + 1, int(y + share * h))  # of one pixel, that one
    cut = turned.crop((int(x), int(y), right, below)).resize((w, h), resampling.BICUBIC)
    lit = ImageEnhance.Brightness(cut).enhance(rng.uniform(0.85, 1.15))
    return ImageEnhance.Contrast(lit).enhance(rng.uniform(0.85, 1.15))
