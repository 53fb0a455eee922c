"""MLLMU-Bench (arXiv 2410.22108), as ``eval.py`` of franciscoliu/MLLMU-Bench puts it; greedy, 50 new tokens.

Classification with one example person, cloze with two, generation with none. The published code looks for the examples
of celebrities in Full_Set, where they are not, so that they are asked without. Prompts of other families than LLaVA
are not published (but Idefics2's): those get the same words in their own chat format, without examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unsee.data.benchmark import Benchmark, Entry
from unsee.errors import UnseeError
from unsee.evaluation import mllmu_score
from unsee.evaluation.ask import Likelihood, Prompt
from unsee.evaluation.metrics import overlap
from unsee.evaluation.protocols import figures
from unsee.evaluation.protocols.plan import Ask, Figure, Items, Setting, lettered

TOKENS = 50
SHOTS = {"classification": 1, "cloze": 2}
EXAMPLE_OPTIONS = 4  # that the published code shows
WITH_SHOTS = ("forget", "retain", "test")
SCORES = ("accuracy", "rouge1", "rouge2", "rougeL", "bleu")
LETTER = "Just give ONE letter representing the answer directly."
BLANK = "Please **ONLY** provide the correct answer that should replace the [Blank]."
SENTENCE = "Answer the question based on your trained knowledge in one sentence accurately in ENGLISH."
TEXT_SENTENCE = "Answer the question based on your trained knowledge in one sentence in ENGLISH."

LEGEND = (
    "accuracy: first letter of the answer, or for cloze the truth anywhere in it. rouge1, rouge2, rougeL: F-measure, "
    "stemmed. bleu: smoothed.",
)


def asks(benchmark: Benchmark, setting: Setting) -> list[Ask]:
    """One ask per entry that is evaluated."""
    entries = _one_picture(benchmark.entries, setting) if setting.original else list(benchmark.entries)
    if setting.layout == "chat":
        return [Ask(e, Prompt(_words(e, setting), e.question.image), TOKENS) for e in entries]
    shots = _drawn_anew(benchmark, setting) if setting.original else _kept_apart(benchmark, setting)
    return [Ask(e, _raw(e, shots.of(e), setting), TOKENS) for e in entries if not shots.skips(e)]


def grade(ask: Ask, given: str, likelihoods: Sequence[Likelihood], setting: Setting) -> dict[str, float]:
    """First letter, substring, or ROUGE and BLEU."""
    entry, written = ask.entry, ask.entry.written
    truth = written.answer if setting.original else entry.question.answer
    if entry.task == "classification":
        said, letter = mllmu_score.reply(f"ASSISTANT:{given}", "classification"), _letter(entry, setting)
        return {"accuracy": float(mllmu_score.letter_right(letter, said, len(entry.question.options)))}
    said = mllmu_score.reply(f"ASSISTANT:{given}", "cloze" if entry.task == "cloze" else "generation")
    if entry.task == "cloze":
        return {"accuracy": float(mllmu_score.cloze_right(truth, said))}
    found = overlap(truth, said)
    return {"rouge1": found.rouge1, "rouge2": found.rouge2, "rougeL": found.rougeL, "bleu": found.bleu}


def report(models: Mapping[str, Items], name: str, setting: Setting) -> list[Figure]:
    """Means, and both definitions of success."""
    return [*figures.success(models[name]), *figures.means(models[name], SCORES)]


Examples = dict[tuple[str, str, str], list[Entry]]


@dataclass(frozen=True)
class _Shots:
    """``shown``: (group, task, modality) → the examples. ``apart``: who is evaluated nowhere."""

    shown: Examples
    apart: frozenset[str] = frozenset()

    def of(self, entry: Entry) -> Sequence[Entry]:
        return self._shown(entry) if entry.group in WITH_SHOTS else ()

    def skips(self, entry: Entry) -> bool:
        """Those of people kept apart; or, of the examples' people, what stands where an example stood."""
        if self.apart:
            return entry.question.concept in self.apart
        own = (entry.question.concept, entry.number)
        return any((shot.question.concept, shot.number) == own for shot in self._shown(entry))

    def _shown(self, entry: Entry) -> Sequence[Entry]:
        return self.shown.get((entry.group, entry.task, entry.question.modality), ())


def _shown(source: Sequence[Entry], group: str, task: str, people: Sequence[str]) -> Examples:
    """All that is asked of these people in that task, in the order of the source."""
    shots = [shot for shot in source if shot.task == task and shot.question.concept in people]
    return {(group, task, m): [s for s in shots if s.question.modality == m] for m in ("image", "text")}


def _kept_apart(benchmark: Benchmark, setting: Setting) -> _Shots:
    """The same two retained people everywhere: nothing forgotten stands in a prompt, and forget is asked whole."""
    known = {entry.question.concept for entry in benchmark.shots}
    retained = [concept for concept in benchmark.retain if concept in known]
    most = max(SHOTS.values())
    if len(retained) <= most:
        raise UnseeError(
            f"{benchmark.name} {benchmark.split}: {len(retained)} retained people stand in the few-shot source, and "
            f"{most} of them are needed beside those evaluated. Download Full_Set and the retain split, or use strict."
        )
    drawn = setting.chance("shots").sample(retained, most)
    shown: Examples = {}
    for group in benchmark.groups:
        for task, number in SHOTS.items():
            shown |= _shown(benchmark.shots, group, task, drawn[:number])
    return _Shots(shown, frozenset(drawn))


def _drawn_anew(benchmark: Benchmark, setting: Setting) -> _Shots:
    shown: Examples = {}
    for group, entries in benchmark.groups.items():
        ids = list(dict.fromkeys(entry.question.concept for entry in entries))
        for task, number in SHOTS.items():
            people = setting.chance("shots", group, task).sample(ids, min(number, len(ids)))
            shown |= _shown(benchmark.shots, group, task, people)
    return _Shots(shown)


def _one_picture(entries: Sequence[Entry], setting: Setting) -> list[Entry]:
    """Of each test person and task one picture, drawn by chance."""
    seen: dict[tuple[str, str], dict[str, None]] = {}
    for entry in entries:
        if entry.group == "test" and entry.question.image:
            seen.setdefault((entry.question.concept, entry.task), {})[entry.question.image.id] = None
    chosen = {key: setting.chance("picture", *key).choice(list(images)) for key, images in seen.items()}

    def stays(entry: Entry) -> bool:
        image = entry.question.image
        return entry.group != "test" or not image or image.id == chosen[entry.question.concept, entry.task]

    return [entry for entry in entries if stays(entry)]


def _letter(entry: Entry, setting: Setting) -> str:
    """Of the right option; in the original all that stands for it in the table."""
    return entry.written.answer if setting.original else entry.letter


def _options(entry: Entry, setting: Setting, most: int | None = None) -> str:
    return lettered(entry.written.options[:most] if setting.original else entry.question.options)


def _words(entry: Entry, setting: Setting) -> str:
    """The question and what is asked for, without what shows whose turn it is."""
    asked = entry.question
    if entry.task == "classification":
        return f"{asked.prompt}\n{_options(entry, setting)}\n{LETTER}"
    if entry.task == "cloze":
        return f"{asked.prompt.replace('__', '[Blank]')}\n{BLANK}"
    return f"{asked.prompt}\n{SENTENCE if asked.image else TEXT_SENTENCE}"


def _raw(entry: Entry, shots: Sequence[Entry], setting: Setting) -> Prompt:
    image, words = entry.question.image, _words(entry, setting)
    if entry.task == "generation":  # the published prompt about an image ends with a blank
        return Prompt(f"USER: <image>\n{words}\nASSISTANT: " if image else f"USER: {words}\nASSISTANT:", image, True)
    turn = f"USER: <image>\n{words}\nASSISTANT:" if image else f"USER:\n{words}\nASSISTANT:"
    before = tuple(shot.question.image for shot in shots if shot.question.image)
    return Prompt("".join(_example(shot, setting) for shot in shots) + turn, image, True, before)


def _example(shot: Entry, setting: Setting) -> str:
    """Cloze examples with an image have no blank after ``USER:``, as published."""
    asked = shot.question
    if shot.task == "classification":
        start = "USER: <image>" if asked.image else "USER:"
        told = f"{_options(shot, setting, EXAMPLE_OPTIONS)}\nCorrect Answer: {_letter(shot, setting)}\n"
        return f"{start}\nQuestion: {asked.prompt}\n{told}"
    answer = shot.written.answer if setting.original else asked.answer
    return f"USER:{'<image>' if asked.image else ''}\n{_words(shot, setting)}\nCorrect Answer: {answer}\n"
