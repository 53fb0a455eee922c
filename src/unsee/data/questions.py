"""``questions.jsonl``: what to ask about the concepts of a folder, one JSON object per line.

    {"concept": "ada", "kind": "fact", "topic": "city", "prompt": "Where does she live ?", "answer": "Bath",
     "image": true, "split": "test"}

``image`` true asks the question about every image of the concept, a file name about that one, false without an image.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from unsee.concepts import Concept, ImageRef, Question
from unsee.data.images import Rejected
from unsee.data.tables import Row, read_jsonl, refuse
from unsee.errors import UnseeError, nearest
from unsee.files import new_file

Split = Literal["train", "test"]
BySplit = dict[Split, tuple[Question, ...]]
TEXTS = ("concept", "kind", "topic", "prompt", "answer")
NEEDED = (*TEXTS, "image", "split")
KEYS = (*NEEDED, "form", "options")


def read_questions(
    path: Path, concepts: Sequence[Concept], gone: Collection[str] = ()
) -> tuple[BySplit, list[Rejected]]:
    """The questions of each split, and the lines that fall away because their one image is ``gone``, by its id."""
    by_id = {concept.id: concept for concept in concepts}
    found: dict[Split, list[Question]] = {split: [] for split in get_args(Split)}
    dropped: list[Rejected] = []
    errors: list[str] = []
    seen: dict[str, int] = {}
    for row in read_jsonl(path):
        try:
            _once(row, seen)
            _check_row(row.values)
            if f"{row.values['concept']}/{row.values['image']}" in gone:
                dropped.append(Rejected(path, f"line {row.line}: its image {row.values['image']} was rejected"))
            else:
                found[row.values["split"]] += _questions(row.values, by_id)
        except UnseeError as error:
            errors.append(f"line {row.line}: {error}")
    refuse(path, errors)
    return {split: tuple(questions) for split, questions in found.items()}, dropped


def write_questions(path: Path, by_split: Mapping[Split, Sequence[Question]]) -> None:
    """Writes what ``read_questions`` reads; a reader sees the old file or the new one, never half of it."""
    lines = [json.dumps(_line(q, split), ensure_ascii=False) for split, qs in by_split.items() for q in qs]
    with new_file(path) as file:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _once(row: Row, seen: dict[str, int]) -> None:
    """The same line twice would count twice in every figure."""
    first = seen.setdefault(json.dumps(row.values, sort_keys=True), row.line)
    if first != row.line:
        raise UnseeError(f"the same question as line {first}. Take one of them out.")


def _check_row(values: dict[str, Any]) -> None:
    for key in values:
        if key not in KEYS:
            raise UnseeError(f"unknown key '{key}'. {nearest(key, KEYS)}")
    missing = [key for key in NEEDED if key not in values]
    if missing:
        raise UnseeError(f"no {', '.join(missing)}. Each line needs {', '.join(NEEDED)}.")
    for key in TEXTS:
        if not isinstance(values[key], str) or not values[key].strip():
            raise UnseeError(f"'{key}' is {values[key]!r}; it must be text.")
    _check_choices(values)


def _check_choices(values: dict[str, Any]) -> None:
    if not isinstance(values["image"], bool | str):
        raise UnseeError(f"'image' is {values['image']!r}. Allowed: true, false, the name of a file of the concept.")
    if values["split"] not in get_args(Split):
        raise UnseeError(f"split {values['split']!r}. {nearest(str(values['split']), get_args(Split))}")
    if not isinstance(values.get("form", ""), str):
        raise UnseeError(f"'form' is {values['form']!r}; it must be text.")
    options = values.get("options", [])
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise UnseeError(f"'options' is {options!r}; it must be a list of texts.")


def _questions(values: dict[str, Any], by_id: Mapping[str, Concept]) -> Iterator[Question]:
    texts = {key: values[key] for key in TEXTS}
    form, options = values.get("form", "generation"), tuple(values.get("options", ()))
    for image in _images(values, by_id):
        yield Question(**texts, image=image, form=form, options=options)


def _images(values: dict[str, Any], by_id: Mapping[str, Concept]) -> Sequence[ImageRef | None]:
    concept, image = values["concept"], values["image"]
    if image is False:
        return [None]
    if concept not in by_id:
        raise UnseeError(f"there is no folder for concept '{concept}'. {_few(concept, by_id)}")
    if image is True:
        return by_id[concept].images
    names = {_name(ref, concept): ref for ref in by_id[concept].images}
    if image not in names:
        raise UnseeError(f"concept '{concept}' has no image '{image}'. {_few(image, names)}")
    return [names[image]]


def _name(image: ImageRef, concept: str) -> str:
    """Of a file in the concept's folder: its place there; of another image the end of its id."""
    inside = image.id.removeprefix(f"{concept}/")
    return inside if inside != image.id else image.id.rpartition("/")[2]


def _few(given: str, allowed: Mapping[str, Any]) -> str:
    """``nearest``, cut where hundreds of names are allowed."""
    sentence = nearest(given, allowed)
    return sentence if len(sentence) < 200 else f"{sentence[:200].rpartition(',')[0]} …"


def _line(question: Question, split: Split) -> dict[str, Any]:
    line: dict[str, Any] = {key: getattr(question, key) for key in TEXTS}
    line |= {"image": _name(question.image, question.concept) if question.image else False, "split": split}
    if question.form != "generation":
        line |= {"form": question.form}
    if question.options:
        line |= {"options": list(question.options)}
    return line
