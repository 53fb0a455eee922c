"""Ask a model: greedy answers by ``generate`` with left padding, and the probability of given answers.

An image is encoded once, whatever the number of questions about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unsee.concepts import ImageRef, Question
from unsee.finetune import IGNORED, Row, Tutor, encoded, placed
from unsee.progress import progress
from unsee.vision.attention import attention_for
from unsee.vision.module import Pixels, Visual

NEW_TOKENS = 8  # of an answer, at most; more where a true one among those asked about is longer
LEAST_SPREAD = 1e-6  # variance below which a model is sure of a token (OpenUnlearning's min_k_plus_plus.py)


@dataclass
class Seen:
    """Encoded images: what the language model receives of each."""

    features: dict[str, Tensor]
    grids: dict[str, Tensor | None]


@torch.no_grad()
def look(model: Any, processor: Any, pixels: dict[str, Pixels], batch: int = 64) -> Seen:
    """Image features of every image in ``pixels``, by its id."""
    visual = Visual(model, processor)
    features: dict[str, Tensor] = {}
    ids = list(pixels)
    with attention_for(model, training=False):
        for start in range(0, len(ids), batch):
            part = ids[start : start + batch]
            features |= dict(zip(part, visual.features([pixels[i] for i in part]), strict=True))
    return Seen(features, {i: pixels[i].get("image_grid_thw") for i in ids})


def open_images(visual: Visual, questions: Sequence[Question], drawn: Any = None) -> dict[str, Pixels]:
    """Every image asked about through the processor, once, by its id. ``drawn``: loads many images at once."""
    refs: dict[str, ImageRef] = {q.image.id: q.image for q in questions if q.image is not None}
    images = drawn(list(refs.values())) if drawn else list(refs.values())
    return dict(zip(refs, visual.pixels(images), strict=True))


@torch.no_grad()
def answers(model: Any, processor: Any, questions: Sequence[Question], seen: Seen, batch: int = 128) -> list[str]:
    """The greedy answer to each question, in the order given."""
    tutor = Tutor(model, processor)
    # Eight tokens of "Arla natural mild low-fat yoghurt", whatever the model knows, are a wrong answer.
    tokens = max([NEW_TOKENS, *(len(tutor.answer(q.answer)) for q in questions)])
    rows = [tutor.prompt(q, len(seen.features[q.image.id]) if q.image else 0) for q in questions]
    order = sorted(range(len(questions)), key=lambda i: (questions[i].modality, len(rows[i])))
    said = [""] * len(questions)
    with progress("asking", len(questions)) as tick:
        for part in _batches(order, questions, batch):
            out = _generate(model, tutor, [rows[i] for i in part], [questions[i] for i in part], seen, tokens)
            for i, text in zip(part, out, strict=True):
                said[i] = text
            tick(sum(map(bool, said)))
    return said


def _batches(order: list[int], questions: Sequence[Question], size: int) -> list[list[int]]:
    """Images and plain text are not mixed in one batch."""
    groups = [[i for i in order if questions[i].modality == m] for m in ("image", "text")]
    return [g[s : s + size] for g in groups for s in range(0, len(g), size)]


def _generate(
    model: Any, tutor: Tutor, rows: list[list[int]], questions: list[Question], seen: Seen, tokens: int
) -> list[str]:
    return greedy(model, tutor, rows, *_shown(questions, seen), tokens)


def _shown(questions: Sequence[Question], seen: Seen) -> tuple[list[Tensor], list[Tensor]]:
    """What the questions' images are to the language model: features, and grids where it asks for them."""
    images = [q.image.id for q in questions if q.image]
    return [seen.features[i] for i in images], [g for i in images if (g := seen.grids[i]) is not None]


def greedy(
    model: Any, tutor: Tutor, rows: Sequence[list[int]], features: list[Tensor], grids: list[Tensor], tokens: int
) -> list[str]:
    """The likeliest continuation of each row, ``tokens`` tokens at most. ``features``: of each row's image, if any."""
    inputs = padded(model, tutor, rows, features, grids)
    out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    new = out[:, inputs["input_ids"].shape[1] :]
    return [t.strip() for t in tutor.tokenizer.batch_decode(new, skip_special_tokens=True)]


def padded(
    model: Any, tutor: Tutor, rows: Sequence[list[int]], features: list[Tensor], grids: list[Tensor]
) -> dict[str, Any]:
    """Rows padded on the left, and their images, as ``model.generate`` takes them."""
    width = max(map(len, rows))
    ids = torch.tensor([[tutor.pad] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if features:
        inputs["mm_encoder_outputs"] = encoded(features)
        if grids:
            inputs |= {"image_grid_thw": torch.cat(grids), "mm_token_type_ids": (ids == tutor.image_token).int()}
    elif hasattr(inner := getattr(model, "model", model), "rope_deltas"):
        inner.rope_deltas = None  # left over from the last batch with images
    return placed(model, inputs)


@torch.no_grad()
def probabilities(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    candidates: Sequence[Sequence[str]],
    seen: Seen,
    batch: int = 32,
) -> list[list[float]]:
    """Per question the length-normalised probability (geometric mean over tokens, end included) of each candidate."""
    tutor = Tutor(model, processor)
    result: list[list[float]] = [[] for _ in questions]
    order = sorted(range(len(questions)), key=lambda i: questions[i].modality)
    for part in _batches(order, questions, batch):
        asked = [questions[i] for i in part]
        rows = [
            tutor.row([_answered(q, c) for c in candidates[i]], len(seen.features[q.image.id]) if q.image else 0)
            for i, q in zip(part, asked, strict=True)
        ]
        for i, turns in zip(part, likelihoods(model, tutor, rows, *_shown(asked, seen)), strict=True):
            result[i] = [scores.mean().exp().item() for scores, *_ in turns]
    return result


def likelihoods(
    model: Any, tutor: Tutor, rows: Sequence[Row], features: list[Tensor], grids: list[Tensor]
) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """By row and turn, of the answer's tokens, end included: log-probability, whether likeliest, and ``scaled``."""
    inputs: dict[str, Any] = tutor.batch(rows, torch.cat(grids) if grids else None)
    labels = inputs.pop("labels")[:, 1:]
    inputs["attention_mask"] = inputs["attention_mask"].to(model.dtype)
    if features:
        inputs["mm_encoder_outputs"] = encoded(features)
    # Logits of a large vocabulary weigh more than the model's activations: only where an answer stands in some row.
    columns = (labels != IGNORED).any(0).nonzero()[:, 0]
    inputs["logits_to_keep"] = columns
    logits = model(**placed(model, inputs), use_cache=False).logits.float().log_softmax(-1).cpu()
    return [_by_turn(*of) for of in zip(rows, logits, labels[:, columns], strict=True)]


def _by_turn(row: Row, logit: Tensor, label: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    where = (label != IGNORED).nonzero()[:, 0]
    scores, hits = logit[where, label[where]], logit[where].argmax(-1) == label[where]
    sizes = [len(answer) for _, answer in row.turns]
    parts = (of.split(sizes) for of in (scores, hits, scaled(logit[where], scores)))
    return list(zip(*parts, strict=True))


def scaled(logprobs: Tensor, scores: Tensor) -> Tensor:
    """``scores`` less the mean log-probability, in standard deviations, of each row [tokens, vocabulary] of it."""
    p = logprobs.exp()
    mean, square = ((p * of).nan_to_num(0.0).sum(-1) for of in (logprobs, logprobs.square()))  # p = 0 counts nothing
    return (scores - mean) / (square - mean.square()).clamp(min=LEAST_SPREAD).sqrt()


def _answered(question: Question, answer: str) -> Question:
    return Question(question.concept, question.kind, question.topic, question.prompt, answer, question.image)
