"""Tune a method: as many trials as any other, of a declared space, in SQLite, the same after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unsee.comparison.outcome import Trial
from unsee.errors import UnseeError
from unsee.rivals.method import Choice, Method, Real, Space

if TYPE_CHECKING:
    import optuna

FILE = "trials.db"
STARTUP = 4  # trials drawn at random before the sampler reads the scores of earlier ones
Measured = tuple[float, Mapping[str, float]]  # score, figures


def tune(
    file: Path, method: Method, trials: int, seed: int, measure: Callable[[dict[str, Any]], Measured]
) -> Iterator[list[Trial]]:
    """The trials of a method so far, again after each, those in ``file`` already among them.

    ``measure`` gives score and figures of settings.

    The first trial is the middle of the space. The sampler (TPE) is seeded anew for each trial, so that an interrupted
    comparison goes on as an unbroken one. A trial that raises UnseeError counts: its settings break the method.
    """
    if not method.space:
        return
    study = _study(file, method, seed, 0)
    for left in study.get_trials(deepcopy=False):  # of an interrupted call: the same settings again
        if not left.state.is_finished() and left.params:
            study.tell(left.number, state=_states().FAIL)
            study.enqueue_trial(left.params, {"again": True})
    while True:
        if found := logged(file, method):
            yield found
        if len(found) >= trials:
            return
        study = _study(file, method, seed, len(found))
        if not found:
            study.enqueue_trial(centre(method.space), skip_if_exists=True)
        trial = study.ask(_distributions(method.space))
        started = time.perf_counter()
        try:
            score, metrics = measure(trial.params)
        except UnseeError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=_states().FAIL)
            continue
        trial.set_user_attr("metrics", dict(metrics))
        trial.set_user_attr("seconds", round(time.perf_counter() - started, 2))
        study.tell(trial, score)


def create(file: Path) -> None:
    """The empty database, before several processes write into it."""
    _optuna().storages.RDBStorage(_address(file))


def best(trials: list[Trial]) -> dict[str, Any] | None:
    """Settings of the trial with the largest score, the first of equal ones; None: none succeeded."""
    scored = [t for t in trials if t.score is not None]
    return max(scored, key=lambda t: (t.score, -t.number)).settings if scored else None


def centre(space: Space) -> dict[str, Any]:
    """The middle of each range, by its logarithm where it is drawn so; the first of several values."""
    return {name: _middle(of) for name, of in space.items()}


def _middle(of: Real | Choice) -> Any:
    if isinstance(of, Choice):
        return of.values[0]
    return (of.low * of.high) ** 0.5 if of.log else (of.low + of.high) / 2


def logged(file: Path, method: Method) -> list[Trial]:
    """The trials of a method that came to an end, in order; interrupted ones did not."""
    ended = [t for t in _study(file, method, 0, 0).get_trials(deepcopy=False) if t.state.is_finished()]
    counted = [t for t in ended if t.value is not None or "error" in t.user_attrs]
    return [
        Trial(
            number, dict(t.params), t.value, t.user_attrs.get("metrics", {}), t.user_attrs.get("seconds", 0.0),
            t.user_attrs.get("error", ""),
        )
        for number, t in enumerate(counted)
    ]  # fmt: skip


def _study(file: Path, method: Method, seed: int, done: int) -> optuna.Study:
    optuna = _optuna()
    drawn = np.random.SeedSequence([seed, done, *method.name.encode()]).generate_state(1)[0]
    sampler = optuna.samplers.TPESampler(seed=int(drawn), n_startup_trials=STARTUP)
    return optuna.create_study(
        storage=_address(file), study_name=method.name, sampler=sampler, direction="maximize", load_if_exists=True
    )


def _address(file: Path) -> str:
    return f"sqlite:///{file}"


def _distributions(space: Space) -> dict[str, Any]:
    kinds = _optuna().distributions
    return {
        name: kinds.CategoricalDistribution(of.values)
        if isinstance(of, Choice)
        else kinds.FloatDistribution(of.low, of.high, log=of.log)
        for name, of in space.items()
    }


def _states() -> Any:
    return _optuna().trial.TrialState


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UnseeError("tuning needs Optuna: pip install 'unsee[compare]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
