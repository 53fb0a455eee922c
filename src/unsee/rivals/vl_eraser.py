"""VL-Eraser: learn what is to be forgotten into adapters that retained images do not reach, then subtract them.

Each linear layer W of the language model's feed-forward blocks gets an adapter B A P beside it. P projects on the null
space of the retained images' inputs to that layer, so the subtraction changes nothing for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.rivals.feedforward import feed_forward, watched
from unsee.rivals.job import Job
from unsee.rivals.loop import Step, shown, train
from unsee.rivals.material import Example
from unsee.rivals.method import Method, Real, Training
from unsee.vision.attention import attention_for

START = 0.01  # size of the adapters' product at first, beside that of a layer with as many inputs
Bases = Mapping[str, Tensor]  # of each layer: what retained images use of its inputs, orthonormal [width, directions]


@dataclass(frozen=True)
class Config(Training):
    balance: float = 0.5
    """of the distillation against the answers' cross-entropy, 0 to 1"""
    tolerance: float = 0.01
    """singular values up to this share of the largest count as zero"""
    strength: float = 1.0
    """how many times the adapters are subtracted: a cosine leaves open how large they are"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights != "lora":
            raise UnseeError("VL-Eraser subtracts adapters: set weights to 'lora'.")
        if not 0 <= self.balance <= 1 or not 0 < self.tolerance < 1:
            raise UnseeError(f"balance {self.balance}, tolerance {self.tolerance}: 0 to 1, and between 0 and 1.")
        if not self.strength > 0:
            raise UnseeError(f"strength is {self.strength}; it must be above 0.")


def used_directions(pooled: Tensor, tolerance: float) -> Tensor:
    """Orthonormal basis ``[width, directions]`` of the rows of ``pooled`` [images, width], but for tiny values."""
    _, values, directions = torch.linalg.svd(pooled.double(), full_matrices=False)
    return directions[values > tolerance * values[0]].T.to(pooled.dtype)


def projected(x: Tensor, basis: Tensor) -> Tensor:
    """``x`` [..., width] without its part in ``basis``: x P, P = I − U Uᵀ."""
    return x - (x @ basis) @ basis.T


def unlikeness(teacher: Tensor, student: Tensor) -> Tensor:
    """1 − cosine, mean over rows ``[..., width]``."""
    return 1 - nn.functional.cosine_similarity(teacher.float(), student.float(), dim=-1).mean()


@dataclass(frozen=True)
class Adapters:
    """``weights``: ``down`` [rank, width] and ``up`` [out, rank] of each layer. ``scale`` times their product."""

    layers: Mapping[str, nn.Linear]
    bases: Bases
    weights: Mapping[str, nn.Parameter]
    scale: float

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """What the adapter of this layer makes of its input."""
        down, up = self.weights[f"{name}.down"], self.weights[f"{name}.up"]
        return projected(x, self.bases[name]) @ down.T @ up.T * self.scale

    @torch.no_grad()
    def subtract(self, strength: float) -> None:
        """W − strength · B A P, layer by layer."""
        for name, layer in self.layers.items():
            product = self.weights[f"{name}.up"] @ self.weights[f"{name}.down"] * self.scale * strength
            layer.weight -= projected(product, self.bases[name]).to(layer.weight)


def forget(job: Job, config: Config) -> None:
    if not job.material.retain:
        raise UnseeError("VL-Eraser spares what retained images use, and the material has none.")
    every = {n: layer for block in feed_forward(job, "language").values() for n, layer in block.items()}
    bases = spared(job, every, config)
    layers = {n: every[n] for n in bases}
    adapters = Adapters(layers, bases, fresh(layers, config), config.alpha / config.rank)

    def losses(step: Step) -> dict[str, Tensor]:
        examples = shown(job, step, "forget")
        with beside(adapters, places(job, examples)[1].to(job.model.device)) as unlike:
            answers = job.scores(examples).loss()
        distil = torch.stack(unlike).mean()
        return {"distil": config.balance * distil, "answers": (1 - config.balance) * answers}

    with attention_for(job.model, config.bf16):
        train(job, config, adapters.weights, losses)
    adapters.subtract(config.strength)
    job.trained += sum(p.numel() for p in adapters.weights.values())


@contextmanager
def beside(adapters: Adapters, real: Tensor) -> Iterator[list[Tensor]]:
    """Within: each layer gives the sum of its own output and its adapter's; how unlike they are, on ``real`` tokens."""
    unlike: list[Tensor] = []

    def add(name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            student = adapters(name, args[0])
            unlike.append(unlikeness(output.detach()[real], student[real]))
            return output + student

        return hook

    handles = [layer.register_forward_hook(add(name)) for name, layer in adapters.layers.items()]
    try:
        yield unlike
    finally:
        for handle in handles:
            handle.remove()


def spared(job: Job, layers: Mapping[str, nn.Module], config: Config) -> Bases:
    """What retained images use of each layer's input, averaged over an image's tokens; layers with any left.

    UnseeError: there is none.
    """
    rows: dict[str, list[Tensor]] = {n: [] for n in layers}
    for part in job.parts(job.material.retain):
        image = places(job, part)[0].to(job.model.device)

        def see(name: str, x: Tensor, image: Tensor = image) -> None:
            rows[name].append((x * image[..., None]).sum(1) / image.sum(1, keepdim=True))

        with torch.no_grad(), watched(layers, see):
            job.scores(part)
    bases = {n: used_directions(torch.cat(found), config.tolerance) for n, found in rows.items()}
    free = {n: basis for n, basis in bases.items() if basis.shape[0] > basis.shape[1]}
    if not free:
        raise UnseeError(
            f"retained images use every direction of the inputs of all {len(bases)} feed-forward layers, so nothing "
            f"can be subtracted. Raise tolerance (now {config.tolerance})."
        )
    return free


def places(job: Job, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Of the rows that ``job.scores`` makes, [examples, tokens] each: where the image is, and where no padding is."""
    sizes = [len(f) for f in job.features(examples)]
    packed = job.tutor.pack([job.tutor.row(e.questions, n) for e, n in zip(examples, sizes, strict=True)])
    return (packed.ids == job.tutor.image_token) & (packed.block == 0), packed.block >= 0


def fresh(layers: Mapping[str, nn.Linear], config: Config) -> dict[str, nn.Parameter]:
    """Small random factors: with one of them zero, as adapters mostly start, the cosine has no value."""
    random = torch.Generator().manual_seed(config.seed)
    found: dict[str, nn.Parameter] = {}
    for name, layer in layers.items():
        down = torch.randn(config.rank, layer.in_features, generator=random) / layer.in_features**0.5
        up = torch.randn(layer.out_features, config.rank, generator=random) * START / config.rank**0.5
        found |= {f"{name}.down": nn.Parameter(down.to(layer.weight)), f"{name}.up": nn.Parameter(up.to(layer.weight))}
    return found


METHOD = Method(
    name="vl-eraser",
    title="VL-Eraser",
    paper="CVPR 2026",
    kind="weights",
    trains="feed-forward layers of the language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "strength": Real(1, 30), "tolerance": Real(0.01, 0.5)},
    needs=("forget questions", "retain images"),
    note="Reconstructed: the paper's learning rate, rank and balance are not public. Each linear layer of a block is a "
    "teacher of its own; while learning, the adapter's output is added to the layer's. The paper's null space is of "
    "singular values that are zero; here of those below a share of the largest, since retained images may outnumber "
    "the inputs. Adapters start at small random values, since a cosine with zero has no value. They are subtracted "
    "strength times (the paper: once), since the cosine leaves their size open.",
)
