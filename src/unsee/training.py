"""The steps of AdamW by which a model is taught, whatever the loss: seeded one by one, interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unsee import resume
from unsee.config import FinetuneConfig
from unsee.errors import UnseeError
from unsee.progress import progress
from unsee.resume import History
from unsee.vision.attention import attention_for


def train(
    model: Any, weights: Mapping[str, nn.Parameter], peaks: Mapping[str, float],
    losses: Callable[[int, np.random.Generator], tuple[Tensor, Tensor]], config: FinetuneConfig,
    checkpoint: Path | None = None, origin: str = "", begin: Callable[[], History] = list, what: str = "teaching",
) -> History:  # fmt: skip
    """``config.steps`` steps of AdamW on those of ``weights`` that learn, each at its peak rate. Returns the history.

    ``losses``: of a step, of images and of texts. ``begin``: what comes before the first step, and its history.
    ``checkpoint``: a folder from which an interrupted call with the same ``origin`` resumes. UnseeError: the loss is
    not finite.
    """
    accelerator = accelerator_here()
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in weights.items():
        if parameter.requires_grad:
            found.setdefault(peaks[name], []).append(parameter)
    groups = [{"params": parameters, "peak": peak} for peak, parameters in found.items()]
    optimizer: Any = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    first, history = resume.restore(checkpoint, weights, optimizer, origin) if checkpoint else (0, [])
    if not history:
        history = begin()
        if history and checkpoint:
            resume.save(checkpoint, weights, optimizer, origin, 0, history)
    model.train()
    said = ""  # the losses, told as often as they are noted: asking a GPU for them makes it wait
    with attention_for(model, config.bf16), progress(what, config.steps) as tick:
        for step in range(first, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _rate(step, config.steps, config.warmup)
            rng = np.random.default_rng([config.seed, step])
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.bf16):
                image, text = losses(step, rng)
            loss = image + text
            if not torch.isfinite(loss):
                raise UnseeError(f"the loss is {loss.item()} at step {step}. Lower --lr (now {config.lr}).")
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 20 == 19 or step == config.steps - 1:
                history.append({"step": step + 1, "image": image.item(), "text": text.item()})
                said = f"loss image {image.item():.3f} text {text.item():.3f}"
            tick(step + 1, said)
            if checkpoint and (step + 1) % config.checkpoint_every == 0:
                resume.save(checkpoint, weights, optimizer, origin, step + 1, history)
    model.eval()
    return history


def accelerator_here() -> Accelerator:
    """Always alike: a process has one choice of precision, and ours is made step by step."""
    return Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: it rises, then falls to zero along a cosine."""
    warm = max(1, int(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))
