"""UMU-Bench (NeurIPS 2025 Datasets and Benchmarks), as ``eval.py`` of QDRhhhh/UMU-bench puts it: greedy, no examples.

50 new tokens, 200 for generation; in another family's chat format 128, as its code for Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from unsee.data.benchmark import Benchmark, Entry
from unsee.data.rows import LETTERS
from unsee.evaluation import umu_score
from unsee.evaluation.ask import Likelihood, Prompt
from unsee.evaluation.metrics import overlap
from unsee.evaluation.protocols import figures, mllmu
from unsee.evaluation.protocols.plan import Ask, Figure, Item, Items, Setting
from unsee.evaluation.table import Better, Cell, Column

TOKENS = {"classification": 50, "cloze": 50, "generation": 200}
CHAT_TOKENS = 128
CHOICES = 4  # options that the published code reads: A to D
ONLY = "Please **ONLY** provide the correct answer without any explanation"
SENTENCE = "Answer the question based on your trained knowledge in one sentence accurately in ENGLISH."
TEXT_SENTENCE = "Answer the question based on your trained knowledge in one sentence in ENGLISH."

LEGEND = (
    "both: of the forgotten, known with the image or by name, and for generation (a² + b²)/(a + b) of the two ROUGE-L; "
    "of the others known with the image and by name, and for generation 2ab/(a + b).",
)
Rule = Callable[[float, float], float]
FORGET_RULES: tuple[Rule, Rule] = (
    lambda image, text: 1.0 - umu_score.forgotten(image > 0, text > 0),
    umu_score.forgotten_overlap,
)
RETAIN_RULES: tuple[Rule, Rule] = (
    lambda image, text: float(umu_score.retained(image > 0, text > 0)),
    umu_score.retained_overlap,
)


def asks(benchmark: Benchmark, setting: Setting) -> list[Ask]:
    """One ask per entry; in the original of those in pairs, with the truth that its code takes."""
    entries = _original(benchmark.entries) if setting.original else benchmark.entries
    if setting.layout == "chat":
        return [Ask(e, Prompt(_chat(e), e.question.image), CHAT_TOKENS) for e in entries]
    return [Ask(e, Prompt(_raw(e), e.question.image, True), TOKENS[e.task]) for e in entries]


def _original(entries: Sequence[Entry]) -> Iterator[Entry]:
    by_id = {entry.id: entry for entry in entries}
    for entry in entries:
        if other := by_id.get(entry.pair):
            yield _as_written(entry, other)


def _as_written(entry: Entry, other: Entry) -> Entry:
    """To the letter of the table; of a choice four options, and the truth by the letter of the question in words."""
    cells, asked = entry.written, entry.question
    if entry.task != "classification":
        return replace(entry, question=replace(asked, answer=cells.answer))
    named = other if asked.image else entry
    right = dict(zip(LETTERS, cells.options, strict=False)).get(named.written.answer.split(".")[0], "")
    options = cells.options[:CHOICES]
    return replace(entry, question=replace(asked, answer=right, options=options, form="generation"))


def grade(ask: Ask, given: str, likelihoods: Sequence[Likelihood], setting: Setting) -> dict[str, float]:
    """The option itself, substring, or ROUGE and BLEU. In the raw format the answer ends at a second ASSISTANT:."""
    entry, chat = ask.entry, setting.layout == "chat"
    truth, options = entry.question.answer, entry.question.options
    said = umu_score.tidied(given) if chat else given.partition("ASSISTANT:")[0].strip()
    if entry.task == "classification":
        said = umu_score.nearest(said, options) if chat or entry.group == "real" else said
        return {"accuracy": float(umu_score.option_right(truth, said))}
    said = umu_score.before_stop(said) if chat else said
    if entry.task == "cloze":
        return {"accuracy": float(umu_score.cloze_right(truth, said, setting.original))}
    found = overlap(truth, said)
    return {"rouge1": found.rouge1, "rouge2": found.rouge2, "rougeL": found.rougeL, "bleu": found.bleu}


def report(models: Mapping[str, Items], name: str, setting: Setting) -> list[Figure]:
    """Both definitions of success, what counts of both modalities together, its averages, then each modality."""
    items = models[name]
    both = list(_both(items))
    averages = [
        _average(both, ("forget",), "forget average both", "lower"),
        _average(both, ("retain", "real"), "utility average both", "higher"),
    ]
    return [*figures.success(items), *(a for a in averages if a), *both, *figures.means(items, mllmu.SCORES)]


def _both(items: Items) -> Iterator[Figure]:
    """Of each group and task: known in either modality of the forgotten, in both of the others."""
    parts: dict[tuple[str, str], list[tuple[Item, Item]]] = {}
    for image, text in _pairs(items):
        parts.setdefault((image.ask.entry.group, image.ask.entry.task), []).append((image, text))
    for (group, task), pairs in parts.items():
        forget = group in figures.FORGOTTEN
        rule = FORGET_RULES[task == "generation"] if forget else RETAIN_RULES[task == "generation"]
        values = {a.id: (rule(a.main or 0.0, b.main or 0.0), a.concept) for a, b in pairs}
        key = f"{group} {task} both"
        yield Figure(Column(key.replace(" ", "_"), key, "lower" if forget else "higher"), values)


def _pairs(items: Items) -> Iterator[tuple[Item, Item]]:
    by_id = {item.ask.entry.id: item for item in items}
    for item in items:
        if item.ask.entry.question.image and item.ask.entry.pair in by_id:
            yield item, by_id[item.ask.entry.pair]


def _average(both: Sequence[Figure], groups: Sequence[str], key: str, direction: Better) -> Figure | None:
    """The plain mean of the figures of all tasks and groups, as in the paper's tables."""
    means = [
        sum(value for value, _ in figure.values.values()) / len(figure.values)
        for figure in both
        if figure.column.title.split()[0] in groups
    ]
    return (
        Figure(Column(key.replace(" ", "_"), key, direction), cell=Cell(round(sum(means) / len(means), 6)))
        if means
        else None
    )


def _chat(entry: Entry) -> str:
    asked = entry.question
    if entry.task == "classification":
        return f"{asked.prompt}\nSelect answer in {list(asked.options)}"
    return f"{asked.prompt}\n{ONLY if entry.task == 'cloze' else SENTENCE}"


def _raw(entry: Entry) -> str:
    """Line breaks and blanks are the published ones, which differ from task to task."""
    asked = entry.question
    words = _chat(entry)
    if entry.task == "generation" and not asked.image:
        words = f"{asked.prompt}\n{TEXT_SENTENCE}"
    start = "USER: <image>\n" if asked.image else "USER:\n" if entry.task == "classification" else "USER: "
    return f"{start}{words}\nASSISTANT:" + (" " if entry.task == "generation" and asked.image else "")
