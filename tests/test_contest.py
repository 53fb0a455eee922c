"""A comparison from the command line, whole: tuned, run, killed, resumed, added to, refused."""

from __future__ import annotations

import json
import multiprocessing
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import started
from tests.small_study import FEW, few_people, teach, write_study
from tests.test_readme import README, blocks

from unsee import rivals
from unsee.cli import main
from unsee.comparison import bench, contest
from unsee.comparison.outcome import Comparison
from unsee.data.study import study_of
from unsee.errors import UnseeError
from unsee.files import locked
from unsee.hardware import has_bf16

DOCUMENT = README.parent / "docs" / "rivals.md"
QUICK = ("--split", "forget_2", "--trials", "2", "--seeds", "2", "--steps", "4", "--batch", "2")


def begin(*given: Any) -> None:
    """A worker of a comparison, which asks as little as these tests do."""
    bench.TEST = FEW
    contest._start(*given)


@pytest.fixture(scope="module", autouse=True)
def few_questions() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "TEST", FEW)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_study(tmp_path_factory.mktemp("study"))
    teach(root, root / "model", steps=20)
    return root


def flags(root: Path, out: Path, *more: str) -> list[str]:
    given = {"model": root / "model", "gold": root / "model", "data": root, "facts": root / "facts.csv"}
    given |= {"recipe": root / "recipe.yaml", "out": out}
    return ["compare", *(part for k, v in given.items() for part in (f"--{k}", f"{v}")), *QUICK, *more]


def found(out: Path) -> Comparison:
    return Comparison.from_json(json.loads((out / "comparison.json").read_text(encoding="utf-8")))


def told(comparison: Comparison) -> list[object]:
    """All but what hangs on the machine's load."""
    runs = [replace(r, seconds=0.0, peak_bytes=0) for r in comparison.runs]
    trials = {n: [replace(t, seconds=0.0) for t in of] for n, of in comparison.trials.items()}
    return [runs, trials, comparison.clusters]


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "whole"
    assert main(flags(root, out, "--methods", "ga,noop")) == 0
    return out


def test_every_method_has_its_trials_and_its_runs(whole, capsys):
    comparison = found(whole)
    assert [(r.method, r.seed) for r in comparison.runs] == [
        ("vanilla", 0), ("gold", 0), ("ga", 0), ("ga", 1), ("noop", 0), ("noop", 1),
    ]  # fmt: skip
    assert {n: len(t) for n, t in comparison.trials.items()} == {"ga": 2}
    vanilla, gold, *ga, noop, _ = comparison.runs
    assert noop.values == vanilla.values and noop.trained == 0 and noop.distance == gold.distance == 0.0
    assert all(r.values != vanilla.values and r.trained > 0 and r.seconds > 0 for r in ga)
    assert ga[0].values["forget_probability"] != ga[1].values["forget_probability"]  # another seed
    assert ga[0].settings == max(comparison.trials["ga"], key=lambda t: t.score).settings
    assert all(len(v) == len(comparison.clusters[n]) for n, v in vanilla.values.items())
    for name in ("report.html", "table.md", "table.csv", "table.tex", "table.json", "trials.db"):
        assert (whole / name).stat().st_size > 0


def test_tuning_never_sees_the_request_that_is_reported(root):
    study = study_of(f"{root}", root / "facts.csv", root / "recipe.yaml")
    assert set(study.split("forget_2", 0)[0]) != set(study.split("forget_2", 1)[0])


@pytest.mark.parametrize("at", [2, 4])
def test_a_stopped_comparison_goes_on_as_an_unbroken_one(at, root, whole, tmp_path, monkeypatch, capsys):
    calls, plain = [], rivals.METHODS["ga"].forget

    def interrupted(job, config):
        calls.append(config)
        if len(calls) == at:
            raise KeyboardInterrupt
        plain(job, config)

    broken = replace(rivals.METHODS["ga"], forget=interrupted)
    monkeypatch.setitem(rivals.METHODS, "ga", broken)
    assert main(flags(root, tmp_path / "out", "--methods", "ga,noop")) == 130
    assert "resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(flags(root, tmp_path / "out", "--methods", "ga,noop")) == 0
    assert told(found(tmp_path / "out")) == told(found(whole))


def test_a_method_is_added_without_running_the_others_again(root, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(whole, out)

    def never(job, config):
        raise AssertionError("run again")

    monkeypatch.setitem(rivals.METHODS, "ga", replace(rivals.METHODS["ga"], forget=never))
    before = found(out).runs
    assert main(flags(root, out, "--methods", "ga,graddiff")) == 0
    after = found(out)
    assert [r for r in after.runs if r.method != "graddiff"] == list(before)
    assert [r.seed for r in after.runs if r.method == "graddiff"] == [0, 1]


def test_of_two_comparisons_in_one_folder_the_second_says_so(root, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)  # with its lock
    with locked(out / "lock", "comparison"):
        assert main(flags(root, out, "--methods", "ga,graddiff")) == 2
    assert f"is at work on the comparison '{out}'" in capsys.readouterr().err
    assert not (out / "runs" / "graddiff-0.json").exists()


def test_methods_at_a_time_in_processes_of_their_own_give_the_same(root, whole, tmp_path, monkeypatch):
    ready = started.context()
    monkeypatch.setattr(multiprocessing, "get_context", lambda how: ready)
    monkeypatch.setattr(contest, "_start", begin)
    assert main(flags(root, tmp_path / "out", "--methods", "ga,noop", "--jobs", "2")) == 0
    assert told(found(tmp_path / "out")) == told(found(whole))


def test_a_method_that_breaks_stands_in_the_table_with_its_error(root, tmp_path, monkeypatch):
    def broken(job, config):
        raise UnseeError("a loss of nan at step 3")

    monkeypatch.setitem(rivals.METHODS, "ga", replace(rivals.METHODS["ga"], forget=broken))
    assert main(flags(root, tmp_path / "out", "--methods", "ga")) == 0
    runs = [r for r in found(tmp_path / "out").runs if r.method == "ga"]
    assert len(runs) == 2 and all("nan" in r.error and not r.metrics for r in runs)
    assert "nan" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--methods", "ga,graddif"), "there is no method 'graddif'. Did you mean 'graddiff'?"),
        (("--trials", "-1"), "--trials is -1; it must be 0 or more"),
        (("--seeds", "0"), "--seeds is 0; it must be 1 or more"),
        (("--lr-scale", "0"), "--lr-scale is 0.0; it must be above 0"),
        (("--split", "forget_99"), "forget_99"),
    ],
)
def test_what_is_refused_before_any_work(more, why, root, tmp_path, capsys):
    assert main(flags(root, tmp_path / "out", *more)) == 2
    assert why in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_commands_of_the_document(root, tmp_path, monkeypatch):
    commands = [line for block in blocks("sh", DOCUMENT) for line in block.splitlines() if line.startswith("unsee ")]
    assert len(commands) == 2
    for name, there in (("MODEL", "model"), ("GOLD", "model"), ("DIR", "."), ("facts.csv",) * 2, ("recipe.yaml",) * 2):
        (tmp_path / name).symlink_to(root / there)
    monkeypatch.chdir(tmp_path)
    few_people(monkeypatch)
    quick = ["--methods", "ga", "--trials", "1", "--seeds", "1", "--steps", "1", "--jobs", "1"]
    for command in commands:
        assert main([*shlex.split(command)[1:], *quick]) == 0
    for name in ("comparison", "mine"):
        assert "Gradient ascent" in (tmp_path / name / "report.html").read_text(encoding="utf-8")


def test_another_comparison_in_the_same_folder_is_refused(root, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "out")
    assert main(flags(root, tmp_path / "out", "--methods", "ga", "--steps", "5")) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "holds a comparison with another steps (4). Give the same to go on, or name another --out" in error
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    assert main(flags(root, tmp_path / "other")) == 2
    assert "holds no comparison" in capsys.readouterr().err


def test_every_method_is_in_float32_when_asked(whole, tmp_path):
    plan = bench.Plan(**json.loads((whole / "plan.json").read_text(encoding="utf-8")) | {"bf16": False})
    here = bench.Bench(plan, tmp_path)
    assert not any(getattr(here.settings(way), "bf16", False) for way in rivals.METHODS.values())


def test_a_comparison_begun_before_float32_could_be_asked_for_goes_on(root, whole, tmp_path):
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    del plan["bf16"]
    (out / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert main(flags(root, out, "--methods", "ga,noop")) == 0
    assert told(found(out)) == told(found(whole))


def test_a_comparison_goes_on_in_another_precision_and_tells_no_times(root, whole, tmp_path, capsys):
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    for file in (out / "runs").glob("noop-*.json"):
        file.unlink()
    capsys.readouterr()
    before, other = ("bfloat16", "float32") if has_bf16() else ("float32", "bfloat16")
    assert main(flags(root, out, "--methods", "ga,noop", "--no-bf16" if has_bf16() else "--bf16")) == 0
    ran = {r.method: r.machine.rpartition(", ")[2] for r in found(out).runs}
    assert ran["ga"] == before and ran["noop"] == other
    printed = " ".join(capsys.readouterr().out.split())
    assert "No times, since methods ran on more than one machine" in printed
    assert "Ran on " in (whole / "table.md").read_text(encoding="utf-8")
    assert "seconds" in (whole / "table.csv").read_text() and "seconds" not in (out / "table.csv").read_text()
