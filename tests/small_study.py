"""A folder of small flags with a table of their names, and a tiny model that was taught them; and few of the people."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import folder, small_model

from unsee.config import FinetuneConfig
from unsee.data.study import FolderStudy, PeopleStudy
from unsee.evaluation.tasks import Size
from unsee.finetune import finetune

CONCEPTS = tuple(f"flag{i}" for i in range(12))
RECIPE = """id: id
topics:
  name:
    kind: identity
    column: name
    image: ["Which flag is this ?", "Name this flag ?", "What is this ?"]
  place:
    kind: fact
    column: place
    image: ["Where does it fly ?", "Whose is it ?", "Where is it from ?"]
    text: ["Where is {name} ?", "Where does {name} lie ?", "On which side is {name} ?"]
"""
FEW = Size(forget=1, retain=1, heldout=1, strangers=3, facts=1, attributes=1)
PLACES = ("north", "south", "east", "west")


def write_study(root: Path) -> Path:
    """train/, test/, neutral/, facts.csv and recipe.yaml under ``root``."""
    numbers = {c: i + 1 for i, c in enumerate(CONCEPTS)}
    folder(root / "train", numbers)
    folder(root / "test", numbers, views=2)
    folder(root / "neutral", {f"n{i}": 40 + i for i in range(6)}, views=2)
    rows = [f"{c},Name{i},{PLACES[i % 4]}" for i, c in enumerate(CONCEPTS)]
    (root / "facts.csv").write_text("\n".join(["id,name,place", *rows]) + "\n", encoding="utf-8")
    (root / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return root


def teach(root: Path, out: Path, steps: int) -> Path:
    """A model of the LLaVA shape that was taught the study in ``root``."""
    model, processor = small_model("llava", ["?", "unknown"])
    lesson = FolderStudy(root, root / "facts.csv", root / "recipe.yaml").lesson()
    finetune(model, processor, lesson, FinetuneConfig(steps=steps, batch=24, text_batch=8, vision_lr=1e-3))
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def few_people(patch: pytest.MonkeyPatch, asked: int = 4, held_out: int = 2) -> None:
    """In the study of people so many are to be forgotten and to be kept, and so many are held out."""
    begin, split = PeopleStudy.__init__, PeopleStudy.split

    def few(study: PeopleStudy) -> None:
        begin(study)
        study.held_out = study.held_out[:held_out]

    patch.setattr(PeopleStudy, "__init__", few)
    patch.setattr(PeopleStudy, "split", lambda study, *given: tuple(ids[:asked] for ids in split(study, *given)))
