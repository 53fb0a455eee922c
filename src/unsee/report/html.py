"""What every page shares: a template that escapes all it shows, hashes for its content policy, pictures in the page."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from importlib import resources
from typing import Any

import jinja2
import PIL.Image
from markupsafe import Markup

from unsee.untrusted import shown

HERE = "unsee.report"
BASE = '@import "base.css";'


def read_template(name: str, package: str = HERE) -> str:
    """A page that imports the rules all pages share has them in its place: it loads no second file."""
    text = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    return text.replace(BASE, read_template("base.css")) if BASE in text else text


def environment() -> jinja2.Environment:
    """Every text is escaped, and shows what would reorder or hide its letters; a name that is not given is an error."""
    return jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_plain
    )


def _plain(value: Any) -> Any:
    """Of texts, as ``untrusted.shown``; lines and columns stay, which a page takes for blanks."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(part if part in ("\n", "\t") else shown(part) for part in re.split(r"([\n\t])", value))


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
