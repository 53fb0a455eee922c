"""Teach an assembled language model to read names off image tokens, before it is shown any picture.

    python -m benchmarks.photographs.read --model build/dinov2-smollm2-internvl --out build/reader

A language model that never had images does not know that what stands in an image's place names something. Learning
that takes it most of the steps of teaching, and is the same for every set of photographs and every gold model, so it
is done once, without pictures: tokens are made that lie as near to a name's words as those of an aligned projector
do, and the answer is that name. Names are one to three words of the tokenizer by chance; no concept is taught. At first
the tokens are nearer.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from unsee import resume
from unsee.alignment import rate
from unsee.commands.shared import checkpoints, save
from unsee.concepts import Question
from unsee.config import FinetuneConfig
from unsee.errors import UnseeError
from unsee.files import refuse_existing
from unsee.finetune import Tutor, answer_loss, autocast
from unsee.progress import alarm, progress, tell
from unsee.vision.attention import attention_for
from unsee.vision.module import load_full

READ = FinetuneConfig(steps=300, batch=16, lr=3e-4, checkpoint_every=50)
PROMPTS = (
    "What is this?", "What is this called?", "Name what this picture shows.", "What is shown in this picture?",
    "Which one is this?", "Who is this?", "Which product is this?", "Which place is this?",
)  # fmt: skip
TOKENS = (2, 8)  # tokens of an image, at least and at most: fewer than it will have, which cost less
NEAR = (0.6, 0.95), (0.2, 0.7)  # cosine between an image's tokens and the direction of its name: at first, at last
WORDS = (0.6, 0.3, 0.1)  # how many names are of one word, of two, of three
ALIKE = 0.5  # share of the rest of a token that all tokens of an image have in common


@dataclass(frozen=True)
class Words:
    """Whole words of a tokenizer, each of one token, and how the language model embeds them: [words, width]."""

    words: list[str]
    rows: Tensor

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Words:
        found = {i: tokenizer.decode([i]) for i in range(len(tokenizer))}
        ids = [i for i, w in found.items() if w[:1] == " " and len(w) > 3 and w[1:].isascii() and w[1:].isalpha()]
        if len(ids) <= len(WORDS):
            raise UnseeError(f"the tokenizer has {len(ids)} whole words, for names of up to {len(WORDS)}.")
        rows = model.get_input_embeddings().weight.detach()[ids].float()
        return cls([found[i].strip() for i in ids], rows)

    def name(self, rng: np.random.Generator) -> tuple[str, Tensor]:
        """A name by chance, and the direction that tells it from others."""
        count = rng.choice(len(WORDS), p=WORDS) + 1
        chosen = rng.choice(len(self.words), size=count, replace=False).tolist()
        direction = self.rows[chosen].mean(0) - self.rows.mean(0)
        return " ".join(self.words[i] for i in chosen), nn.functional.normalize(direction, dim=0)

    def tokens(self, direction: Tensor, late: float, rng: np.random.Generator) -> Tensor:
        """What an aligned projector might give of an image: [tokens, width], as loud as words are.

        ``late``: 0 at the first step, 1 at the last.
        """
        count, width = int(rng.integers(*TOKENS, endpoint=True)), self.rows.shape[1]
        rest = rng.standard_normal((1, width)) * ALIKE**0.5 + rng.standard_normal((count, width)) * (1 - ALIKE) ** 0.5
        rest = nn.functional.normalize(torch.from_numpy(rest).float(), dim=1)
        near = rng.uniform(*((1 - late) * first + late * last for first, last in zip(*NEAR, strict=True)))
        return (near * direction + (1 - near**2) ** 0.5 * rest) * self.rows.norm(dim=1).mean()


def read(model: Any, processor: Any, config: FinetuneConfig, checkpoint: Path | None = None) -> list[dict[str, float]]:
    """Teach the language model of ``model``, in place. ``checkpoint``: a folder from which a call resumes."""
    tutor, words = Tutor(model, processor), Words.of(model, processor.tokenizer)
    weights = dict(model.model.language_model.named_parameters())
    model.requires_grad_(False)
    model.model.language_model.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    origin = resume.origin({"read": 1, **vars(config)}, weights.values(), [])
    first, history = resume.restore(checkpoint, weights, optimizer, origin) if checkpoint else (0, [])
    with attention_for(model, config.bf16), progress("reading", config.steps) as tick:
        for step in range(first, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate(step, config.steps, config.warmup)
            rng = np.random.default_rng([config.seed, step])
            named = [words.name(rng) for _ in range(config.batch)]
            features = [words.tokens(direction, step / config.steps, rng) for _, direction in named]
            asked = [Question("", "identity", "name", str(rng.choice(PROMPTS)), name) for name, _ in named]
            rows = [tutor.row([q], len(f)) for q, f in zip(asked, features, strict=True)]
            with autocast(model.device.type, config):
                loss = answer_loss(model, tutor.batch(rows), features)
            loss.backward()
            nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            history.append({"step": step + 1, "loss": loss.item()})
            tick(step + 1, f"loss {loss.item():.3f}")
            if checkpoint and (step + 1) % config.checkpoint_every == 0:
                resume.save(checkpoint, weights, optimizer, origin, step + 1, history)
    model.requires_grad_(True)
    return history


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of an assembled checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="new folder of the one that reads")
    parser.add_argument("--steps", type=int, default=READ.steps)
    args = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    try:
        refuse_existing(args.out)
        model, processor = load_full(args.model)
        with checkpoints(args.out) as checkpoint:
            config = FinetuneConfig(**{**vars(READ), "steps": args.steps})
            history = read(model, processor, config, checkpoint)
            save(args.out, model, processor)
    except UnseeError as error:
        alarm(str(error))
        return 2
    tell(f"{args.out}: reads names off image tokens, loss {history[-1]['loss']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
