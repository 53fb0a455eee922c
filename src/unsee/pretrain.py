"""A first training of a tiny model's visual module: read off a drawn face, or a drawn flag, how it was drawn.

Every picture shows another one of a population that no model is taught later, so what is learned is seeing, not
knowing. Reading off the features of a face teaches to tell people apart some ten times faster than classifying who
it is (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unsee.concepts import ImageRef
from unsee.config import PretrainConfig
from unsee.data import people
from unsee.data.banner import Banner
from unsee.data.images import load_all
from unsee.progress import progress
from unsee.vision.attention import attention_for
from unsee.vision.module import Pixels, Visual

TOKENS = 4  # of each image are read one by one in a step
AT_ONCE = 1000  # drawings; minutes of them, of which progress tells


class Drawn(ImageRef, Protocol):
    """A drawing and the dataclasses that it was drawn from."""

    @property
    def identity(self) -> Any: ...

    @property
    def view(self) -> Any: ...


def pictures(subject: str, n: int) -> Sequence[Drawn]:
    """``faces`` of people or ``flags`` of countries whom nobody is taught, one picture each."""
    if subject == "flags":
        return [Banner(i) for i in range(n)]
    return [people.train_views(people.population(i), 1)[0] for i in range(n)]


def _truth(shown: Sequence[Drawn]) -> dict[str, Tensor]:
    """Per feature of subject or view: classes as int64 [n], numbers as float32 [n] with mean 0 and deviation 1."""
    truth: dict[str, Tensor] = {}
    for part in ("identity", "view"):
        rows = [getattr(p, part) for p in shown]
        for f in fields(rows[0]):
            values = [getattr(r, f.name) for r in rows]
            if isinstance(values[0], float):
                numbers = torch.tensor(values)
                truth[f"{part}_{f.name}"] = (numbers - numbers.mean()) / numbers.std()
            elif len(classes := {v: i for i, v in enumerate(sorted(set(values), key=repr))}) <= 20:
                truth[f"{part}_{f.name}"] = torch.tensor([classes[v] for v in values])
    return truth


class Examiner(nn.Module):
    """Linear heads for each feature of subject and view, reading all tokens side by side, and others reading any token.

    A model that serves knows who it sees in every token of its last layers. The second heads bring that about: without
    them each token knows its own part of the face, and no layer knows who it is.
    """

    def __init__(self, tokens: int, width: int, truth: dict[str, Tensor]) -> None:
        super().__init__()
        self.all = {k: 1 if v.is_floating_point() else int(v.max()) + 1 for k, v in truth.items()}
        asked = {f"view_{topic}" for topic in people.ATTRIBUTES}
        self.one = {k: n for k, n in self.all.items() if k.startswith("identity") or k in asked}
        self.norm, self.norm_token = nn.LayerNorm(tokens * width), nn.LayerNorm(width)
        self.heads = nn.Linear(tokens * width, sum(self.all.values()))
        self.token_heads = nn.Linear(width, sum(self.one.values()))

    def forward(self, features: Tensor, truth: dict[str, Tensor], token: Tensor) -> Tensor:
        """``features`` [n, tokens, width]; ``token`` [n, k]: which tokens of each image the second heads read."""
        whole = _mean_loss(self.heads(self.norm(features.flatten(1))), self.all, truth)
        read = features[torch.arange(len(token), device=token.device)[:, None], token].flatten(0, 1)
        repeated = {k: v.repeat_interleave(token.shape[1]) for k, v in truth.items() if k in self.one}
        return whole + _mean_loss(self.token_heads(self.norm_token(read)), self.one, repeated)


def _mean_loss(out: Tensor, sizes: dict[str, int], truth: dict[str, Tensor]) -> Tensor:
    losses = []
    for name, part in zip(sizes, out.split(list(sizes.values()), dim=1), strict=True):
        target = truth[name]
        if target.is_floating_point():
            losses.append(nn.functional.mse_loss(part[:, 0], target))
        else:
            losses.append(nn.functional.cross_entropy(part, target))
    return torch.stack(losses).mean()


def _drawn(visual: Visual, shown: Sequence[Drawn]) -> list[Pixels]:
    found: list[Pixels] = []
    with progress("drawing", len(shown)) as tick:
        for start in range(0, len(shown), AT_ONCE):
            found += visual.pixels(load_all(shown[start : start + AT_ONCE]))
            tick(len(found))
    return found


def pretrain(model: Any, processor: Any, shown: Sequence[Drawn], config: PretrainConfig) -> list[float]:
    """Train the visual module of ``model`` in place; the language model is not used. Returns the losses."""
    torch.manual_seed(config.seed)
    visual = Visual(model, processor)
    pixels = _drawn(visual, shown)
    truth = _truth(shown)
    tokens, width = visual.features(pixels[:1])[0].shape
    examiner = Examiner(tokens, width, truth).to(visual.device)
    parameters = [*visual.parameters().values(), *examiner.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps, pct_start=0.1)
    model.train()
    losses: list[float] = []
    with attention_for(model, config.bf16), progress("learning to see", config.steps) as tick:
        for step in range(config.steps):
            rng = np.random.default_rng([config.seed, step])
            chosen = rng.integers(len(pixels), size=config.batch)
            index = torch.from_numpy(chosen)
            with torch.autocast(visual.device.type, torch.bfloat16, enabled=config.bf16):
                features = torch.stack(visual.features([pixels[i] for i in chosen]))
            token = torch.from_numpy(rng.integers(features.shape[1], size=(len(chosen), TOKENS)))
            asked = {k: v[index].to(visual.device) for k, v in truth.items()}
            loss = examiner(features.float(), asked, token.to(visual.device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            tick(step + 1, f"loss {np.mean(losses[-50:]):.3f}")
    model.eval()
    return losses
