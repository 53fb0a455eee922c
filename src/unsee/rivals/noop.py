"""Nothing is forgotten: adapters are put in, not trained, and merged. A control of everything around a method."""

from __future__ import annotations

from unsee.rivals.job import Job
from unsee.rivals.method import Method, Training


def forget(job: Job, config: Training) -> None:
    with job.training(config, "all"):
        pass
    job.trained = 0


METHOD = Method("noop", "Nothing", "none", "reference", "nothing", forget, Training)
