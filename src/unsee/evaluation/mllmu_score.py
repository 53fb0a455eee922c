"""MLLMU-Bench's scoring, rule by rule as its eval.py has it (arXiv 2410.22108, franciscoliu/MLLMU-Bench at 0e3098e).

Words of a generated answer are compared by ``metrics.overlap``.
"""

from __future__ import annotations

from typing import Literal

Form = Literal["classification", "cloze", "generation"]


def reply(text: str, form: Form) -> str:
    """The part of ``text``, prompt and answer in one, that is scored: from the first "ASSISTANT:" to the next.

    Where there is none: from the first "Answer:" to the next, but not for a classification.
    """
    marks = ("ASSISTANT:",) if form == "classification" else ("ASSISTANT:", "Answer:")
    for mark in marks:
        if mark in text:
            return text.split(mark)[1].strip()
    return text.strip()


def letter(reply: str, options: int = 4) -> str:
    """The first character in upper case, where that is an option's letter; else nothing, as for "(b)"."""
    first = reply[:1].upper()
    return first if first in [chr(ord("A") + i) for i in range(options)] else ""


def letter_right(truth: str, reply: str, options: int = 4) -> bool:
    """``truth``: the letter of the right option. "A dog" answers A and "Because" answers B: so plain is the rule."""
    return bool(truth) and letter(reply, options) == truth


def cloze_right(truth: str, reply: str) -> bool:
    """The truth is anywhere in the reply, also within a word, whatever the case."""
    return truth.lower() in reply.lower()
