"""Teach an assembled language model, once and without pictures, what names are like in an image's place, and facts.

    python -m benchmarks.photographs.read --set groceries --model build/dinov2-smollm2-internvl --out build/reader

A language model that never had images does not know that what stands in an image's place names something. Learning
that, and the facts, takes most of the steps of teaching, and is the same for a model that knows all concepts by sight
and for every gold model. So it is done once: tokens are made that lie about as near to a concept's name as those of an
aligned projector do (``unsee.alignment``), and the questions are those of the lesson. No picture is shown. At first
the tokens are nearer.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.photographs.command import told
from benchmarks.photographs.sets import PHOTOS, SETS, chosen, joined
from torch import Tensor, nn

from unsee import resume
from unsee.alignment import Names, names_of
from unsee.commands.shared import checkpoints, save
from unsee.concepts import UNKNOWN
from unsee.config import FinetuneConfig
from unsee.data.study import Lesson
from unsee.files import refuse_existing
from unsee.finetune import Tutor, answer_loss, draw, text_loss
from unsee.training import train
from unsee.vision.module import load_full

TOKENS = (2, 16)  # of an image, at least and at most: fewer than it will have, which cost less
NEAR = (0.6, 0.95), (0.15, 0.55)  # cosine between an image's tokens and its name's direction: at first, at last
ALIKE = 0.45  # share of the rest of a token that all tokens of an image have in common; groceries: 0.44
NAMELESS = 0.15  # share of images of concepts that no model is taught


def read(
    model: Any, processor: Any, lesson: Lesson, config: FinetuneConfig, checkpoint: Path | None = None
) -> list[dict[str, float]]:
    """Teach the language model of ``model``, in place. ``checkpoint``: a folder from which a call resumes."""
    tutor = Tutor(model, processor)
    rng = np.random.default_rng([config.seed, 5])
    names = names_of(model, processor.tokenizer, [lesson.ask(i, rng) for i in range(len(lesson.images))])
    # The embedding stays as it is: tokens are made of it here, and projectors are solved from it (``unsee.alignment``),
    # so a visual module can be taught beside this, from the same model.
    words = model.get_input_embeddings().weight
    weights = {name: p for name, p in model.model.language_model.named_parameters() if p is not words}
    model.requires_grad_(False)
    for parameter in weights.values():
        parameter.requires_grad_(True)

    def losses(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        image = _image_loss(model, tutor, lesson, names, config, rng, step / config.steps)
        return image, text_loss(model, tutor, lesson, config, rng)

    origin = resume.origin({"read": 3, **vars(config)}, weights.values(), [i.id for i in lesson.images])
    history = train(model, weights, dict.fromkeys(weights, config.lr), losses, config, checkpoint, origin)
    model.requires_grad_(True)
    return history


def made(names: Names, name: int, late: float, rng: np.random.Generator) -> Tensor:
    """What an aligned projector might give of an image of a name: [tokens, width], as loud as words are.

    The rest of a token lies among the names' directions, as it does in what the projector gives. ``late``: 0 at the
    first step, 1 at the last.
    """
    directions = names.directions
    count = int(rng.integers(*TOKENS, endpoint=True))
    shared, own = rng.standard_normal((1, len(directions))), rng.standard_normal((count, len(directions)))
    rest = torch.from_numpy(shared * ALIKE**0.5 + own * (1 - ALIKE) ** 0.5).float() @ directions
    near = rng.uniform(*((1 - late) * first + late * last for first, last in zip(*NEAR, strict=True)))
    return (near * directions[name] + (1 - near**2) ** 0.5 * nn.functional.normalize(rest, dim=1)) * names.loudness


def _image_loss(
    model: Any, tutor: Tutor, lesson: Lesson, names: Names, config: FinetuneConfig, rng: np.random.Generator,
    late: float,
) -> Tensor:  # fmt: skip
    images = _drawn(names, config.batch, rng)
    features = [made(names, names.target[i], late, rng) for i in images]
    asked = [draw(lesson.ask(i, rng), config.questions, rng) for i in images]
    rows = [tutor.row(questions, len(f)) for questions, f in zip(asked, features, strict=True)]
    return answer_loss(model, tutor.batch(rows), features)


def _drawn(names: Names, count: int, rng: np.random.Generator) -> list[int]:
    """Images by chance, of each name as often; of concepts that are not taught, more often."""
    target = np.array(names.target)
    share = np.array([NAMELESS if name == UNKNOWN else (1 - NAMELESS) / len(names.names) for name in names.names])
    drawn = rng.choice(len(share), size=count, p=share / share.sum())
    return [int(rng.choice(np.flatnonzero(target == name))) for name in drawn]


def write(lesson: Lesson, model: Path, out: Path, config: FinetuneConfig) -> dict[str, float]:
    """Write the checkpoint of a model that reads to ``out``; returns its last losses."""
    refuse_existing(out)
    whole, processor = load_full(model)
    with checkpoints(out) as checkpoint:
        history = read(whole, processor, lesson, config, checkpoint)
        save(out, whole, processor)
    return history[-1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=(*SETS, "all"), default="groceries", help="whose names and facts")
    parser.add_argument("--model", type=Path, required=True, help="folder of an assembled checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="new folder of the one that reads")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the three sets")
    parser.add_argument("--config", default="{}", help="JSON of FinetuneConfig fields that differ from the set's")
    args = parser.parse_args(arguments)

    def work() -> str:
        lesson = joined([SETS[name].study(args.photos).lesson() for name in chosen(args.set)])
        config = replace(SETS[chosen(args.set)[-1]].reading, **json.loads(args.config))
        last = write(lesson, args.model, args.out, config)
        return f"{args.out}: reads names off image tokens, loss {last['image']:.3f} (of text {last['text']:.3f})"

    return told(work)


if __name__ == "__main__":
    sys.exit(main())
