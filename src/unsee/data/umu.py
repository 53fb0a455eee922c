"""UMU-Bench (NeurIPS 2025 Datasets and Benchmarks) as on the hub: one row a person, every question in both modalities.

Known from its evaluation code: a task is a Python literal or JSON in a string, ``{"unimodal": {key: {question, options,
answer}}, "muitimodal": …}`` (so spelled), where the answer of a choice starts with its letter; ``MM_QA`` and ``UM_QA``
are ``{"question": {key: …}, "answer": {key: …}}``. Open: the name of the celebrities' folder, both spellings are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from datasets import Image

from unsee.concepts import Concept, Question
from unsee.data.benchmark import Benchmark, Entry, Group, Task
from unsee.data.parquet import Source
from unsee.data.people import Person
from unsee.data.rows import Asked, biography, people
from unsee.data.stored import Columns, StoredImage, Table, Values
from unsee.data.world import TEXT, Layout, World, profile, regrouped

HUB = "linbojunzi/UMU-bench"
SPLITS = {"forget_5": "retain_95", "forget_10": "retain_90", "forget_15": "retain_85"}
TASKS: tuple[tuple[Task, str], ...] = (
    ("classification", "Classify"), ("cloze", "Cloze"), ("generation", "Generation"),
)  # fmt: skip
ASKED: Columns = {"ID": "text", "image": "image"} | {column: "any" for _, column in TASKS}
CONFIGS: dict[str, Columns] = {
    "Full_Set": {**ASKED, "MM_QA": "any", "UM_QA": "any"},
    "Real_Person_Set": ASKED,
    **{config: ASKED for pair in SPLITS.items() for config in pair},
}
REAL = ("Real_Person_Set", "real_person")
PICTURED, NAMED = ("muitimodal", "multimodal"), ("unimodal",)


def read(source: Source, split: str) -> Benchmark:
    """One split; what is wrong is left in ``source.findings``."""
    real = next((name for name in REAL if name in source.configs), REAL[0])
    by_group: dict[Group, str] = {"forget": split, "retain": SPLITS[split], "real": real}
    tables = {group: source.open(config, ASKED) for group, config in by_group.items()}
    entries = [entry for group, table in tables.items() if table for entry in _entries(source, table, group)]
    forget, retain = (
        tuple(id for _, _, id in people(source, table)) if (table := tables[group]) else ()
        for group in ("forget", "retain")
    )
    full = source.open("Full_Set", CONFIGS["Full_Set"])
    concepts, taught = _taught(source, full) if full else ({}, ())
    return Benchmark("umu", split, concepts, forget, retain, tuple(entries), taught, names=source.names)


def _entries(source: Source, table: Table, group: Group) -> Iterator[Entry]:
    for number, row, id in people(source, table):
        concept = f"real-{id}" if group == "real" else id
        asked = Asked(source, table.config, id, group, concept, biography(source, table, row, id, "Biography"))
        for task, column in TASKS:
            given = source.parsed(table.config, id, column, row[column])
            yield from _pairs(asked, task, column, given, _first(source.images(table, number, "image", concept)))


def _pairs(asked: Asked, task: Task, column: str, given: Any, image: StoredImage | None) -> Iterator[Entry]:
    if given is None:
        return
    pictured, named = (_half(asked, column, given, names) for names in (PICTURED, NAMED))
    if image is None:
        pictured = {}  # that was reported
    for key in dict.fromkeys([*pictured, *named]):
        both = [
            entry
            for mode, half, ref in (("image", pictured, image), ("text", named, None))
            if key in half
            for entry in asked.entry(f"{asked.row}/{task}/{key}/{mode}", task, *_given(half[key], ref))
        ]
        others = [entry.id for entry in reversed(both)] if len(both) > 1 else [""]
        yield from (replace(entry, pair=other) for entry, other in zip(both, others, strict=False))


def _given(item: Mapping[str, Any], image: StoredImage | None) -> tuple[Any, ...]:
    return item.get("question"), item.get("answer"), image, item.get("options")


def _half(asked: Asked, column: str, given: Any, names: tuple[str, ...]) -> dict[str, Mapping[str, Any]]:
    """The questions of one modality by their key."""
    halves = given if isinstance(given, Mapping) else {}
    found: Mapping[Any, Any] = next((halves[name] for name in names if isinstance(halves.get(name), Mapping)), {})
    if not found:
        asked.left_out(f"'{column}' has no questions under '{names[0]}'")
    return {str(key): item for key, item in found.items() if isinstance(item, Mapping)}


def _taught(source: Source, table: Table) -> tuple[dict[str, Concept], tuple[Question, ...]]:
    concepts: dict[str, Concept] = {}
    taught: list[Question] = []
    for number, row, id in people(source, table):
        images = source.images(table, number, "image", id)
        concepts[id] = Concept(id, tuple(images))
        asked = Asked(source, table.config, id, "retain", id, biography(source, table, row, id, "Biography"))
        for column, image in (("MM_QA", _first(images)), ("UM_QA", None)):
            given = source.parsed(table.config, id, column, row[column])
            taught += _training(asked, column, given, image)
    return concepts, tuple(taught)


def _training(asked: Asked, column: str, given: Any, image: StoredImage | None) -> Iterator[Question]:
    parts = given if isinstance(given, Mapping) else {}
    questions, answers = parts.get("question"), parts.get("answer")
    if not isinstance(questions, Mapping) or not isinstance(answers, Mapping):
        asked.left_out(f"'{column}' has no 'question' and 'answer' by their keys")
        return
    for key, prompt in questions.items():
        if question := asked.question("generation", prompt, answers.get(key), image):
            yield question


def _first(images: list[StoredImage]) -> StoredImage | None:
    return images[0] if images else None


FEATURES = {"ID": TEXT, "image": Image()} | dict.fromkeys(
    ("Biography", "MM_QA", "UM_QA", "Classify", "Cloze", "Generation"), TEXT
)
PLAN: tuple[tuple[Task, tuple[str, ...]], ...] = (
    ("classification", ("city", "job")), ("cloze", ("city",)), ("generation", ("food", "pet", "hobby")),
)  # fmt: skip


def export(world: World) -> Layout:
    """The embedded people in this layout."""
    full = {p.id: _asked(world, p, "retain") for p in world.people}
    real = {p.id: _asked(world, p, "real") for p in world.celebrities}
    taught = {p.id: [*world.lesson(p, p.portrait(0)), *world.lesson(p, None)] for p in world.people}
    rows = {p.id: _row(world, p, full[p.id], taught[p.id]) for p in world.people}
    tables = {
        "Full_Set": (FEATURES, list(rows.values())),
        "Real_Person_Set": (FEATURES, [_row(world, p, real[p.id], []) for p in world.celebrities]),
    }
    concepts = {p.id: Concept(p.id, (p.portrait(0),)) for p in world.people}
    lessons = tuple(question for questions in taught.values() for question in questions)
    benchmarks = {}
    for split, kept in SPLITS.items():
        forget, retain = world.ids(int(split.removeprefix("forget_")))
        tables |= {split: (FEATURES, [rows[id] for id in forget]), kept: (FEATURES, [rows[id] for id in retain])}
        gone = [regrouped(entry, "forget") for id in forget for entry in full[id]]
        left = [entry for part in ([full[id] for id in retain], real.values()) for found in part for entry in found]
        benchmarks[split] = Benchmark("umu", split, concepts, forget, retain, (*gone, *left), lessons)
    return Layout(tables, benchmarks)


def _asked(world: World, person: Person, group: Group) -> list[Entry]:
    concept = f"real-{person.id}" if group == "real" else person.id
    entries = []
    for task, topics in PLAN:
        for key, topic in enumerate(topics, start=1):
            ids = [f"{group}/{person.id}/{task}/question_{key}/{mode}" for mode in ("image", "text")]
            for id, pair, portrait in zip(ids, reversed(ids), (person.portrait(0), None), strict=True):
                question = replace(world.put(task, person, topic, portrait), concept=concept)
                entries.append(Entry(id, group, task, question, pair))
    return entries


def _row(world: World, person: Person, entries: list[Entry], taught: list[Question]) -> Values:
    lessons = {mode: [q for q in taught if q.modality == mode] for mode in ("image", "text")}
    return {
        "ID": person.id, "image": world.cell(person.portrait(0)), "Biography": repr(profile(person)),
        "MM_QA": _lesson(lessons["image"]), "UM_QA": _lesson(lessons["text"]),
        **{column: repr({
            half: _keyed([e for e in entries if (e.task, e.question.modality) == (task, mode)])
            for half, mode in (("unimodal", "text"), ("muitimodal", "image"))
        }) for task, column in TASKS},
    }  # fmt: skip


def _keyed(entries: list[Entry]) -> Values:
    """As the original's code expects it: a choice is answered by its letter and text."""
    return {entry.id.split("/")[3]: _item(entry) for entry in entries}


def _item(entry: Entry) -> Values:
    asked = entry.question
    if not asked.options:
        return {"question": asked.prompt, "answer": asked.answer}
    options = dict(zip("ABCD", asked.options, strict=True))
    return {"question": asked.prompt, "options": options, "answer": f"{entry.letter}. {asked.answer}"}


def _lesson(questions: list[Question]) -> str:
    parts = {"question": [q.prompt for q in questions], "answer": [q.answer for q in questions]}
    return repr({part: {f"q{k}": text for k, text in enumerate(texts)} for part, texts in parts.items()})
