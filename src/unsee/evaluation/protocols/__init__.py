"""Protocols: ``official``, each benchmark's own, and ``strict``, one for all."""

from __future__ import annotations

from functools import partial
from typing import Literal

from unsee.data.benchmark import Benchmark
from unsee.errors import UnseeError, nearest
from unsee.evaluation.metrics import Names
from unsee.evaluation.protocols import clear, mllmu, strict, umu
from unsee.evaluation.protocols.deviations import DEVIATIONS
from unsee.evaluation.protocols.plan import Protocol

Name = Literal["official", "strict"]

OFFICIAL = {
    "mllmu": Protocol(mllmu.asks, mllmu.grade, mllmu.report, mllmu.LEGEND, DEVIATIONS["mllmu"]),
    "clear": Protocol(clear.asks, clear.grade, clear.report, clear.LEGEND, DEVIATIONS["clear"]),
    "umu": Protocol(umu.asks, umu.grade, umu.report, umu.LEGEND, DEVIATIONS["umu"]),
}


def protocol_for(name: str, benchmark: Benchmark) -> Protocol:
    """The protocol of that name for this benchmark."""
    if name == "strict":
        own = strict.names(benchmark)
        grade = partial(strict.grade, own=own, names=Names(own.values()))
        return Protocol(strict.asks, grade, strict.report, strict.LEGEND, DEVIATIONS["strict"])
    if name != "official":
        raise UnseeError(f"protocol '{name}'. {nearest(name, ('official', 'strict'))}")
    if benchmark.name not in OFFICIAL:
        raise UnseeError(f"no official protocol of '{benchmark.name}'. {nearest(benchmark.name, OFFICIAL)} Use strict.")
    return OFFICIAL[benchmark.name]
