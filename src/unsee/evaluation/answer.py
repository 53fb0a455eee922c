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
from unsee.finetune import IGNORED, Tutor, encoded
from unsee.progress import progress
from unsee.vision.attention import attention_for
from unsee.vision.module import Pixels, Visual

NEW_TOKENS = 8


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
    rows = [tutor.prompt(q, len(seen.features[q.image.id]) if q.image else 0) for q in questions]
    order = sorted(range(len(questions)), key=lambda i: (questions[i].modality, len(rows[i])))
    said = [""] * len(questions)
    with progress("asking", len(questions)) as tick:
        for part in _batches(order, questions, batch):
            out = _generate(model, tutor, [rows[i] for i in part], [questions[i] for i in part], seen)
            for i, text in zip(part, out, strict=True):
                said[i] = text
            tick(sum(map(bool, said)))
    return said


def _batches(order: list[int], questions: Sequence[Question], size: int) -> list[list[int]]:
    """Images and plain text are not mixed in one batch."""
    groups = [[i for i in order if questions[i].modality == m] for m in ("image", "text")]
    return [g[s : s + size] for g in groups for s in range(0, len(g), size)]


def _generate(model: Any, tutor: Tutor, rows: list[list[int]], questions: list[Question], seen: Seen) -> list[str]:
    width = max(map(len, rows))
    pad = tutor.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    images = [q.image.id for q in questions if q.image]
    if images:
        features = [seen.features[i] for i in images]
        inputs["mm_encoder_outputs"] = encoded(features)
        grids = [g for i in images if (g := seen.grids[i]) is not None]
        if grids:
            inputs |= {"image_grid_thw": torch.cat(grids), "mm_token_type_ids": (ids == tutor.image_token).int()}
    elif hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None  # left over from the last batch with images
    out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return [t.strip() for t in tutor.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]


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
        images = [q.image.id for q in asked if q.image]
        rows = [
            tutor.row([_answered(q, c) for c in candidates[i]], len(seen.features[q.image.id]) if q.image else 0)
            for i, q in zip(part, asked, strict=True)
        ]
        grids = [g for i in images if (g := seen.grids[i]) is not None]
        inputs: dict[str, Any] = tutor.batch(rows, torch.cat(grids) if grids else None)
        labels = inputs.pop("labels")
        if images:
            features = [seen.features[i] for i in images]
            inputs["mm_encoder_outputs"] = encoded(features)
        logits = model(**inputs, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        for i, row, logit, label in zip(part, rows, logits, labels[:, 1:], strict=True):
            result[i] = _by_turn(row, logit, label)
    return result


def _by_turn(row: Any, logit: Tensor, label: Tensor) -> list[float]:
    where = (label != IGNORED).nonzero()[:, 0]
    scores = logit[where, label[where]]
    sizes = [len(a) for _, a in row.turns]
    return [s.mean().exp().item() for s in scores.split(sizes)]


def _answered(question: Question, answer: str) -> Question:
    return Question(question.concept, question.kind, question.topic, question.prompt, answer, question.image)
