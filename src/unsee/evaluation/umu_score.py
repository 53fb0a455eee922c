"""UMU-Bench's scoring, rule by rule as its eval.py has it (NeurIPS 2025, QDRhhhh/UMU-bench at 93b9900).

Every question is asked with the image and in words alone, and only the two answers together count. Words of a
generated answer are compared by ``metrics.overlap``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from unsee.evaluation import mllmu_score

TIDY = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def before_stop(text: str) -> str:
    """What stands before the first full stop: all that counts of a cloze's truth, and of what Qwen2-VL writes."""
    return text.split(".")[0]


def option_right(truth: str, reply: str) -> bool:
    """The reply is the right option to the letter: the rule for fictitious people asked of LLaVA."""
    return reply == truth


def nearest(reply: str, options: Sequence[str]) -> str:
    """The option most like the reply by difflib, the first of equals: the rule for real people, and for Qwen2-VL.

    An empty reply is like none, and thus takes the first option.
    """
    likeness = [difflib.SequenceMatcher(None, reply, option).ratio() for option in options]
    return options[likeness.index(max(likeness))]


def cloze_right(truth: str, reply: str, published: bool = False) -> bool:
    """``published``: the blank before a full stop ("Paris .") is part of the truth."""
    start = before_stop(truth)
    return mllmu_score.cloze_right(start if published else start.strip(), reply)


def tidied(text: str) -> str:
    """No blanks before marks, as the published code has the tokenizer leave none (clean_up_tokenization_spaces)."""
    for spaced, close in TIDY:
        text = text.replace(spaced, close)
    return text


def retained(image: bool, text: bool) -> bool:
    """Right with the image and in words: else a question of the people kept counts as lost."""
    return image and text


def forgotten(image: bool, text: bool) -> bool:
    """Wrong with the image and in words: else a question of the people forgotten counts as known."""
    return not image and not text


def retained_overlap(image: float, text: float) -> float:
    """2ab/(a + b) of the two ROUGE-L: near the smaller one. Higher is better."""
    return 2 * image * text / (image + text) if image + text else 0.0


def forgotten_overlap(image: float, text: float) -> float:
    """(a² + b²)/(a + b) of the two ROUGE-L: near the larger one. Lower is better."""
    return (image * image + text * text) / (image + text) if image + text else 0.0
