"""The page of a certificate: one file that loads nothing, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unsee.files import new_file
from unsee.report.html import content_hash, environment, read_template


def write_certificate(path: Path | str, certificate: Mapping[str, Any], meaning: Mapping[str, str]) -> None:
    """``certificate``: as ``ledger.export`` makes it; ``meaning``: figure → what it says."""
    source = read_template("certificate.html")
    html = environment().from_string(source).render(
        certificate=certificate, meaning=meaning, style_hash=content_hash(source, "style")
    )  # fmt: skip
    with new_file(path) as file:
        file.write_bytes(html.encode("utf-8"))
