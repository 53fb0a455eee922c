"""The comparison's table: before, gold, then every method by its declared score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unsee.comparison import score
from unsee.comparison.figures import MEASURES, MISNAMED, Draws, distance, measured, scored
from unsee.comparison.outcome import GOLD, OURS, REFERENCES, VANILLA, Comparison, Run
from unsee.comparison.significance import Tested, behind, tests, unmarkable
from unsee.evaluation.table import Cell, Column, Row, Table
from unsee.rivals import METHODS

SCORE = Column("score", "score", "higher", score.SAID)
DISTANCE = Column(
    "distance", "distance to gold", "lower",
    "Kolmogorov-Smirnov, of truth ratios on the forgotten: 0 the same; of few concepts its interval leans upwards",
)  # fmt: skip
COST = (
    Column("seconds", "seconds", "lower", "to forget, one seed; of the processor where that does the work", 1),
    Column("times", "× unsee", "lower", f"those seconds, of {OURS}'s", 2),
    Column("memory", "peak MB", "lower", "most memory held while it forgot, above what was held before", 0),
    Column("trained", "weights", "neither", "trained or edited", 0),
)


def table(comparison: Comparison) -> Table:
    """Means over each method's seeds. A column that no row has a figure for is left out."""
    tested, draws = tests(comparison), Draws(comparison.clusters)
    order = [*(r for r in REFERENCES if comparison.runs_of(r)), *ranked(comparison)]
    rows = tuple(Row(method, _cells(comparison, method, draws, tested)) for method in order)
    used = {key for row in rows for key in row.cells}
    return Table(comparison.title, tuple(c for c in columns() if c.key in used), rows, _notes(comparison, tested))


def columns() -> tuple[Column, ...]:
    asked = [Column(m.key, m.title, m.better, m.note) for m in MEASURES]
    place = [m.key for m in MEASURES].index(MISNAMED)
    return (SCORE, *asked[:place], DISTANCE, *asked[place:], *COST)


def scores_of(comparison: Comparison, method: str) -> list[float]:
    """The declared score of each seed that did not fail."""
    return [score.score(run.means, comparison.vanilla.means) for run in comparison.runs_of(method)]


def ranked(comparison: Comparison) -> list[str]:
    """The methods, the highest score first; those that failed last."""
    means = {m: float(np.mean(scores_of(comparison, m) or [-1.0])) for m in comparison.methods}
    return sorted(means, key=lambda m: -means[m])


def _cells(comparison: Comparison, method: str, draws: Draws, tested: dict[tuple[str, str], Tested]) -> dict[str, Cell]:
    runs = comparison.runs_of(method)
    if not runs:
        return {}
    before = comparison.vanilla.means
    cells = {"score": Cell.of(scored(comparison, runs, draws, lambda run: score.score(run.means, before)))}
    for measure in MEASURES:
        if measure.asked(comparison.clusters):
            test = tested.get((method, measure.key))
            cells[measure.key] = Cell.of(measured(measure, runs, draws), test.p if test else None)
    apart = distance(comparison, runs) if method != GOLD else None
    return cells | ({"distance": Cell.of(apart)} if apart else {}) | _cost(comparison, method, runs)


def _cost(comparison: Comparison, method: str, runs: Sequence[Run]) -> dict[str, Cell]:
    """The references were not made by forgetting, so they cost none."""
    if method in REFERENCES:
        return {}
    seconds, ours = _mean([r.seconds for r in runs]), _mean([r.seconds for r in comparison.runs_of(OURS)])
    times = {"seconds": Cell(seconds), **({"times": Cell(seconds / ours)} if ours else {})}
    return {
        **(times if len(_machines(comparison)) < 2 else {}),  # seconds of two machines say nothing side by side
        **({"memory": Cell(peak / 1e6)} if (peak := _mean([r.peak_bytes for r in runs])) else {}),
        "trained": Cell(_mean([r.trained for r in runs])),
    }


def _machines(comparison: Comparison) -> dict[str, list[str]]:
    """Each machine's methods."""
    found: dict[str, list[str]] = {}
    for method in comparison.methods:
        for machine in dict.fromkeys(run.machine for run in comparison.runs_of(method)):
            found.setdefault(machine, []).append(method)
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _notes(comparison: Comparison, tested: dict[tuple[str, str], Tested]) -> tuple[str, ...]:
    methods = ranked(comparison)
    notes = [_seeds(comparison, methods)]
    if tested:
        notes.append(
            f"Marks: the method's difference from {OURS} on the same items, averaged over seeds; p by swapping the two "
            f"for whole concepts, corrected for all {len(tested)} tests (Holm)."
        )
        if few := unmarkable(comparison, len(tested)):
            notes.append(f"Too few concepts for a lone difference to be marked, however large: {', '.join(few)}.")
        notes += behind(comparison) or [f"{OURS} is significantly behind no method that forgets as much."]
    needs = [f"{m}: {', '.join(METHODS[m].needs) or 'nothing else'}" for m in methods if m in METHODS]
    if needs:
        notes.append(f"Needed beside the images to forget. {'; '.join(needs)}.")
    return (*notes, *_ran(_machines(comparison)), *_failed(comparison, methods))


def _ran(machines: Mapping[str, Sequence[str]]) -> list[str]:
    if len(machines) < 2:
        return [f"Ran on {machine}." for machine in machines if machine]
    shares = "; ".join(f"{machine or 'unknown'}: {', '.join(of)}" for machine, of in machines.items())
    return [f"No times, since methods ran on more than one machine. {shares}."]


def _seeds(comparison: Comparison, methods: Sequence[str]) -> str:
    seeds = sorted({len(comparison.runs_of(m)) for m in methods if comparison.runs_of(m)})
    counts = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))) if seeds else "0"
    return f"{VANILLA}: before forgetting; {GOLD}: never taught the forgotten; others: mean over {counts} seeds."


def _failed(comparison: Comparison, methods: Sequence[str]) -> list[str]:
    notes = []
    for method in methods:
        if errors := comparison.errors(method):
            failed = sum(bool(r.error) for r in comparison.runs if r.method == method)
            of = failed + len(comparison.runs_of(method))
            notes.append(f"{method}: {failed} of {of} runs failed: {' / '.join(errors)}")
        elif not comparison.runs_of(method):
            errors = list(dict.fromkeys(t.error for t in comparison.trials[method] if t.error))
            notes.append(f"{method}: no run; {' / '.join(errors) or 'its trials are all there is'}")
    return notes
