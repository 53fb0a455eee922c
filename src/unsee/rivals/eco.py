"""ECO: a detector tells images to forget from others, and the embeddings of those it matches are corrupted.

No weight changes: whoever runs the model without the guard has everything. The paper detects and corrupts prompts;
here it is the image that shows what is to be forgotten, so questions without one are left alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from unsee.errors import UnseeError
from unsee.rivals.job import Job
from unsee.rivals.method import Method, Real


@dataclass(frozen=True)
class Config:
    strength: float = 1.0
    """of the noise, in standard deviations of the features, width by width"""
    threshold: float = 0.5
    """probability from which an image is matched"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strength < 0 or not 0 <= self.threshold <= 1:
            raise UnseeError(
                f"strength {self.strength}, threshold {self.threshold}. Allowed: strength from 0, threshold 0 to 1."
            )


def pooled(features: Sequence[Tensor]) -> np.ndarray:
    """The mean over an image's tokens, ``[images, width]``."""
    return torch.stack([f.detach().float().mean(0) for f in features]).cpu().numpy()


def detector(forget: np.ndarray, other: np.ndarray) -> Pipeline:
    """Logistic regression on standardised features; both sides count the same, however many images they have."""
    made = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return made.fit(np.concatenate([forget, other]), [1] * len(forget) + [0] * len(other))


def corrupted(features: Tensor, scale: Tensor, key: int) -> Tensor:
    """``features`` [tokens, width] with normal noise of standard deviation ``scale`` [width], drawn from ``key``."""
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(key))
    return features + noise.to(features) * scale.to(features)


def forget(job: Job, config: Config) -> None:
    known, other = job.features(job.material.forget), job.features([*job.material.retain, *job.material.neutral])
    matches = detector(pooled(known), pooled(other))
    scale = config.strength * torch.cat(other).std(0)

    def guard(images: list[Tensor]) -> list[Tensor]:
        seen = pooled(images)
        hits = matches.predict_proba(seen)[:, 1] >= config.threshold
        # Signs, not values: an image encoded beside others differs in its last bits, and is to get the same noise.
        signs = np.packbits(matches[:-1].transform(seen) > 0, axis=1)
        return [
            corrupted(f, scale, zlib.crc32(s.tobytes(), config.seed)) if hit else f
            for f, hit, s in zip(images, hits, signs, strict=True)
        ]

    job.guard(guard)


METHOD = Method(
    name="eco",
    title="ECO",
    paper="arXiv 2406.07933",
    kind="guardrail",
    trains="nothing; a detector beside the model",
    forget=forget,
    config=Config,
    space={"strength": Real(0.3, 30), "threshold": Real(0.05, 0.95, log=False)},
    needs=("retain images", "neutral images"),
    note="Reconstructed: images are detected and corrupted in place of prompts, by logistic regression on their mean "
    "projected features; the strength is tuned with all other methods' knobs, not by a zeroth-order search.",
)
