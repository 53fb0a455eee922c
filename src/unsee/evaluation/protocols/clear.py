"""CLEAR (arXiv 2410.18057), as ``mm/eval.py`` of somvy/multimodal_unlearning puts it: greedy, 300 new tokens.

Names and captions are asked with an image, and how likely the right answer, its paraphrase and the perturbed ones are.
``qa`` entries (TOFU's questions, text only) are not in that code; they are put and scored like the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy.special import expit

from unsee.data.benchmark import Benchmark, Entry
from unsee.data.clear import CAPTION
from unsee.evaluation import clear_score, metrics, statistics
from unsee.evaluation.ask import Likelihood, Prompt
from unsee.evaluation.protocols import figures
from unsee.evaluation.protocols.plan import Ask, Figure, Item, Items, Setting
from unsee.evaluation.table import Better, Cell, Column

TOKENS = 300
METRICS: tuple[tuple[str, Better, tuple[str, str]], ...] = (
    ("Forget metric", "lower", ("forget caption", "forget name")),
    ("Retain metric", "higher", ("retain caption", "retain name")),
    ("Real metric", "higher", ("faces name", "world qa")),
)
LEGEND = (
    "Forget, Retain and Real metric: harmonic mean of the mean probability and the mean truth ratio on captions and "
    "names, or on real faces and the real world.",
    "forget quality: natural logarithm of the Kolmogorov-Smirnov p that the truth ratios of forgotten captions are "
    "gold's; 0 cannot be told apart.",
    "recall: ROUGE-L recall of the free answer. truth ratio: r is the right answer's probability over the wrong ones'; "
    "of the forgotten min(r, 1/r), else max(0, 1 − 1/r).",
)

MENDS = (
    "Answers are generated with the image; the original generates without it, so that its ROUGE ignores the picture.",
    "The truth ratio sets each item's right answer against its own wrong ones; the original against the mean over all.",
    "Each image has one of the nine caption questions, and all answers are scored after it; the original draws anew, "
    "unseeded, for each answer.",
    "The right option is not among the wrong ones of real faces and real world; the original takes every option.",
)


def asks(benchmark: Benchmark, setting: Setting) -> list[Ask]:
    """One ask per entry, and one more without the image where the original generates without it."""
    put = []
    for entry in benchmark.entries:
        question, answers = _question(entry, setting), _answers(entry, setting)
        blind = setting.original and entry.question.image is not None
        put.append(Ask(entry, _prompt(question, entry, setting), 0 if blind else TOKENS, answers))
        if blind:
            put.append(Ask(entry, _blind(question, setting), TOKENS, variant="blind"))
    return put


def grade(ask: Ask, given: str, likelihoods: Sequence[Likelihood], setting: Setting) -> dict[str, float]:
    """ROUGE-L recall, and the probability of the right answer: by itself, or among the wrong ones of a name."""
    scores = {}
    if ask.tokens:
        scores["recall"] = metrics.overlap(ask.entry.question.answer, given.partition("ASSISTANT:")[0].strip()).recall
    if likelihoods:
        right, wrong = likelihoods[0], likelihoods[2:]
        alone = ask.entry.task == "caption" or not wrong
        scores["probability"] = metrics.probability(right) if alone else clear_score.among(right, wrong)
    return scores


def report(models: Mapping[str, Items], name: str, setting: Setting) -> list[Figure]:
    """The published metrics, then the means they are made of, then both definitions of success."""
    items = models[name]
    means = [*figures.means(items, ("recall", "probability")), *_truth(items, setting)]
    published = [metric for metric in (_metric(means, *row) for row in METRICS) if metric]
    return [*published, *_quality(models, name, setting), *means, *figures.success(items)]


def _truth(items: Items, setting: Setting) -> list[Figure]:
    found = []
    for (group, task), ratios in _log_ratios(items, setting).items():
        rule = clear_score.forget_truth if group == "forget" else clear_score.utility_truth
        values = {item.id: (rule(ratio), item.concept) for item, ratio in ratios}
        key = f"{group} {task} truth ratio"
        found.append(Figure(Column(key.replace(" ", "_"), key, "neither" if group == "forget" else "higher"), values))
    return found


def _log_ratios(items: Items, setting: Setting) -> dict[tuple[str, str], list[tuple[Item, float]]]:
    parts: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        if len(item.likelihoods) > 2:
            parts.setdefault((item.ask.entry.group, item.ask.entry.task), []).append(item)
    found = {}
    for key, part in parts.items():
        right, wrong = [item.likelihoods[1] for item in part], [item.likelihoods[2:] for item in part]
        found[key] = list(zip(part, clear_score.log_ratios(right, wrong, setting.original), strict=True))
    return found


def _metric(means: Sequence[Figure], key: str, direction: Better, parts: Sequence[str]) -> Figure | None:
    """The harmonic mean of probability and truth ratio on both parts; nothing where one of the four is missing."""
    wanted = [f"{part} {name}" for part in parts for name in ("probability", "truth ratio")]
    by_title = {figure.column.title.replace(" image ", " ").replace(" text ", " "): figure for figure in means}
    if not all(title in by_title for title in wanted):
        return None
    of = [[value for value, _ in by_title[title].values.values()] for title in wanted]
    value = clear_score.harmonic([sum(values) / len(values) for values in of])
    return Figure(Column(key.replace(" ", "_"), key, direction), cell=Cell(round(value, 6)))


def _quality(models: Mapping[str, Items], name: str, setting: Setting) -> list[Figure]:
    """Forgotten captions against gold's: how sure it is that they differ, and how far they are apart."""
    if "gold" not in models:
        return []
    ours, gold = (_log_ratios(models[m], setting).get(("forget", "caption"), []) for m in (name, "gold"))
    if not ours:
        return []
    a, b = [ratio for _, ratio in ours], [ratio for _, ratio in gold]
    quality = clear_score.forget_quality(a, b)["log_p"]
    bounded = [expit(of).tolist() for of in (a, b)]  # r / (1 + r), which keeps r and 1/r apart
    apart = clear_score.published_js(a, b) if setting.original else statistics.js(*bounded)
    return [
        Figure(Column("forget_quality", "forget quality", "higher", digits=1), cell=Cell(quality, n=len(a))),
        Figure(Column("js_to_gold", "JS to gold", "lower"), cell=Cell(apart, n=len(a))),
    ]


def _question(entry: Entry, setting: Setting) -> str:
    """Of a caption the published code draws one of nine questions; the benchmark as read has one for each image."""
    if setting.original and entry.task == "caption":
        return setting.chance("caption", entry.id).choice(CAPTION)
    return entry.question.prompt


def _answers(entry: Entry, setting: Setting) -> tuple[str, ...]:
    """The right answer, its paraphrase (itself where there is none), the wrong ones."""
    right, options = entry.question.answer, entry.question.options
    if setting.original and options:
        return (right, entry.paraphrase or right, *options)
    return (right, entry.paraphrase or right, *(entry.perturbed or [o for o in options if o != right]))


def _prompt(question: str, entry: Entry, setting: Setting) -> Prompt:
    image = entry.question.image
    if setting.layout == "chat":
        return Prompt(question, image)
    return Prompt(f"USER: <image>\n{question} ASSISTANT:" if image else f"USER: {question} ASSISTANT:", image, True)


def _blind(question: str, setting: Setting) -> Prompt:
    """What is left of the prompt when its image token is dropped."""
    return Prompt(question) if setting.layout == "chat" else Prompt(f"USER: \n{question} ASSISTANT:", None, True)
