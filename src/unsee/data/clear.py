"""CLEAR (arXiv 2410.18057) as on the hub: 200 fictitious authors, images with captions, and questions from TOFU.

Known from its code: configs and columns. Open: whether the text rows of ``…+tofu`` say whose they are. Where they have
no ``name``, each is of whom it names in full; one that names nobody is, as in TOFU where every 20 are one author's, of
whom its 20 name most. An author's id is the name. Open too: whether the right answer of ``real_faces`` and
``real_world`` is among their ``options``; it is put there if it is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from datasets import Image, List

from unsee.concepts import Concept, Question
from unsee.data.benchmark import Benchmark, Entry, Group, Task
from unsee.data.parquet import Source
from unsee.data.people import ATTRIBUTES, Person, Portrait, strangers, test_views, train_views
from unsee.data.rows import Asked, text, verbatim
from unsee.data.stored import Columns, StoredImage, Table, Values
from unsee.data.world import TEXT, Layout, World

HUB = "therem/CLEAR"
SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
SEEN: Columns = {"image": "image", "caption": "text", "name": "text"}
MIXED: Columns = {"image": "image", "caption": "text", "question": "text", "answer": "text"}
PERTURBED: Columns = {**SEEN, "paraphrased_caption": "text", "perturbed_captions": "texts", "perturbed_names": "texts"}
CONFIGS: dict[str, Columns] = {
    "full": SEEN,
    "full+tofu": MIXED,
    **{config: SEEN for pair in SPLITS.items() for config in pair},
    **{f"{config}+tofu": MIXED for pair in SPLITS.items() for config in pair},
    **{f"{split}_perturbed": PERTURBED for split in SPLITS},
    "retain_perturbed": PERTURBED,
    "real_faces": {"image": "image", "answer": "text", "options": "texts"},
    "real_world": {"image": "image", "question": "text", "answer": "text", "options": "texts"},
}
AUTHOR = 20  # TOFU's questions on one author
NAME = "The name of the person on the image is "
CAPTION = (  # the original draws one by chance; here row after row takes the next
    "What can you see in this picture?", "Tell me about the content of this image",
    "Can you give a description of the image?", "What is depicted in the image?",
    "Explain what you observe in the picture.", "Describe the image in detail.",
    "What is the main subject of this image?", "Can you describe the scene or objects in the image?",
    "What is happening in this image?",
)  # fmt: skip


def read(source: Source, split: str) -> Benchmark:
    """One split; what is wrong is left in ``source.findings``."""
    tables = {config: source.open(config, columns) for config, columns in CONFIGS.items() if _of(split, config)}
    concepts = _concepts(source, tables["full"])
    forget, retain = (tuple(dict.fromkeys(_names(tables[config]))) for config in (split, SPLITS[split]))
    pictured = [*_pictured(source, tables["retain_perturbed"], "retain", retain, concepts)]
    entries = [
        *_pictured(source, tables[f"{split}_perturbed"], "forget", forget, concepts),
        *_written(source, tables[f"{split}+tofu"], "forget", forget),
        *(entry for entry in pictured if entry.question.concept in retain),
        *_written(source, tables[f"{SPLITS[split]}+tofu"], "retain", retain),
        *_chosen(source, tables["real_faces"], "faces", "name"),
        *_chosen(source, tables["real_world"], "world", "qa"),
    ]
    taught = tuple(_taught(source, tables["full+tofu"], list(concepts)))
    names = {id: id for id in concepts}  # CLEAR has no other ids
    beside = tuple(entry for entry in pictured if entry.question.concept not in retain)
    return Benchmark("clear", split, concepts, forget, retain, tuple(entries), taught, names=names, beside=beside)


def _of(split: str, config: str) -> bool:
    number = config.removesuffix("+tofu").removesuffix("_perturbed")
    return number in (split, SPLITS[split]) or number not in {*SPLITS, *SPLITS.values()}


def _names(table: Table | None) -> list[str]:
    """Of each row."""
    return [text(row["name"]) for row in table.rows] if table else []


def _concepts(source: Source, table: Table | None) -> dict[str, Concept]:
    images: dict[str, dict[str, StoredImage]] = {}
    if table is None:
        return {}
    for number, name in enumerate(_names(table)):
        if not name:
            source.report(table.config, number + 1, "the name is empty", "Download it again.")
            continue
        images.setdefault(name, {}).update((i.id, i) for i in source.images(table, number, "image", name))
    return {name: Concept(name, tuple(found.values())) for name, found in images.items()}


def _image(source: Source, table: Table, number: int, owner: str) -> StoredImage | None:
    return next(iter(source.images(table, number, "image", owner)), None)


def _pictured(
    source: Source, table: Table | None, group: Group, only: Sequence[str], known: Collection[str]
) -> Iterator[Entry]:
    """Of every image its caption and the name of the person; of the retained also who is in no set of this split."""
    if table is None:
        return
    _even(source, table, "perturbed_captions", "perturbed_names")
    for number, row in enumerate(table.rows):
        name = text(row["name"])
        asked = Asked(source, table.config, str(number + 1), group, name, {"Name": name})
        if name not in only and (group == "forget" or name not in known):  # others are kept in another split
            asked.left_out(f"{name!r} is not among the people of this split")
            continue
        image = _image(source, table, number, name)
        if image is None:
            continue
        prompt, again, wrong = CAPTION[number % len(CAPTION)], row["paraphrased_caption"], row["perturbed_captions"]
        yield from asked.entry(
            f"{name}/caption/{number}", "caption", prompt, row["caption"], image, number=number, paraphrase=again,
            perturbed=wrong,
        )  # fmt: skip
        yield from asked.entry(
            f"{name}/name/{number}", "name", NAME, row["name"], image, number=number, perturbed=row["perturbed_names"]
        )


def _written(source: Source, table: Table | None, group: Group, names: Sequence[str]) -> Iterator[Entry]:
    """The questions without an image."""
    if table is None:
        return
    for number, row, owner in _text_rows(table, names):
        asked = Asked(source, table.config, str(number + 1), group, owner, {})
        yield from asked.entry(f"{owner}/qa/{number}", "qa", row["question"], row["answer"], None)


def _chosen(source: Source, table: Table | None, group: Group, task: Task) -> Iterator[Entry]:
    """Real people and things, with wrong answers beside the right one."""
    if table is None:
        return
    _even(source, table, "options")
    for number, row in enumerate(table.rows):
        answer, options = text(row["answer"]), _texts(row, "options")
        concept, facts = (f"faces-{answer}", {"Name": answer}) if group == "faces" else (f"world-{number + 1:04d}", {})
        image = _image(source, table, number, concept)
        if image is None:
            continue
        asked = Asked(source, table.config, str(number + 1), group, concept, facts)
        wrong = tuple(option for option in options if option != answer)
        place = options.index(answer) if answer in options else number % (len(wrong) + 1)
        given = NAME if group == "faces" else row["question"], row["answer"], image
        for entry in asked.entry(f"{number}/{task}", task, *given, number=number, perturbed=wrong):
            shown = (*wrong[:place], answer, *wrong[place:]) if wrong else ()
            cells = replace(entry.written, options=verbatim(row["options"]))
            yield replace(entry, question=replace(entry.question, options=shown), cells=cells)


def _taught(source: Source, table: Table | None, names: Sequence[str]) -> Iterator[Question]:
    if table is None:
        return
    owners = {number: owner for number, _, owner in _text_rows(table, names)}
    for number, row in enumerate(table.rows):
        owner = owners.get(number, "") or text(row.get("name"))
        asked = Asked(source, table.config, str(number + 1), "retain", owner, {"Name": owner})
        image = None if number in owners else _image(source, table, number, owner)
        if image is None:
            question = asked.question("qa", row["question"], row["answer"], None)
        else:
            question = asked.question("caption", CAPTION[number % len(CAPTION)], row["caption"], image)
        if question:
            yield question


def _text_rows(table: Table | None, names: Sequence[str]) -> list[tuple[int, Values, str]]:
    """Number, values and author of the rows without an image."""
    rows = (
        [(n, row) for n, row in enumerate(table.rows) if table and not any(table.encoded(n, "image"))] if table else []
    )
    named = [text(row.get("name")) or _named(names, row) for _, row in rows]
    if len(rows) % AUTHOR == 0:
        blocks = [named[start : start + AUTHOR] for start in range(0, len(rows), AUTHOR)]
        named = [name or _often(block) for block in blocks for name in block]
    return [(n, row, owner) for (n, row), owner in zip(rows, named, strict=True)]


def _often(names: Sequence[str]) -> str:
    return max((name for name in names if name), key=names.count, default="")


def _named(names: Sequence[str], row: Values) -> str:
    """The longest of the names that stand in question and answer as whole words."""
    said = f"{row['question']} {row['answer']}"
    found = [name for name in names if name in said and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)]
    return max(found, key=len, default="")


def _even(source: Source, table: Table, *columns: str) -> None:
    """CLEAR's own code puts the lists of a batch side by side, which must be as long as each other for that."""
    for column in columns:
        lengths = sorted({len(row[column] or ()) for row in table.rows})
        if len(lengths) > 1:
            what = f"'{column}' has {' or '.join(map(str, lengths))} texts a row: CLEAR's own code cannot batch them"
            source.report(table.config, "", what, "Go on: each row is scored with what it has.", minor=True)


def _texts(row: Values, column: str) -> tuple[str, ...]:
    return tuple(found for cell in row[column] or () if (found := text(cell)))


FEATURES = {"image": Image(), "caption": TEXT, "name": TEXT}
BOTH = {**FEATURES, "question": TEXT, "answer": TEXT}
WRONG = {**FEATURES, "paraphrased_caption": TEXT, "perturbed_captions": List(TEXT), "perturbed_names": List(TEXT)}
CHOSEN = {"image": Image(), "question": TEXT, "answer": TEXT, "options": List(TEXT)}
WRONG_NAMES = 5
SAID = "This is {name} . The hair is {hair} , the clothes are {clothes} , the background is {background} ."
SAID_AGAIN = "{name} is in the picture , with {hair} hair and {clothes} clothes . The colour behind is {background} ."


def export(world: World) -> Layout:
    """The embedded people in this layout, each in several pictures; ``real_world`` asks how strangers look."""
    pictured = {p.name: [_seen_row(world, p, v) for v in train_views(p, world.views)] for p in world.people}
    written = {
        p.name: [{"question": q.prompt, "answer": q.answer} for q in world.lesson(p, None)] for p in world.people
    }
    faces = [world.put("classification", p, "name", p.portrait(0)) for p in world.celebrities]
    every = [p.name for p in world.people]
    kept = [p.name for p in world.retain(10)]  # of every split
    tables: dict[str, tuple[Values, list[Values]]] = {
        "default": (FEATURES, _rows(FEATURES, pictured, every)),
        "full": (FEATURES, _rows(FEATURES, pictured, every)),
        "full+tofu": (BOTH, [*_rows(BOTH, pictured, every), *_rows(BOTH, written, every)]),
        "retain_perturbed": (WRONG, _rows(WRONG, pictured, kept)),
        "real_faces": (CHOSEN, [_chosen_row(world, question) for question in faces]),
        "real_world": (CHOSEN, [_chosen_row(world, question) for question in _looks(world)]),
    }
    for split, rest in SPLITS.items():
        percent = int(split.removeprefix("forget"))
        for config, who in ((split, world.forget(percent)), (rest, world.retain(percent))):
            names = [p.name for p in who]
            tables[config] = (FEATURES, _rows(FEATURES, pictured, names))
            tables[f"{config}+tofu"] = (BOTH, [*_rows(BOTH, pictured, names), *_rows(BOTH, written, names)])
        tables[f"{split}_perturbed"] = (WRONG, _rows(WRONG, pictured, [p.name for p in world.forget(percent)]))
    chosen = [*_of_chosen("faces", "name", faces), *_of_chosen("world", "qa", _looks(world))]
    concepts = {name: Concept(name, tuple(row["portrait"] for row in rows)) for name, rows in pictured.items()}
    taught = _of_taught(pictured, written)
    benchmarks = {}
    for split in SPLITS:
        percent = int(split.removeprefix("forget"))
        forget, retain = (tuple(p.name for p in who) for who in (world.forget(percent), world.retain(percent)))
        entries = [
            *_of_pictured("forget", pictured, forget), *_of_written("forget", pictured, written, forget),
            *_of_pictured("retain", pictured, kept), *_of_written("retain", pictured, written, retain), *chosen,
        ]  # fmt: skip
        benchmarks[split] = Benchmark("clear", split, concepts, forget, retain, tuple(entries), taught)
    return Layout(tables, benchmarks)


Rows = Mapping[str, list[Values]]


def _of_pictured(group: Group, rows: Rows, names: Sequence[str]) -> Iterator[Entry]:
    for number, row in enumerate(row for name in names for row in rows[name]):
        name, image, perturbed = row["name"], row["portrait"], tuple(row["perturbed_captions"])
        caption = Question(name, "fact", "", CAPTION[number % len(CAPTION)], row["caption"], image)
        who = Question(name, "identity", "name", NAME, name, image)
        again = row["paraphrased_caption"]
        yield Entry(f"{group}/{name}/caption/{number}", group, "caption", caption, "", again, perturbed, number)
        yield Entry(
            f"{group}/{name}/name/{number}", group, "name", who, perturbed=tuple(row["perturbed_names"]), number=number
        )


def _of_written(group: Group, pictured: Rows, rows: Rows, names: Sequence[str]) -> Iterator[Entry]:
    first = sum(len(pictured[name]) for name in names)
    owned = [(owner, row) for owner in names for row in rows[owner]]
    for number, (name, row) in enumerate(owned, start=first):
        question = Question(name, "fact", "", row["question"], row["answer"])
        yield Entry(f"{group}/{name}/qa/{number}", group, "qa", question)


def _of_chosen(group: Group, task: Task, questions: Sequence[Question]) -> Iterator[Entry]:
    for number, q in enumerate(questions):
        asked = (
            replace(q, concept=f"faces-{q.answer}", prompt=NAME, form="generation")
            if group == "faces"
            else replace(q, concept=f"world-{number + 1:04d}", kind="fact", topic="", form="generation")
        )
        wrong = tuple(option for option in q.options if option != q.answer)
        yield Entry(f"{group}/{number}/{task}", group, task, asked, perturbed=wrong, number=number)


def _of_taught(pictured: Rows, written: Rows) -> tuple[Question, ...]:
    shown = [row for rows in pictured.values() for row in rows]
    return (
        *(
            Question(row["name"], "fact", "", CAPTION[n % len(CAPTION)], row["caption"], row["portrait"])
            for n, row in enumerate(shown)
        ),
        *(Question(name, "fact", "", row["question"], row["answer"]) for name, rows in written.items() for row in rows),
    )


def _rows(features: Values, rows: Mapping[str, list[Values]], names: Sequence[str]) -> list[Values]:
    """The columns of ``features``; empty where a row has no such cell."""
    return [{column: row.get(column) for column in features} for name in names for row in rows[name]]


def _seen_row(world: World, person: Person, portrait: Portrait) -> Values:
    """A picture with its caption, and captions that are wrong in one thing."""
    looks = {"name": person.name} | {
        topic: getattr(portrait.view, topic) for topic in ("hair", "clothes", "background")
    }
    others = [p.name for p in world.people if p is not person]
    rng = np.random.default_rng([world.seed, person.block, portrait.number])
    names = [others[i] for i in rng.permutation(len(others))[:WRONG_NAMES]]
    wrong = [looks | {"name": names[0]}, *(looks | {t: _another(t, looks[t])} for t in ("hair", "clothes"))]
    return {
        "image": world.cell(portrait), "portrait": portrait, "caption": SAID.format(**looks), "name": person.name,
        "paraphrased_caption": SAID_AGAIN.format(**looks), "perturbed_names": names,
        "perturbed_captions": [SAID.format(**w) for w in wrong],
    }  # fmt: skip


def _another(topic: str, value: str) -> str:
    values = ATTRIBUTES[topic]
    return values[(values.index(value) + 1) % len(values)]


def _looks(world: World) -> list[Question]:
    """As many options of each: CLEAR's own code batches no others."""
    topics, few = list(ATTRIBUTES), min(4, *map(len, ATTRIBUTES.values()))
    asked = [
        world.put("classification", stranger, topics[i % len(topics)], view)
        for i, stranger in enumerate(strangers(len(world.celebrities), "test"))
        for view in test_views(stranger, 1)
    ]
    return [replace(question, options=_first_of(question, few)) for question in asked]


def _first_of(question: Question, few: int) -> tuple[str, ...]:
    """The right option and the first wrong ones, in their order."""
    wrong = [option for option in question.options if option != question.answer][: few - 1]
    return tuple(option for option in question.options if option in (question.answer, *wrong))


def _chosen_row(world: World, question: Question) -> Values:
    image = world.cell(question.image) if question.image else None
    return {"image": image, "question": question.prompt, "answer": question.answer, "options": list(question.options)}
