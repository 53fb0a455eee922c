"""Every method has as many trials, the same after an interruption, and one that breaks counts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from unsee.comparison import tuning
from unsee.comparison.tuning import best, centre, logged
from unsee.errors import UnseeError
from unsee.rivals.method import Choice, Method, Real


@dataclass(frozen=True)
class Config:
    lr: float = 1.0
    layers: int = 1
    seed: int = 0


SPACE = {"lr": Real(1e-4, 1e-2), "layers": Choice((1, 2, 3))}
WAY = Method("way", "A way", "none", "weights", "nothing", lambda job, config: None, Config, SPACE)


def measure(settings):
    return settings["lr"] * settings["layers"], {"forget_names": settings["lr"]}


def tune(*given):
    """All trials, when all are done."""
    return ([], *tuning.tune(*given))[-1]


def asked(trials):
    return [(t.settings, t.score, t.error) for t in trials]


def test_as_many_trials_as_asked_for_and_the_first_in_the_middle(tmp_path):
    trials = tune(tmp_path / "trials.db", WAY, 6, 0, measure)
    assert [t.number for t in trials] == list(range(6))
    assert trials[0].settings == {"lr": pytest.approx(1e-3), "layers": 1} == centre(SPACE)
    assert all(1e-4 <= t.settings["lr"] <= 1e-2 and t.settings["layers"] in (1, 2, 3) for t in trials)
    assert len({t.settings["lr"] for t in trials}) == 6
    assert best(trials) == max(trials, key=lambda t: t.score).settings
    assert trials[3].metrics == {"forget_names": trials[3].settings["lr"]}


def test_two_methods_in_one_file_and_a_second_call_adds_nothing(tmp_path):
    file, other = tmp_path / "trials.db", Method("other", "", "", "weights", "", lambda j, c: None, Config, SPACE)
    first = tune(file, WAY, 3, 0, measure)
    others = tune(file, other, 3, 0, measure)
    assert [t.settings for t in first[1:]] != [t.settings for t in others[1:]]

    def never(settings):
        raise AssertionError("asked again")

    assert asked(tune(file, WAY, 3, 0, never)) == asked(first) == asked(logged(file, WAY))


@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_interrupted_tuning_goes_on_as_an_unbroken_one(at, tmp_path):
    calls = []

    def interrupted(settings):
        calls.append(settings)
        if len(calls) == at:
            raise KeyboardInterrupt
        return measure(settings)

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "broken.db", WAY, 7, 0, interrupted)
    assert asked(tune(tmp_path / "broken.db", WAY, 7, 0, measure)) == asked(
        tune(tmp_path / "whole.db", WAY, 7, 0, measure)
    )


def test_settings_that_break_a_method_use_up_a_trial(tmp_path):
    def fragile(settings):
        if settings["lr"] > 5e-4:
            raise UnseeError(f"a loss of nan at {settings['lr']}")
        return measure(settings)

    trials = tune(tmp_path / "trials.db", WAY, 8, 0, fragile)
    assert len(trials) == 8
    broken = [t for t in trials if t.score is None]
    assert broken and all("nan" in t.error for t in broken)
    assert best(trials)["lr"] <= 5e-4
    assert best(broken) is None


def test_what_has_nothing_to_tune_has_no_trials(tmp_path):
    way = Method("still", "", "", "reference", "", lambda job, config: None, Config)
    assert tune(tmp_path / "trials.db", way, 8, 0, measure) == []
    assert not (tmp_path / "trials.db").exists()


def test_a_space_that_names_no_setting_is_refused():
    with pytest.raises(UnseeError, match="tunes 'rate', which is no setting.*Allowed: layers, lr, seed"):
        Method("way", "", "", "weights", "", lambda job, config: None, Config, {"rate": Real(1, 2)})
