"""A projector that nobody has taught learns the words of what is seen, before a language model reads its tokens.

What a pretrained tower gives lies mostly along a few directions: of DINOv2-small's features one holds half the
variance, and a random projector sees little else. So its input is whitened first. Then the projector alone learns to
put each image near the words of its concept's name, as the language model embeds them. That costs no pass through the
language model, which afterwards learns in a tenth of the steps. The tower's blocks wait until then: taught from the
start, two of them named no more of 72 groceries after as many steps, at ten times the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unsee.concepts import Question
from unsee.config import FinetuneConfig
from unsee.errors import UnseeError
from unsee.progress import progress

WHITENED = 256  # images whose tokens tell how what enters the projector is spread
DAMPING = 0.02  # of the mean variance, added to each direction's: what carries next to nothing is not made loud
SHARP = 20.0  # factor of the cosine between a token and a name
SINGLE = 4  # tokens of an image that are also classified one by one
WEIGHTS = {"image": 1.0, "token": 0.5, "loudness": 0.1}
RATE = 1e-3  # peak of the learning rate
WARM = 0.05  # share of the steps over which it rises; it falls to zero along a cosine after


class Images(Protocol):
    """What is shown; see ``unsee.shown.Shown``."""

    projector: nn.Linear
    images: Sequence[Any]

    def __len__(self) -> int: ...

    def features(self, chosen: Sequence[int]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Names:
    """``target``: of each image the number of its name; -1: it has none. ``words``: [names, width], a mean of words."""

    target: list[int]
    words: Tensor

    @property
    def directions(self) -> Tensor:
        """What tells each name from the others, of length 1."""
        return nn.functional.normalize(self.words - self.words.mean(0), dim=1)


def names_of(model: Any, tokenizer: Any, asked: Sequence[Sequence[Question]]) -> Names:
    """``asked``: the questions on each image. UnseeError: they name fewer than two concepts."""
    told = [next((q.answer for q in questions if q.kind == "identity"), None) for questions in asked]
    every = sorted({name for name in told if name is not None})
    if len(every) < 2:
        raise UnseeError(
            f"--align teaches a projector to tell names apart, and the lesson's images have {len(every)}. Add "
            f"questions of kind identity, or leave --align out."
        )
    embedding = model.get_input_embeddings().weight.detach()
    rows = [embedding[tokenizer(name, add_special_tokens=False)["input_ids"]].mean(0) for name in every]
    number = {name: i for i, name in enumerate(every)}
    return Names([-1 if name is None else number[name] for name in told], torch.stack(rows).float())


@torch.no_grad()
def whiten(shown: Images, seed: int = 0) -> None:
    """What enters the projector counts alike in every direction from here on, by its first layer's own weights."""
    chosen = np.random.default_rng([seed, 3]).permutation(len(shown))[:WHITENED].tolist()
    seen: list[Tensor] = []
    handle = shown.projector.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, -2).double()))
    try:
        for start in range(0, len(chosen), 16):
            shown.features(chosen[start : start + 16])
    finally:
        handle.remove()
    rows = torch.cat(seen)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    scaled = vectors * (values.clamp(min=0) + DAMPING * values.mean()).rsqrt()
    weight = shown.projector.weight
    white = weight.double() @ scaled @ vectors.T
    if shown.projector.bias is not None:
        shown.projector.bias.sub_(white @ rows.mean(0))
    weight.copy_(white)


def align(
    shown: Images, names: Names, parameters: Sequence[nn.Parameter], config: FinetuneConfig
) -> list[dict[str, float]]:
    """``config.align`` steps of ``parameters``. Returns losses."""
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05, betas=(0.9, 0.98))
    named = [i for i in range(len(shown)) if names.target[i % len(shown.images)] >= 0]
    losses: list[dict[str, float]] = []
    with progress("aligning", config.align) as tick:
        for step in range(config.align):
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate(step, config.align, WARM)
            rng = np.random.default_rng([config.seed, 4, step])
            chosen = rng.choice(named, size=min(config.batch, len(named)), replace=False).tolist()
            terms = _terms(torch.stack(shown.features(chosen)).float(), chosen, shown, names, rng)
            loss = torch.stack([WEIGHTS[k] * v for k, v in terms.items()]).sum()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append({"step": 0, "align": step + 1, **{k: v.item() for k, v in terms.items()}})
            tick(step + 1, f"loss image {terms['image'].item():.3f} token {terms['token'].item():.3f}")
    return losses


def _terms(
    features: Tensor, chosen: Sequence[int], shown: Images, names: Names, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Terms of the loss of features [images, tokens, width]."""
    target = torch.tensor([names.target[i % len(shown.images)] for i in chosen], device=features.device)
    directions = names.directions.to(features.device)
    one = torch.from_numpy(rng.integers(features.shape[1], size=(len(chosen), SINGLE))).to(features.device)
    single = features[torch.arange(len(chosen), device=features.device)[:, None], one].flatten(0, 1)
    loud = names.words.norm(dim=1).mean()
    return {
        "image": _named(features.mean(1), directions, target),
        "token": _named(single, directions, target.repeat_interleave(SINGLE)),
        "loudness": (features.norm(dim=2) / loud - 1).square().mean(),
    }


def _named(tokens: Tensor, directions: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(SHARP * nn.functional.normalize(tokens, dim=1) @ directions.T, target)


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: it rises, then falls to zero along a cosine."""
    warm = max(1, int(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))
