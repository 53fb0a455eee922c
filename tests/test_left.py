"""A target that has not left: said in red, by an exit code of its own, in the run folder and in the library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.faults import forget_flags, given_base  # noqa: F401  (fixture: base)

import unsee
from unsee import ForgetConfig
from unsee.cli import main, overview
from unsee.forgetting.run import Forgetting

JUDGED = ["--stop", "0.2", "--most-left", "0.4"]


def shows(monkeypatch, **left: float) -> None:
    """What held-back views of each concept are taken to show."""
    given = lambda job: torch.tensor([left[c] for c in job.check.concepts])  # noqa: E731
    monkeypatch.setattr(Forgetting, "_shown", given)


def figures(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_what_two_steps_leave_is_not_forgotten(base, images, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*forget_flags(base, images, out), *JUDGED]) == 3
    said, told = capsys.readouterr()
    assert "1 concept(s) NOT forgotten" in said and "next: unsee apply" not in said
    told = told[told.index("not forgotten: ") :]
    assert "must not be released" in told and "more --steps than 2" in told and "those of 'ada'" in told
    assert figures(out)["forgotten"] is False and figures(out)["left"]["worst"] > 0.4
    assert (out / "patch" / "patch.safetensors").is_file() and [p.name for p in tmp_path.iterdir()] == ["run"]
    assert main(["push", "--run", str(out), "--repo", "o/n"]) == 2
    assert "must not be released" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("left", "most", "code", "forgotten"),
    [
        ({"ada": 0.1, "ben": 0.1}, "0.4", 0, True),
        ({"ada": 0.5, "ben": 0.0}, "0.4", 3, False),  # the mean would do
        ({"ada": 0.39, "ben": 0.39}, "0.4", 0, True),  # --stop only ends the steps
        ({"ada": float("nan"), "ben": 0.0}, "0.4", 3, False),
        ({"ada": 0.9, "ben": 0.9}, "0.95", 0, True),
    ],
)
def test_the_worst_concept_counts(left, most, code, forgotten, base, images, tmp_path, monkeypatch, capsys):
    shows(monkeypatch, **left)
    out = tmp_path / "run"
    assert main([*forget_flags(base, images, out, "ada,ben"), "--stop", "0", "--most-left", most]) == code
    said, told = capsys.readouterr()
    assert ("not forgotten: " in told) == ("NOT forgotten" in said) == (code == 3)
    assert figures(out)["forgotten"] is forgotten


@pytest.mark.parametrize(("moved", "code"), [(0.29, 0), (0.31, 3)])
def test_what_stays_and_has_moved_too_far(moved, code, base, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Forgetting, "_certificates", lambda job: dict.fromkeys(job.layers, 0.01) | {"last": moved})
    out = tmp_path / "run"
    assert main([*forget_flags(base, images, out), "--most-left", "9"]) == code
    said, told = capsys.readouterr()
    assert ("not kept: " in told) == ("must not be released" in told) == (code == 3)
    assert ("next: unsee apply" in said) == (code == 0) and figures(out)["kept"] is (code == 0)
    if code:
        assert "'last' have moved by" in told and "a lower --lr than" in told
        assert main(["push", "--run", str(out), "--repo", "o/n"]) == 2
        assert "was to keep has moved too far" in capsys.readouterr().err
        served = ["apply", "--model", str(base), "--patch", str(out / "patch"), "--out", str(tmp_path / "new")]
        assert main(served) == 2 and not (tmp_path / "new").exists()
        assert "must not be released: what stays had moved too far" in capsys.readouterr().err
        assert main([*served, "--allow-failed"]) == 0


def test_steps_go_on_while_a_concept_lags(base, images, tmp_path, monkeypatch, capsys):
    """The mean has come to --stop at the first look, and the release check would still fail."""
    shows(monkeypatch, ada=0.5, ben=0.0)
    asked = [*forget_flags(base, images, tmp_path / "run", "ada,ben"), *JUDGED, "--stop", "0.3", "--steps", "50"]
    assert main(asked) == 3
    assert "after 50 steps" in (told := capsys.readouterr().err) and "more --steps than 50" in told


def test_the_library_says_so(base, images, make_images, tmp_path):
    from unsee.vision.module import load_visual

    make_images(tmp_path / "ada", {"ada": 1})
    given = {"forget": tmp_path / "ada", "retain": images / "neutral", "neutral": images / "neutral"}
    done = unsee.forget(load_visual(base), **given, config=ForgetConfig(steps=2, batch=4, stop=0.2))
    assert done.forgotten is False and done.left["ada"] == pytest.approx(done.share) and done.share > 0.2


def test_the_exit_codes_are_told():
    assert "\n  3 " in overview() and "not to be released" in overview()


def test_a_dry_run_judges_nothing(base, images, tmp_path):
    assert main([*forget_flags(base, images, tmp_path / "run"), *JUDGED, "--dry-run"]) == 0
