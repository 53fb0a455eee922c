"""CLEAR (arXiv 2410.18057), as ``mm/eval.py`` of somvy/multimodal_unlearning puts it: greedy, 300 new tokens.

Names and captions are asked with an image, and how likely the right answer, its paraphrase and the perturbed ones are,
each with the end of the turn. ``qa`` entries (TOFU's questions, text only) are not in that code; they are put and
scored like the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scipy.special import expit

from unsee.data.benchmark import Benchmark, Entry
from unsee.data.clear import CAPTION
from unsee.evaluation import clear_score, metrics, statistics
from unsee.evaluation.ask import End, Likelihood, Prompt
from unsee.evaluation.protocols import figures
from unsee.evaluation.protocols.plan import Ask, Figure, Item, Items, Setting
from unsee.evaluation.table import Better, Cell, Column

TOKENS = 300
ROWS = 300  # of each table, in the published code (ds_size)
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


def asks(benchmark: Benchmark, setting: Setting) -> list[Ask]:
    """One ask per entry; of those with an image in the original one to score its answers, and one without the image."""
    if not setting.original:
        return [Ask(e, _prompt(e.question.prompt, e, setting), TOKENS, _answers(e)) for e in benchmark.entries]
    return [ask for entry in (*benchmark.entries, *benchmark.beside) for ask in _original(entry, setting)]


def _original(entry: Entry, setting: Setting) -> list[Ask]:
    """A question of its own for each answer; none of a picture beyond the first rows of its table."""
    answers = _written(entry)
    if entry.question.image is None:
        return [Ask(entry, _prompt(entry.question.prompt, entry, setting), TOKENS, answers)]
    if entry.number >= ROWS:
        return []
    questions = [_drawn(entry, place, setting) for place in range(len(answers))]
    prompts = tuple(_prompt(question, entry, setting) for question in questions)
    blind = Ask(entry, _blind(questions[0], setting), TOKENS, variant="blind")
    return [Ask(entry, prompts[0], 0, answers, each=() if len(set(questions)) == 1 else prompts), blind]


def grade(ask: Ask, given: str, likelihoods: Sequence[Likelihood], setting: Setting) -> dict[str, float]:
    """ROUGE-L recall, and the probability of the right answer: by itself, or among the wrong ones of a name.

    The truth ratio too, where it is the item's own.
    """
    scores = {}
    if ask.tokens:
        scores["recall"] = metrics.overlap(ask.entry.question.answer, given).recall
    if likelihoods:
        right, wrong = likelihoods[0], likelihoods[2:]
        alone = ask.entry.task == "caption" or not wrong
        scores["probability"] = metrics.probability(right) if alone else clear_score.among(right, wrong)
        if wrong and not setting.original:
            scores["truth ratio"] = _rule(ask.entry)(clear_score.log_ratios([likelihoods[1]], [wrong])[0])
    return scores


def _rule(entry: Entry) -> Callable[[float], float]:
    return clear_score.forget_truth if entry.group == "forget" else clear_score.utility_truth


def report(models: Mapping[str, Items], name: str, setting: Setting) -> list[Figure]:
    """The published metrics, then the means they are made of, then both definitions of success."""
    items = models[name]
    means = [*figures.means(items, ("recall", "probability")), *_truth(items, setting)]
    published = [metric for metric in (_metric(means, *row) for row in METRICS) if metric]
    return [*published, *_quality(models, name, setting), *means, *figures.success(items)]


def _truth(items: Items, setting: Setting) -> list[Figure]:
    found = []
    for (group, task), ratios in _log_ratios(items, setting).items():
        values = {item.id: (_rule(item.ask.entry)(ratio), item.concept) for item, ratio in ratios}
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


def _drawn(entry: Entry, place: int, setting: Setting) -> str:
    """Of a caption the published code draws one of nine questions for each answer; as read each image has one."""
    if entry.task == "caption":
        return setting.chance("caption", entry.id, place).choice(CAPTION)
    return entry.question.prompt


def _answers(entry: Entry) -> tuple[str, ...]:
    """The right answer, its paraphrase (itself where there is none), the wrong ones."""
    right, options = entry.question.answer, entry.question.options
    return (right, entry.paraphrase or right, *(entry.perturbed or [o for o in options if o != right]))


def _written(entry: Entry) -> tuple[str, ...]:
    """The same to the letter of the table, and every option as a wrong one."""
    cells = entry.written
    return (cells.answer, cells.paraphrase or cells.answer, *(cells.options or cells.perturbed))


def _prompt(question: str, entry: Entry, setting: Setting) -> Prompt:
    image = entry.question.image
    end: End = "written" if setting.original else "token"
    if setting.layout == "chat":
        return Prompt(question, image, end=end, early=setting.original and image is not None)
    text = f"USER: <image>\n{question} ASSISTANT:" if image else f"USER: {question} ASSISTANT:"
    return Prompt(text, image, True, end=end)


def _blind(question: str, setting: Setting) -> Prompt:
    """What is left of the prompt, up to the answer, when its special tokens are dropped, the image's among them."""
    if setting.layout == "chat":
        return Prompt(question, bare=True)
    return Prompt(f"USER: \n{question} ASSISTANT: ", None, True)
