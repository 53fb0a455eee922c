"""What docs/method.md and docs/glossary.md name is there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from unsee.config import LedgerConfig

ROOT = Path(__file__).parent.parent
METHOD, GLOSSARY = (ROOT / "docs" / f"{name}.md" for name in ("method", "glossary"))
SOURCES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src" / "unsee").rglob("*.py")}
FOLDERS = {parent.name for path in SOURCES for parent in path.parents}
DEFINED = "\n".join(SOURCES.values())
NAMED = [
    name
    for name in re.findall(r"`(\.?[A-Za-z_]+(?:\.[A-Za-z_]+)*)`", METHOD.read_text(encoding="utf-8"))
    if "." in name
]


def defined(name: str) -> bool:
    """A function, class, constant, attribute or field is called so somewhere, or a file or folder of the package."""
    return (
        name in FOLDERS
        or any(path.stem == name for path in SOURCES)
        or bool(
            re.search(
                rf"\b(def|class) {name}\b|^\s*(self\.)?{name}\b[^=\n]*=|^\s+{name}: |\bself\.{name}\b", DEFINED, re.M
            )
        )
    )


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_what_the_method_names_is_in_the_code(name):
    assert [part for part in name.strip(".").split(".") if not defined(part)] == [], name


def test_a_name_that_is_not_in_the_code_is_found():
    assert len(NAMED) > 50 and defined("fit_space") and not defined("fit_spaces")


def test_the_flags_of_the_glossary_are_settings():
    known = {field.name for field in fields(LedgerConfig)} | {"forget", "retain", "neutral"}
    flags = re.findall(r"`--([a-z-]+)`", GLOSSARY.read_text(encoding="utf-8"))
    assert len(flags) > 8 and {flag.replace("-", "_") for flag in flags} <= known


@pytest.mark.parametrize("document", [METHOD, GLOSSARY], ids=lambda path: path.stem)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        assert link.startswith("http") or (document.parent / link).exists(), link
