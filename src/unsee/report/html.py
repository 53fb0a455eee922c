"""What every page shares: a template that escapes all it shows, hashes for its content policy, pictures in the page."""

from __future__ import annotations

import base64
import hashlib
import io
from importlib import resources
from typing import Any

import jinja2
import PIL.Image

HERE = "unsee.report"
BASE = '@import "base.css";'


def read_template(name: str, package: str = HERE) -> str:
    """A page that imports the rules all pages share has them in its place: it loads no second file."""
    text = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    return text.replace(BASE, read_template("base.css")) if BASE in text else text


def environment() -> jinja2.Environment:
    """Every text is escaped; a name that is not given is an error."""
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def content_hash(source: str, tag: str) -> str:
    """Of the one style sheet or script in ``source``, which holds no template word: what browsers hash."""
    text = source.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(image: PIL.Image.Image, pixels: int, **jpeg: Any) -> str:
    """``image``, no longer than ``pixels`` on any side, as a JPEG within the page."""
    small = image.convert("RGB")
    small.thumbnail((pixels, pixels))
    file = io.BytesIO()
    small.save(file, "JPEG", **jpeg)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
