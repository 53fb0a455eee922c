"""Answers other than the true ones, and what the model answers before it changes: shared by methods that need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unsee.concepts import Question
from unsee.errors import UnseeError
from unsee.rivals.job import Job, Scored
from unsee.rivals.loop import Places, Step, used
from unsee.rivals.material import Example
from unsee.rivals.method import Training
from unsee.vision.attention import attention_for

Answers = Mapping[str, Sequence[str]]  # of each topic, each once


def with_answers(examples: Sequence[Example], answers: Callable[[Question], Sequence[str]]) -> list[Example]:
    """The same questions, asked once for each of ``answers``, which stand in place of the true one."""

    def other(question: Question) -> list[Question]:
        return [replace(question, answer=a, form="generation", options=()) for a in answers(question)]

    return [replace(e, questions=tuple(new for q in e.questions for new in other(q))) for e in examples]


def refusing(job: Job, examples: Sequence[Example], refusal: str) -> list[Example]:
    """The same questions, all answered by ``refusal``. UnseeError: the model has no words for it."""
    tokenizer = job.processor.tokenizer
    tokens = tokenizer(refusal, add_special_tokens=False)["input_ids"]
    if not tokens or tokenizer.unk_token_id in tokens:
        raise UnseeError(
            f"the refusal '{refusal}' has words that the model's tokenizer does not know. Set refusal to an answer in "
            f"the model's own words."
        )
    return with_answers(examples, lambda _: [refusal])


def answers_of(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Topic → the answers to it. UnseeError: fewer than two, so that a question may have no other one."""
    found: dict[str, set[str]] = {}
    for question in (q for e in examples for q in e.questions):
        found.setdefault(question.topic, set()).add(question.answer)
    if len(set().union(*found.values())) < 2:
        raise UnseeError("no two answers differ, so no question can be given a wrong one: show more concepts.")
    return {topic: sorted(answers) for topic, answers in found.items()}


def others(question: Question, answers: Answers, n: int, rng: np.random.Generator) -> list[str]:
    """At most ``n`` wrong answers to a question by chance: of its topic, and of any where its topic has no other."""
    same = [a for a in answers.get(question.topic, ()) if a != question.answer]
    wrong = same or sorted({a for of in answers.values() for a in of} - {question.answer})
    return [wrong[i] for i in rng.permutation(len(wrong))[:n]]


def mismatched(job: Job, step: Step, answers: Answers, n: int, seed: int) -> list[Example]:
    """The images of a step to forget with answers that are not theirs, drawn for each image and step anew."""

    def drawn(place: int) -> list[Example]:
        rng = np.random.default_rng([seed, step.number, place])
        return with_answers([job.material.forget[place]], lambda question: others(question, answers, n, rng))

    return [example for place in step.forget for example in drawn(place)]


def before(
    job: Job, config: Training, places: Sequence[int], examples: Sequence[Example], of: Callable[[Scored], Tensor]
) -> dict[int, Tensor]:
    """``of`` the model as it is now, by the places of the examples: in the precision in which it will train."""
    kind = job.model.device.type
    with attention_for(job.model, config.bf16), torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
        return dict(zip(places, job.reference([examples[i] for i in places], of), strict=True))


def retained_logits(job: Job, config: Training, steps: Sequence[Step]) -> dict[int, Tensor]:
    """The logits of the retained examples that the steps will see: ``[tokens, vocabulary]`` each."""
    if not job.material.retain:
        raise UnseeError("nothing to retain was given, and this method holds on to it. Give retained images.")
    return before(job, config, used(steps, "retain"), job.material.retain, lambda scored: scored.logits)


def at(values: Mapping[int, Tensor], places: Places) -> Tensor:
    """What was computed for these places, in their order."""
    return torch.cat([values[i] for i in places])


def over_examples(each: Tensor, example: Tensor) -> Tensor:
    """Of one value an answer: mean over an example's answers, then over examples, so that parts of a batch add up."""
    counts = torch.bincount(example).to(each.dtype)
    return (each.new_zeros(len(counts)).index_add(0, example, each) / counts).mean()
