"""MMUnlearner: ascent on forgotten answers, only in weights that matter more to them than to what is to be preserved.

How much a weight matters is its diagonal Fisher information. In the visual part the answers about retained images are
to be preserved; in the language model those, and what is known by name of everybody, the forgotten ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.rivals.job import Job
from unsee.rivals.loop import Gradients, shown, train
from unsee.rivals.method import Choice, Method, Real, Training
from unsee.rivals.saliency import Scores, fisher, sample

FLOOR = 1e-15  # added to both Fishers (the paper's code)
OPENED = 1e-2  # size of the adapters' second factor, which starts at zero, while the Fisher is estimated


@dataclass(frozen=True)
class Config(Training):
    lr: float = 1e-5
    forget_weight: float = 1.0
    """of the forgotten answers' loss, which is climbed"""
    threshold: float = 1.0
    """a weight takes part in forgetting if its Fisher ratio, forgotten to preserved, is at least this"""
    fisher_examples: int = 64
    """of each set, one by one"""


def ratio_mask(forget: Tensor, preserve: Tensor, threshold: float) -> Tensor:
    """1 where a weight matters more to what is to be forgotten."""
    return (forget + FLOOR) / (preserve + FLOOR) >= threshold


def combined(found: Mapping[str, Gradients], masks: Sequence[Tensor]) -> Gradients:
    """The forgotten answers' gradient under the mask, the retained ones' whole."""
    return [f * m + r for f, r, m in zip(found["forget"], found["retain"], masks, strict=True)]


def forget(job: Job, config: Config) -> None:
    given = job.material
    if not given.retain or not (given.text or given.forget_text):
        raise UnseeError("MMUnlearner preserves retained images and questions by name, and the material lacks them.")
    with job.training(config, "all") as parameters:
        masks = checked(parameters, fisher_masks(job, parameters, config))
        train(
            job,
            config,
            parameters,
            lambda step: {
                "forget": -config.forget_weight * job.scores(shown(job, step, "forget")).loss(),
                "retain": job.scores(shown(job, step, "retain")).loss(),
            },
            lambda found: combined(found, masks),
        )


def fisher_masks(job: Job, parameters: Mapping[str, nn.Parameter], config: Config) -> dict[str, Tensor]:
    """Of each parameter. Adapters' are of their own weights."""
    rng = np.random.default_rng([config.seed, 13])
    given = job.material
    sets = (given.forget, given.retain, (*given.forget_text, *given.text))
    gone, kept, named = (sample(s, config.fisher_examples, rng) for s in sets)
    inner = {id(p) for p in job.parameters("language").values()}
    language = {n: p for n, p in parameters.items() if id(p) in inner}
    with opened(parameters, config.seed):
        lost, held = fisher(job, parameters, gone), fisher(job, parameters, kept)
        known = fisher(job, language, named)
    for name in language:
        held[name] = (held[name] * len(kept) + known[name] * len(named)) / (len(kept) + len(named))
    return {n: ratio_mask(_scaled(n, lost), _scaled(n, held), config.threshold) for n in lost}


@contextmanager
def opened(parameters: Mapping[str, nn.Parameter], seed: int) -> Iterator[None]:
    """Within: the adapters' second factors, which are zero at the start, are small random numbers.

    A first factor has no gradient while the second is zero, so its Fisher would be zero for all examples.
    """
    closed = {n: p for n, p in parameters.items() if "lora_B" in n}
    random = torch.Generator().manual_seed(seed)
    for p in closed.values():
        p.data.copy_(OPENED * torch.randn(p.shape, generator=random) / p.shape[1] ** 0.5)
    try:
        yield
    finally:
        for p in closed.values():
            p.data.zero_()


def checked(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> list[Tensor]:
    """The masks in the order of the parameters. UnseeError: one does not fit its parameter, or all tell nothing."""
    wrong = [n for n, p in parameters.items() if n not in masks or masks[n].shape != p.shape]
    wrong += sorted(masks.keys() - parameters.keys())
    if wrong:
        raise UnseeError(f"{len(wrong)} masks do not match the parameters that train, among them {wrong[0]}.")
    ones, weights = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    if ones in (0, weights):
        raise UnseeError(
            f"the Fisher mask is {'all ones' if ones else 'all zeros'}, so it selects nothing. "
            f"{'Raise' if ones else 'Lower'} threshold, or give more examples to preserve."
        )
    return [masks[n] for n in parameters]


def _scaled(name: str, scores: Scores) -> Tensor:
    """A first factor's Fisher as if the second were of size one, so that ``FLOOR`` means the same for all."""
    return scores[name] / OPENED**2 if "lora_A" in name else scores[name]


METHOD = Method(
    name="mmunlearner",
    title="MMUnlearner",
    paper="arXiv 2502.11051",
    kind="weights",
    trains="vision encoder, projector and language model, LoRA",
    forget=forget,
    config=Config,
    space={"lr": Real(1e-4, 1e-2), "threshold": Choice((0.5, 1.0, 2.0)), "forget_weight": Real(0.1, 3)},
    needs=("forget questions", "retain questions", "text"),
    note="The Fisher is of single examples, of a sample of each set; the published code squares gradients of batch "
    "means. Every weight that trains is masked by name (with adapters the published mask matches none). Forgotten and "
    "retained answers share each step, where the code takes turns. Adapters' first factors have no gradient at their "
    "start, so the Fisher is estimated with small random second factors, which are zero again before training.",
)
