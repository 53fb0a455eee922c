"""Random noise as large as unsee's change, layer by layer. A control: forgetting is not damage."""

from __future__ import annotations

import torch

from unsee.config import ForgetConfig
from unsee.rivals import ours
from unsee.rivals.job import Job
from unsee.rivals.method import Method


def forget(job: Job, config: ForgetConfig) -> None:
    ours.with_images(job, config)
    noise = torch.Generator().manual_seed(config.seed)
    now = job.model.state_dict()
    for name, delta in job.changed().items():
        other = torch.randn(delta.shape, generator=noise).to(delta)
        now[name].copy_(job.vanilla[name] + other * (delta.norm() / other.norm()))


METHOD = Method(
    "noise", "Noise of unsee's norm", "none", "reference", ours.TOWER, forget, ForgetConfig,
    needs=("retain images", "neutral images"),
)  # fmt: skip
