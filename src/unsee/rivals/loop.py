"""The loop that every method trained by a gradient shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unsee import resume
from unsee.errors import UnseeError
from unsee.progress import progress
from unsee.rivals.job import Job
from unsee.rivals.material import Material
from unsee.rivals.method import Training

Places = tuple[int, ...]  # of examples in a set of the material
Gradients = list[Tensor]  # one a parameter
CHECKPOINT_EVERY = 50  # steps


@dataclass(frozen=True)
class Step:
    """What one step is shown: places in the material's sets, ``batch`` of each that is not empty."""

    number: int
    forget: Places
    retain: Places
    neutral: Places
    text: Places
    forget_text: Places

    def part(self, k: int, parts: int) -> Step:
        """The k-th of so many parts, of equal size."""
        return Step(self.number, **{name: getattr(self, name)[k::parts] for name in SETS})


SETS = tuple(f.name for f in fields(Step) if f.name != "number")  # of the material


def schedule(material: Material, config: Training) -> list[Step]:
    """All steps at once, so that a method can compute what it needs of the examples it will see, and no others.

    The images to forget are passed through in a random order, again and again; the others are drawn.
    """
    steps = config.steps or math.ceil(len(material.forget) / config.batch)
    rng = np.random.default_rng([config.seed, 7])
    order = {name: _order(rng, len(getattr(material, name)), steps * config.batch) for name in SETS}
    return [
        Step(i, **{name: tuple(o[i * config.batch : (i + 1) * config.batch]) for name, o in order.items()})
        for i in range(steps)
    ]


def used(steps: Sequence[Step], name: str) -> list[int]:
    """Which examples of a set the steps will see."""
    return sorted({i for step in steps for i in getattr(step, name)})


def _order(rng: np.random.Generator, n: int, most: int) -> list[int]:
    return [i for _ in range(math.ceil(most / n)) for i in rng.permutation(n).tolist()][:most] if n else []


def train(
    job: Job,
    config: Training,
    parameters: Mapping[str, nn.Parameter],
    losses: Callable[[Step], Mapping[str, Tensor]],
    combine: Callable[[Mapping[str, Gradients]], Gradients] | None = None,
    steps: Sequence[Step] | None = None,
    name: str = "training",
    state: Mapping[str, Tensor] | None = None,
) -> list[dict[str, float]]:
    """Descend the sum of ``losses``, each a mean over the examples of a step; returns them, step by step.

    ``combine``: makes the step's gradient of the gradients of each loss, in place of their sum. ``name``: of the folder
    from which an interrupted call resumes, under ``job.checkpoint``. ``state``: what ``combine`` remembers between
    steps, changed in place; it is kept there too. UnseeError: a loss or gradient that is no number; losses that reach
    none of the parameters.
    """
    steps = schedule(job.material, config) if steps is None else steps
    weights = list(parameters.values())
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.0)
    folder = job.checkpoint / name if job.checkpoint else None
    origin = _origin(job, config, parameters, name) if folder else ""
    kept = {**parameters, **(state or {})}
    first, history = resume.restore(folder, kept, optimizer, origin) if folder else (0, [])
    reached: set[int] = set()
    with progress(name, len(steps)) as tick:
        for number, step in enumerate(steps[first:], start=first):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 - number / len(steps))
            terms = _backward(job, config, weights, step, losses, combine)
            if not all(map(math.isfinite, terms.values())):
                raise UnseeError(f"{name}: a loss of {terms} at step {number}. Lower lr (now {config.lr}).")
            reached |= {i for i, w in enumerate(weights) if w.grad is not None}
            norm = nn.utils.clip_grad_norm_(weights, config.clip)
            if not torch.isfinite(norm):
                raise UnseeError(f"{name}: the gradient is no number at step {number}. Lower lr (now {config.lr}).")
            optimizer.step()
            optimizer.zero_grad()
            history.append({"step": number + 1, **terms})
            tick(number + 1, " ".join(f"{k} {v:.3f}" for k, v in terms.items()))
            if folder and (number + 1) % CHECKPOINT_EVERY == 0:
                resume.save(folder, kept, optimizer, origin, number + 1, history)
    if steps[first:] and not reached:
        raise UnseeError(f"{name}: no loss reaches any of the {len(weights)} parameters that should train.")
    return history


def _backward(
    job: Job,
    config: Training,
    weights: list[nn.Parameter],
    step: Step,
    losses: Callable[[Step], Mapping[str, Tensor]],
    combine: Callable[[Mapping[str, Gradients]], Gradients] | None,
) -> dict[str, float]:
    """The step's gradient, in the weights; returns the losses."""
    terms: dict[str, float] = {}
    sums: dict[str, Gradients] = {}
    for k in range(config.accumulate):
        with torch.autocast(job.model.device.type, torch.bfloat16, enabled=config.bf16):
            found = {n: v / config.accumulate for n, v in losses(step.part(k, config.accumulate)).items()}
        if not any(value.requires_grad for value in found.values()):
            raise UnseeError(f"no loss ({', '.join(found)}) reaches any of the {len(weights)} parameters that train.")
        for n, value in found.items():
            terms[n] = terms.get(n, 0.0) + float(value.detach())
        if combine is None:
            torch.stack(list(found.values())).sum().backward()
            continue
        for n, value in found.items():
            grads = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            whole = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
            sums[n] = [a + b for a, b in zip(sums[n], whole, strict=True)] if n in sums else whole
    if combine is not None:
        for weight, gradient in zip(weights, combine(sums), strict=True):
            weight.grad = gradient
    return terms


def _origin(job: Job, config: Training, parameters: Mapping[str, nn.Parameter], name: str) -> str:
    """One hash of the method, its settings, the model and what it is shown."""
    examples = [e for part in SETS for e in getattr(job.material, part)]
    asked = [f"{e.image.id if e.image else ''} {q.prompt} {q.answer}" for e in examples for q in e.questions]
    names = [type(config).__module__, name, *parameters, *asked]
    return resume.origin(asdict(config), [*job.vanilla.values(), *parameters.values()], names)


def shown(job: Job, step: Step, name: str) -> list[Any]:
    """The examples of a step from one set of the material. UnseeError: there are none."""
    examples = getattr(job.material, name)
    if not examples:
        raise UnseeError(f"this method trains on '{name}' examples, and none were given.")
    return [examples[i] for i in getattr(step, name)]
