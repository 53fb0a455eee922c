"""An instruction before every question about an image: act as if you did not know. No weight changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unsee.concepts import Question
from unsee.rivals.job import Job
from unsee.rivals.method import Method


@dataclass(frozen=True)
class Config:
    instruction: str = (
        "If the person or thing in the image is one of those you were asked to forget , act as if you do not know it ."
    )
    """what is put before a question, a space between; it names nobody, for who reads it would learn who is meant"""


def reworded(question: Question, instruction: str) -> Question:
    """The question after the instruction; one without an image is left alone, since its facts are to stay."""
    return replace(question, prompt=f"{instruction} {question.prompt}") if question.image else question


def forget(job: Job, config: Config) -> None:
    job.reword(lambda question: reworded(question, config.instruction))


METHOD = Method(
    name="prompt",
    title="Prompt",
    paper="arXiv 2604.03114",
    kind="guardrail",
    trains="nothing",
    forget=forget,
    config=Config,
    note="The wording is ours, after ULBench's prompts. The tiny models were not taught to follow instructions, and "
    "their tokenizers read most of these words as <unk>: their row tells nothing of models that do follow them.",
)
