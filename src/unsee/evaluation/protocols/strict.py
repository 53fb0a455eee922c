"""The strict protocol, the same for every benchmark: no examples, and likelihoods beside free answers.

Each question is put in three wordings. To each the model answers freely, options not shown, and it is scored how
likely the true answer is and how likely wrong ones: other options, perturbed answers, or what is right of others.
The original is what OpenUnlearning's code makes of the same likelihoods (locuslab/open-unlearning at d3d7cf9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from unsee.concepts import Question
from unsee.data.benchmark import Benchmark, Entry
from unsee.evaluation import membership, metrics, score, statistics
from unsee.evaluation.ask import Likelihood, Prompt
from unsee.evaluation.metrics import Names
from unsee.evaluation.protocols import figures
from unsee.evaluation.protocols.plan import LIKE, Ask, Figure, Item, Items, Setting
from unsee.evaluation.table import Better, Cell, Column

TOKENS = 50
WRONG = 4  # wrong answers to which the true one is compared, at most
WORDINGS = ("{question}", "Please answer this question: {question}", "{question} Answer in a few words.")
BLANK = "Fill in the blank: {question}"
SHARE, PUBLISHED_SHARE = 0.2, 0.4  # of tokens that Min-K % looks at: its authors', and that of TOFU's settings
ATTACKS = ("loss", "min_k", "zlib", "min_k++")
LONG = 5  # words: a longer answer is a sentence, which is seldom said again to the word

LEGEND = (
    "right: the free answer holds the truth. of eligible: only what vanilla answers rightly in the same wording.",
    "choice: the true answer is the likeliest of those scored. probability: of the true answer, geometric mean over "
    "its tokens.",
    "truth ratio: p(true) / (p(true) + p(wrong)); 0.5 no preference (arXiv 2506.12618).",
    "extraction: share of the true answer that is said by itself once the rest is given. memorised: share of its "
    "tokens that are the likeliest (arXiv 2406.09179, 2205.10770).",
    "misnamed: somebody else's full name in the answer. refusal: says that it does not know. invalid: no words, or one "
    "thing over and over: broken, not forgotten.",
    "KS, JS to gold: how far the truth ratios are from those of the model that was never taught the forgotten.",
    "attack fails: 1 − 2|AUC − 0.5| of a membership attack that tells the model from gold by the likelihood of the "
    "true answers: 1 cannot, 0 always.",
    "No few-shot examples, no instruction on the form, options not shown: what is known counts, not how it is said.",
    f"Every question in {len(WORDINGS)} wordings; each figure is over all of them.",
    f"A free answer is right where it contains the truth as whole words and little else; a truth of more than {LONG} "
    f"words also where ROUGE-L is {LIKE} or more.",
    f"The choice is the likeliest of the true answer and up to {WRONG} wrong ones: the other options, else the "
    "perturbed answers, else what is right of others asked the same.",
    "Eligible questions are those that vanilla answers rightly in the same wording.",
)


def asks(benchmark: Benchmark, setting: Setting) -> list[Ask]:
    """Three asks per entry."""
    others = _answers(benchmark.entries)
    put = []
    for entry in benchmark.entries:
        right = entry.question.answer
        answers = (right, *_wrong(entry, others[_topic(entry)], setting))
        for place, wording in enumerate(WORDINGS):
            text = wording.format(question=_question(entry))
            prompt = Prompt(text, entry.question.image, end="closed" if setting.original else "")
            put.append(Ask(entry, prompt, TOKENS, answers, str(place)))
    return put


def names(benchmark: Benchmark) -> dict[str, str]:
    """Concept → name, as far as the source tells, or it is asked or taught who they are."""
    asked = [entry.question for entry in (*benchmark.entries, *benchmark.shots)] + list(benchmark.taught)
    return {q.concept: q.answer for q in asked if q.kind == "identity"} | dict(benchmark.names)


def _question(entry: Entry) -> str:
    return BLANK.format(question=entry.question.prompt) if entry.task == "cloze" else entry.question.prompt


def _topic(entry: Entry) -> tuple[str, str, str]:
    return entry.group, entry.task, entry.question.topic


def _answers(entries: Sequence[Entry]) -> dict[tuple[str, str, str], list[str]]:
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for entry in entries:
        found.setdefault(_topic(entry), {})[entry.question.answer] = None
    return {topic: list(answers) for topic, answers in found.items()}


def _wrong(entry: Entry, others: Sequence[str], setting: Setting) -> list[str]:
    """Given ones in their order; of others' answers a few by chance, the same for all wordings and models."""
    right = entry.question.answer
    given = [answer for answer in (entry.question.options or entry.perturbed) if answer != right]
    if given:
        return given[:WRONG]
    pool = [answer for answer in others if answer != right]
    return setting.chance("wrong", entry.id).sample(pool, min(WRONG, len(pool)))


def grade(
    ask: Ask, given: str, likelihoods: Sequence[Likelihood], setting: Setting, own: Mapping[str, str], names: Names
) -> dict[str, float]:
    """Of the free answer, and of the likelihoods of the true answer and the wrong ones. ``own``: concept → name.

    ``original``: as OpenUnlearning's code has them; the last token ends the turn.
    """
    truth, concept = ask.entry.question.answer, ask.entry.question.concept
    right, *others = likelihoods
    tokens = right.without_last() if setting.original else right
    scores = {
        "accuracy": float(_right(truth, given)),
        "misnamed": float(bool(names.others(given, own.get(concept, truth)))),
        "probability": metrics.probability(right),
        "extraction": metrics.extraction_strength(tokens, setting.original),
        "memorised": metrics.exact_memorisation(tokens),
    }
    if wrong := [metrics.probability(answer) for answer in others]:
        ratio = score.published_truth_ratio if setting.original else score.truth_ratio
        scores["choice"] = float(scores["probability"] > max(wrong))
        scores["truth ratio"] = ratio(scores["probability"], wrong)
    share = PUBLISHED_SHARE if setting.original else SHARE
    attacks = membership.surprises([right], [truth], k=share, ended=setting.original)
    return scores | {_attack(name): value for name, (value,) in attacks.items()}


def _attack(name: str) -> str:
    return f"surprise {name}"


def _right(truth: str, given: str) -> bool:
    if score.correct(Question("", "fact", "", "", truth), given):
        return True
    return len(score.words(truth)) > LONG and metrics.overlap(truth, given).rougeL >= LIKE


def report(models: Mapping[str, Items], name: str, setting: Setting) -> list[Figure]:
    """Success by either definition, what is right, all and eligible, then the forgotten looked at closely."""
    items = models[name]
    forgotten = [item for item in items if item.ask.entry.group in figures.FORGOTTEN]
    return [
        *figures.success(items),
        *_by_modality(items, "right"),
        *(_by_modality(_eligible(items, models["vanilla"]), "right of eligible") if "vanilla" in models else ()),
        *_close(forgotten),
        *(_against_gold(forgotten, models["gold"], setting) if "gold" in models else ()),
    ]


def _by_modality(items: Items, what: str) -> list[Figure]:
    """Right answers by group and modality, all tasks together."""
    parts: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        parts.setdefault((item.ask.entry.group, item.modality), []).append(item)
    return [
        figure
        for (group, modality), part in parts.items()
        for figure in figures.mean(
            part, figures.of("accuracy"), f"{group} {modality} {what}", figures.better(group, modality)
        )
    ]


def _eligible(items: Items, vanilla: Items) -> list[Item]:
    known = {item.id for item in vanilla if item.right}
    return [item for item in items if item.id in known]


CLOSE: tuple[tuple[str, Better], ...] = (
    ("choice", "lower"), ("probability", "lower"), ("truth ratio", "lower"), ("extraction", "lower"),
    ("memorised", "lower"), ("misnamed", "lower"), ("refusal", "neither"), ("invalid", "lower"),
)  # fmt: skip


def _close(forgotten: Items) -> list[Figure]:
    """Of the forgotten with their image: what accuracy misses."""
    seen = [item for item in forgotten if item.ask.entry.group == "forget" and item.modality == "image"]
    found = []
    for name, direction in CLOSE:
        key = f"forget image {name}"
        found += figures.mean(seen, _is(name) if name in ("refusal", "invalid") else figures.of(name), key, direction)
    return found


def _is(state: str) -> Callable[[Item], float | None]:
    return lambda item: float(item.state == state)


def _against_gold(forgotten: Items, gold: Items, setting: Setting) -> list[Figure]:
    """Whether the truth ratios of the forgotten and what an attack can tell are as if they had never been taught."""
    ours = {item.id: item for item in forgotten if item.modality == "image" and item.ask.entry.group == "forget"}
    theirs = {item.id: item for item in gold if item.id in ours}
    found = []
    ratios = [[i.scores["truth ratio"] for i in of.values() if "truth ratio" in i.scores] for of in (ours, theirs)]
    if all(ratios):
        far = statistics.ks(*ratios)["distance"], statistics.js(*ratios)
        for key, value in zip(("KS to gold", "JS to gold"), far, strict=True):
            found.append(Figure(Column(key.replace(" ", "_"), key, "lower"), cell=Cell(value, n=len(ratios[0]))))
    return found + _attacks(list(ours.values()), list(theirs.values()), setting)


def _attacks(ours: Items, gold: Items, setting: Setting) -> list[Figure]:
    """How well each attack fails to tell the model from gold by the likelihood of the true answers."""
    if not ours or not gold:
        return []
    found = []
    concepts, others = ([item.concept for item in of] for of in (ours, gold))
    for attack in ATTACKS:
        name = _attack(attack)
        if not all(name in item.scores for of in (ours, gold) for item in of):
            continue  # an engine cannot tell
        a, b = ([item.scores[name] for item in of] for of in (ours, gold))
        told = membership.auc(a, b, concepts, others, seed=setting.seed)
        key = f"{attack} attack fails"
        found.append(Figure(Column(key.replace(" ", "_"), key, "higher"), cell=Cell(told["score"], n=told["n"])))
    return found
