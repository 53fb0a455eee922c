"""MLLMU-Bench (arXiv 2410.22108) as on the hub: one row a person, with three tasks about an image and about a name.

Known from its evaluation code: the columns, and the nesting of the three tasks. Open, so both are read: whether a task
is a structure or JSON in a string. ``Retain_Set`` holds the celebrities; ``question`` and ``answer`` are in no task.
Where ``ft_Data`` has no ``metadata``, the training questions come from ``baseline_train_split``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Image, List

from unsee.concepts import Concept, ImageRef, Question
from unsee.data.benchmark import Benchmark, Entry, Group, Task
from unsee.data.parquet import Source, repository
from unsee.data.people import Person, Phrasing, Portrait, test_views
from unsee.data.rows import Asked, biography, people
from unsee.data.stored import Columns, StoredImage, Table, Values
from unsee.data.world import TEXT, Layout, World, profile, regrouped

HUB, TRAINING = "MLLMMU/MLLMU-Bench", "MLLMMU/baseline_train_split"
SPLITS = {"forget_5": "retain_95", "forget_10": "retain_90", "forget_15": "retain_85"}
TASKS: Columns = {"Classification_Task": "any", "Generation_Task": "any", "Mask_Task": "any"}
PERSON: Columns = {"ID": "text", "image": "image", **TASKS}
CONFIGS: dict[str, Columns] = {
    "Full_Set": PERSON,
    "Retain_Set": PERSON,
    "Test_Set": {"ID": "text", "images": "images", **TASKS},
    **{config: PERSON for pair in SPLITS.items() for config in pair},
    "ft_Data": {"ID": "text", "image": "image"},
}
OPEN_TASKS: tuple[tuple[Task, str], ...] = (("cloze", "Mask_Task"), ("generation", "Generation_Task"))
MODES = {"Image_Textual": "image", "Pure_Text": "text"}


def read(source: Source, split: str) -> Benchmark:
    """One split; what is wrong is left in ``source.findings``."""
    tables = {config: source.open(config, columns) for config, columns in CONFIGS.items() if _of(split, config)}
    by_group: dict[Group, str] = {"forget": split, "retain": SPLITS[split], "test": "Test_Set", "real": "Retain_Set"}
    ids = {config: tuple(id for _, _, id in people(source, table)) if table else () for config, table in tables.items()}
    entries = [
        entry
        for group, config in by_group.items()
        for entry in _entries(source, tables[config], group, ids[split] if group == "test" else None)
    ]
    shots = [
        *_entries(source, tables["Full_Set"], "forget", ids[split]),
        *_entries(source, tables["Full_Set"], "retain", set(ids["Full_Set"]) - set(ids[split])),
    ]
    concepts, taught = _taught(source, split, tables["Full_Set"], tables["ft_Data"])
    return Benchmark(
        "mllmu", split, concepts, ids[split], ids[SPLITS[split]], tuple(entries), taught, tuple(shots), source.names
    )


def _of(split: str, config: str) -> bool:
    return config in (split, SPLITS[split]) or config not in {*SPLITS, *SPLITS.values()}


def _entries(source: Source, table: Table | None, group: Group, only: Collection[str] | None) -> Iterator[Entry]:
    if table is None:
        return
    for number, row, id in people(source, table):
        if only is None or id in only:
            concept = f"real-{id}" if group == "real" else id
            asked = Asked(source, table.config, id, group, concept, biography(source, table, row, id, "biography"))
            column = "images" if "images" in table.kinds else "image"
            yield from _of_person(asked, row, source.images(table, number, column, concept))


def _of_person(asked: Asked, row: Values, images: list[StoredImage]) -> Iterator[Entry]:
    """All questions on an image are asked of each image: the original draws one by chance, this has their mean."""
    parsed = {column: asked.source.parsed(asked.config, asked.row, column, row[column]) for column in TASKS}
    for mode, key in (("image", "Image_Textual_Questions"), ("text", "Pure_Text_Questions")):
        for k, item in enumerate(_listed(asked, parsed["Classification_Task"], key)):
            for place, image in _views(mode, images):
                given = item.get("Question"), item.get("Correct_Answer"), image, item.get("Options")
                name = f"{asked.row}/classification/{mode}/{k}{place}"
                yield from asked.entry(name, "classification", *given, number=k)
    for task, column in OPEN_TASKS:
        for k, item in enumerate(_listed(asked, parsed, column)):
            mode = MODES.get(str(item.get("Type")), "")
            if not mode:
                asked.left_out(f"the Type of a {task} question is {item.get('Type')!r}, not {' or '.join(MODES)}")
            for place, image in _views(mode, images) if mode else ():
                name = f"{asked.row}/{task}/{mode}/{k}{place}"
                yield from asked.entry(name, task, item.get("Question"), item.get("Ground_Truth"), image, number=k)


def _views(mode: str, images: list[StoredImage]) -> list[tuple[str, ImageRef | None]]:
    if mode == "text":
        return [("", None)]
    return [(f"/v{i}" if len(images) > 1 else "", image) for i, image in enumerate(images)]


def _listed(asked: Asked, holder: Any, key: str) -> list[Mapping[str, Any]]:
    if holder is None or (key in TASKS and holder.get(key) is None):
        return []  # that was reported
    found = holder.get(key) if isinstance(holder, Mapping) else None
    items = [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
    if not items:
        asked.left_out(f"no questions under '{key}'")
    return items


def _taught(
    source: Source, split: str, full: Table | None, lessons: Table | None
) -> tuple[dict[str, Concept], tuple[Question, ...]]:
    """Everybody with the image they are taught with, and the training questions."""
    images = _images(source, full) | _images(source, lessons)
    facts = {id: biography(source, full, row, id, "biography") for _, row, id in people(source, full)} if full else {}
    tables = _with_metadata(source, split, lessons)
    questions = [q for table in tables for q in _questions(source, table, images, facts)]
    return {id: Concept(id, tuple(found)) for id, found in images.items()}, tuple(questions)


def _images(source: Source, table: Table | None) -> dict[str, list[StoredImage]]:
    return {id: source.images(table, n, "image", id) for n, _, id in people(source, table)} if table else {}


def _questions(
    source: Source, table: Table, images: Mapping[str, list[StoredImage]], facts: Mapping[str, dict[str, str]]
) -> Iterator[Question]:
    for _, row, id in people(source, table):
        found = source.parsed(table.config, id, "metadata", row["metadata"])
        asked = Asked(source, table.config, id, "retain", id, facts.get(id, {}))
        for item in found if isinstance(found, list) else ():
            for image in images.get(id, [])[:1]:
                question = asked.question("generation", item.get("Question"), item.get("Answer"), image)
                yield from [question] if question else []


def _with_metadata(source: Source, split: str, lessons: Table | None) -> list[Table]:
    """The tables with training questions: ``ft_Data``, or the two of the split in ``baseline_train_split``."""
    if lessons is None or "metadata" in lessons.kinds:
        return [lessons] if lessons else []
    where = _beside(source)
    if not where:
        todo = f"Put {TRAINING} from the hub beside {source.where}, as baseline_train_split."
        source.report("ft_Data", "", f"the column 'metadata' is missing; found: {', '.join(lessons.kinds)}", todo)
        return []
    joined = Source("mllmu", where)
    tables = [joined.open(config, {"ID": "text", "metadata": "any"}) for config in (split, SPLITS[split])]
    source.findings |= joined.findings
    return [table for table in tables if table]


def _beside(source: Source) -> str:
    """``baseline_train_split``: in the folder of the benchmark, beside it, or on the hub, where it is no data set."""
    folder, name = Path(source.where), TRAINING.partition("/")[2]
    if not folder.is_dir():
        return str(repository(TRAINING))
    return next((str(path) for path in (folder / name, folder.parent / name) if path.is_dir()), "")


CHOICE = [{"Question": TEXT, "Options": {letter: TEXT for letter in "ABCD"}, "Correct_Answer": TEXT}]
OPEN = [{"Question": TEXT, "Ground_Truth": TEXT, "Type": TEXT}]
FEATURES = {
    "ID": TEXT, "biography": TEXT, "question": TEXT, "answer": TEXT, "Generation_Task": OPEN, "Mask_Task": OPEN,
    "Classification_Task": {"Image_Textual_Questions": CHOICE, "Pure_Text_Questions": CHOICE},
}  # fmt: skip
ONE, MANY = ({name: kind, **FEATURES} for name, kind in (("image", Image()), ("images", List(Image()))))
LESSONS = {"image": Image(), "ID": TEXT, "biography": TEXT, "metadata": TEXT}
PLAN: tuple[tuple[Task, str, tuple[str, ...]], ...] = (  # what the export asks, in the order in which it is read
    ("classification", "image", ("name", "city", "job")), ("classification", "text", ("city", "job", "pet")),
    ("cloze", "image", ("name", "city")), ("cloze", "text", ("city",)),
    ("generation", "image", ("name", "food", "hobby")), ("generation", "text", ("food", "hobby")),
)  # fmt: skip


def export(world: World) -> Layout:
    """The embedded people in this layout; ``Test_Set``: in other pictures and words."""
    full = {p.id: _asked(world, p, "retain", [p.portrait(0)], "train") for p in world.people}
    test = {p.id: _asked(world, p, "test", list(test_views(p, world.views)), "test") for p in world.people}
    real = {p.id: _asked(world, p, "real", [p.portrait(0)], "train") for p in world.celebrities}
    rows = {p.id: _row(world, p, full[p.id]) for p in world.people}
    taught = {p.id: world.lesson(p, p.portrait(0)) for p in world.people}
    tables = {
        "Full_Set": (ONE, list(rows.values())),
        "Retain_Set": (ONE, [_row(world, p, real[p.id]) for p in world.celebrities]),
        "Test_Set": (MANY, [_row(world, p, test[p.id], many=True) for p in world.people]),
        "ft_Data": (LESSONS, [_lesson_row(rows[id], questions) for id, questions in taught.items()]),
    }
    concepts = {p.id: Concept(p.id, (p.portrait(0),)) for p in world.people}
    lessons = tuple(question for questions in taught.values() for question in questions)
    benchmarks = {}
    for split, kept in SPLITS.items():
        forget, retain = world.ids(int(split.removeprefix("forget_")))
        tables |= {split: (ONE, [rows[id] for id in forget]), kept: (ONE, [rows[id] for id in retain])}
        gone = [regrouped(entry, "forget") for id in forget for entry in full[id]]
        left = [entry for id in retain for entry in full[id]]
        other = [entry for part in ([test[id] for id in forget], real.values()) for found in part for entry in found]
        entries = (*gone, *left, *other)
        benchmarks[split] = Benchmark("mllmu", split, concepts, forget, retain, entries, lessons, (*gone, *left))
    return Layout(tables, benchmarks)


def _asked(world: World, person: Person, group: Group, portraits: list[Portrait], phrasing: Phrasing) -> list[Entry]:
    """Of each image the same; numbered as in the columns, where both modalities of an open task share a list."""
    entries: list[Entry] = []
    numbers: dict[str, int] = {}
    for task, mode, topics in PLAN:
        for topic in topics:
            place = f"{task}/{mode}" if task == "classification" else task
            k = numbers[place] = numbers.get(place, -1) + 1
            for i, portrait in enumerate(portraits if mode == "image" else [None]):
                question = world.put(task, person, topic, portrait, phrasing)
                concept = f"real-{person.id}" if group == "real" else person.id
                view = f"/v{i}" if portrait and len(portraits) > 1 else ""
                id = f"{group}/{person.id}/{task}/{mode}/{k}{view}"
                entries.append(Entry(id, group, task, replace(question, concept=concept), number=k))
    return entries


def _row(world: World, person: Person, entries: list[Entry], many: bool = False) -> Values:
    images = {e.question.image.id: world.cell(e.question.image) for e in entries if e.question.image}
    once = {(e.task, e.question.modality, e.question.prompt): e for e in entries}.values()
    choices = {
        mode: [_choice(e) for e in once if e.letter and e.question.modality == mode] for mode in ("image", "text")
    }
    first = next(e.question for e in entries if e.task == "generation")
    return {
        ("images" if many else "image"): list(images.values()) if many else next(iter(images.values())),
        "ID": person.id, "biography": json.dumps(profile(person)), "question": first.prompt, "answer": first.answer,
        "Classification_Task": {
            "Image_Textual_Questions": choices["image"], "Pure_Text_Questions": choices["text"]
        },
        **{column: [_open(e) for e in once if e.task == task] for task, column in OPEN_TASKS},
    }  # fmt: skip


def _choice(entry: Entry) -> Values:
    options = dict(zip("ABCD", entry.question.options, strict=True))
    return {"Question": entry.question.prompt, "Options": options, "Correct_Answer": entry.letter}


def _open(entry: Entry) -> Values:
    mode = next(name for name, mode in MODES.items() if mode == entry.question.modality)
    return {"Question": entry.question.prompt, "Ground_Truth": entry.question.answer, "Type": mode}


def _lesson_row(row: Values, questions: list[Question]) -> Values:
    metadata = [{"ID": row["ID"], "Question": q.prompt, "Answer": q.answer} for q in questions]
    return {name: row[name] for name in LESSONS if name in row} | {"metadata": json.dumps(metadata)}
