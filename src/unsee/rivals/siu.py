"""SIU: one image of each forgotten concept is given new answers, while all else that the model would say is held.

Four kinds of examples (arXiv 2405.12523): the image is met as one of somebody unseen; it is described anew; what is
known of the concept by name stays; so does what is known of others. All are learned by cross-entropy, and held to the
model before by a divergence that leaves out new words of answers and, in the vocabulary, the words of forgotten names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unsee.concepts import UNKNOWN, Question
from unsee.errors import UnseeError
from unsee.rivals.job import Job
from unsee.rivals.loop import Step, schedule, train, used
from unsee.rivals.material import Example
from unsee.rivals.method import Choice, Method, Real, Training

SETS = ("forget", "retain", "forget_text")


@dataclass(frozen=True)
class Config(Training):
    lr: float = 3e-4
    steps: int = 6
    answer_weight: float = 0.9
    """of the cross-entropy"""
    hold_weight: float = 0.75
    """of the dual masked divergence"""
    images: int = 1
    """of each forgotten concept"""
    preserved: int = 4
    """retained images for each forgotten one"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 1 or self.preserved < 1:
            raise UnseeError(f"images is {self.images}, preserved {self.preserved}; at least one of each.")


def dual_masked_kl(logits: Tensor, reference: Tensor, tokens: Tensor, words: Tensor) -> Tensor:
    """KL(reference ‖ model) of each token, without the words that are masked; zero for a token that is.

    ``logits`` and ``reference`` (log-probabilities) [tokens, vocabulary]; ``tokens`` and ``words``: True where kept.
    """
    each = reference.exp() * (reference - logits.log_softmax(-1))
    return (each * words).sum(-1) * tokens


def forget(job: Job, config: Config) -> None:
    given, rng = job.material, np.random.default_rng([config.seed, 17])
    if not given.retain or not given.forget_text:
        raise UnseeError("SIU preserves retained images and what is known by name, and the material lacks them.")
    old = few_images(given.forget, config.images, rng)
    new = tuple(renewed(e, given.retain, rng) for e in old)
    kept = rng.permutation(len(given.retain))[: config.preserved * len(old)]
    chosen = replace(given, forget=new, retain=tuple(given.retain[i] for i in kept), neutral=(), text=())
    steps, words = schedule(chosen, config), kept_words(job, given.forget)
    examples: dict[str, Sequence[Example]] = {name: getattr(chosen, name) for name in SETS}
    before = {**examples, "forget": old}
    held = {name: references(job, examples[name], before[name], used(steps, name)) for name in SETS}

    def losses(step: Step) -> dict[str, Tensor]:
        return {n: loss(job, config, words, *_of(getattr(step, n), examples[n], held[n])) for n in SETS}

    with job.training(config, "language") as parameters:
        train(job, config, parameters, losses, steps=steps)


def loss(
    job: Job, config: Config, words: Tensor, examples: Sequence[Example], reference: Tensor, tokens: Tensor
) -> Tensor:
    """Cross-entropy of the answers, and the divergence from the model before."""
    scored = job.scores(examples)
    drift = scored.mean(dual_masked_kl(scored.logits, reference, tokens, words))
    return config.answer_weight * scored.loss() + config.hold_weight * drift


def few_images(examples: Sequence[Example], most: int, rng: np.random.Generator) -> tuple[Example, ...]:
    """So many of each concept, by chance."""
    seen: dict[str, list[Example]] = {}
    for i in rng.permutation(len(examples)):
        seen.setdefault(examples[i].concept, []).append(examples[i])
    return tuple(e for concept in sorted(seen) for e in seen[concept][:most])


def renewed(example: Example, retain: Sequence[Example], rng: np.random.Generator) -> Example:
    """Who it is becomes unknown, as of somebody unseen; other questions are answered as of a retained concept."""

    def answer(question: Question) -> str:
        others = {q.answer for e in retain for q in e.questions if q.topic == question.topic} - {question.answer}
        new = question.kind != "identity" and others
        return str(rng.choice(sorted(others))) if new else UNKNOWN

    asked = tuple(replace(q, answer=answer(q), form="generation", options=()) for q in example.questions)
    return replace(example, questions=asked)


def kept_words(job: Job, forgotten: Sequence[Example]) -> Tensor:
    """``[vocabulary]``: False for the tokens of forgotten names."""
    names = {q.answer for e in forgotten for q in e.questions if q.kind == "identity"}
    words = torch.ones(job.model.get_output_embeddings().out_features, dtype=torch.bool)
    words[[t for name in sorted(names) for t in job.tutor.answer(name)[:-1]]] = False
    return words.to(job.model.device)


def kept_tokens(job: Job, example: Example, before: Example) -> Tensor:
    """Of each token of the answers, in order: False for those that the answers before did not have."""
    kept = []
    for new, old in zip(example.questions, before.questions, strict=True):
        known = set(job.tutor.answer(old.answer))
        kept += [token in known for token in job.tutor.answer(new.answer)]
    return torch.tensor(kept, device=job.model.device)


def references(
    job: Job, examples: Sequence[Example], before: Sequence[Example], places: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor]]:
    """By place: log-probabilities ``[tokens, vocabulary]`` of the model as it is now, and which tokens are kept."""
    found = job.reference([examples[i] for i in places], lambda scored: scored.logits.log_softmax(-1))
    tokens = [kept_tokens(job, examples[i], before[i]) for i in places]
    return dict(zip(places, zip(found, tokens, strict=True), strict=True))


def _of(
    places: Sequence[int], examples: Sequence[Example], held: Mapping[int, tuple[Tensor, Tensor]]
) -> tuple[list[Example], Tensor, Tensor]:
    logs, tokens = zip(*(held[i] for i in places), strict=True)
    return [examples[i] for i in places], torch.cat(logs), torch.cat(tokens)


METHOD = Method(
    name="siu",
    title="SIU",
    paper="arXiv 2405.12523",
    kind="weights",
    trains="language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "hold_weight": Real(0.1, 3), "images": Choice((1, 5, 20))},
    needs=("forget questions", "retain questions", "text"),
    note="The paper's four kinds of examples, written by hand there, are made of the material: who a forgotten image "
    "shows becomes 'unknown', which is what this model says of unseen people (the paper: a made-up name); its other "
    "questions are answered as of a retained concept (a new description); questions by name keep their answers; so do "
    "retained images. The token mask leaves out those words of new answers that the old ones did not have.",
)
