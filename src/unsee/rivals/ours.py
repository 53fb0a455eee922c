"""unsee itself, in the table: with retained images in the loss, from statistics alone, and on the projector only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from unsee import api
from unsee.config import ForgetConfig
from unsee.rivals.job import Job
from unsee.rivals.method import Method, Real

SPACE = {"keep": Real(10, 100), "penalty": Real(10, 100), "stop": Real(0.1, 0.3)}


def with_images(job: Job, config: ForgetConfig) -> None:
    given = job.material.request
    done = api.forget(
        job.model, job.processor, forget=given.forget, retain=given.retain, neutral=given.neutral, config=config
    )
    job.trained = sum(t.numel() for t in done.delta.values())


def from_statistics(job: Job, config: ForgetConfig) -> None:
    """The statistics are made here, from the retained images, and the images are not used again."""
    given = job.material.request
    moments = api.statistics(job.model, job.processor, given.retain, config)
    done = api.forget(
        job.model, job.processor, forget=given.forget, statistics=moments, neutral=given.neutral, config=config
    )
    job.trained = sum(t.numel() for t in done.delta.values())


def projector_only(job: Job, config: ForgetConfig) -> None:
    with_images(job, replace(config, layers=",".join(job.projector())))


row: Callable[..., Method] = partial(
    Method,
    paper="arXiv 2605.05909",
    kind="weights",
    config=ForgetConfig,
    space=SPACE,
    note="Reconstructed from the paper's words, which publishes neither equations nor code.",
)
TOWER = "last fifth of the tower, projector"
METHOD = row("unsee", "unsee", trains=TOWER, forget=with_images, needs=("retain images", "neutral images"))
STATISTICS = row(
    "unsee-statistics", "unsee, statistics only", trains=TOWER, forget=from_statistics,
    needs=("statistics", "neutral images"),
)  # fmt: skip
PROJECTOR = row(
    "unsee-projector", "unsee, projector only", trains="projector", forget=projector_only,
    needs=("retain images", "neutral images"),
)  # fmt: skip
