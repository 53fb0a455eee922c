"""An interrupted run, given again, writes the bytes that it would have written uninterrupted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tests.started import start

from unsee import resume
from unsee.cli import main
from unsee.commands.shared import checkpoints as checkpoints_of
from unsee.errors import UnseeError
from unsee.forgetting import run
from unsee.forgetting.optimizer import ProjectedAdam
from unsee.vision.patch import Patch

PATCH = "patch/patch.safetensors"
FLAGS = ["--steps", "60", "--batch", "2", "--stop", "0", "--most-left", "9", "--replay", "24", "--solve", "0"]


def command(model: Path, images: Path, out: Path, *flags: str) -> list[str]:
    known, neutral = str(images / "known"), str(images / "neutral")
    return ["forget", "--model", str(model), "--forget", known, "--retain", known, "--concepts", "ada,ben",
            "--neutral", neutral, "--out", str(out), *FLAGS, *flags]  # fmt: skip


@pytest.fixture(scope="module")
def whole(checkpoints, images, tmp_path_factory) -> bytes:
    """The patch of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(checkpoints["llava"], images, out)) == 0
    return (out / PATCH).read_bytes()


def interrupt(args: list[str], out: Path, how: signal.Signals, said: Path) -> tuple[int | None, str]:
    """Start the command as a process of its own and send it ``how`` as soon as it has a checkpoint."""
    process = start(args, said)
    file = out.parent / f".{out.name}.checkpoint" / resume.FILE
    while not file.exists():
        assert process.is_alive(), said.read_text()
        time.sleep(0.01)
    os.kill(process.pid, how)
    process.join(240)
    assert not out.exists(), "it was done before it could be interrupted: give it more steps"
    return process.exitcode, said.read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_resumes_to_the_byte(how, whole, checkpoints, images, tmp_path, tmp_path_factory, capsys):
    out = tmp_path / "run"
    args = command(checkpoints["llava"], images, out)
    code, err = interrupt(args, out, how, tmp_path_factory.mktemp("said") / "err")
    if how == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert err.splitlines()[-1] == "stopped; run the same command again to resume"
    assert main(args) == 0
    first = capsys.readouterr().err
    assert (out / PATCH).read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["run"], first


@contextmanager
def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within: a run is interrupted right after its checkpoint of ``step``."""
    save = resume.save

    def stop(folder, weights, optimizer, origin, done, history):
        save(folder, weights, optimizer, origin, done, history)
        if done == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", stop)
        yield


def test_the_comparison_can_fail(whole, checkpoints, images, tmp_path):
    out = tmp_path / "run"
    assert main(command(checkpoints["llava"], images, out, "--seed", "1")) == 0
    assert (out / PATCH).read_bytes() != whole


def test_a_resumed_run_does_not_begin_again(checkpoints, images, tmp_path, monkeypatch):
    """Stopped at step 30 of 60 it has 30 to do; and the checkpoint of other settings is refused."""
    out = tmp_path / "run"
    args = command(checkpoints["llava"], images, out)
    with stopped_at(30, monkeypatch):
        assert main(args) == 130
    assert main([*args, "--lr", "1e-3"]) == 2
    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", lambda *given: done.append(given[4]))
        assert main(args) == 0
    assert done == list(range(40, 61, 10))


def test_a_run_resumed_while_its_rate_falls_ends_where_it_would_have(checkpoints, images, tmp_path, monkeypatch):
    """The target counts as gone at step 20, so the run ends at 30; interrupted between the two it still does."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    monkeypatch.setattr(run, "is_look", lambda step, config: step % 20 == 0)  # not at once, before any checkpoint
    assert main(command(checkpoints["llava"], images, once, "--stop", "0.99")) == 0
    args = command(checkpoints["llava"], images, twice, "--stop", "0.99")
    with stopped_at(20, monkeypatch):
        assert main(args) == 130
    assert main(args) == 0
    assert (once / PATCH).read_bytes() == (twice / PATCH).read_bytes()
    history = json.loads((twice / "metrics.json").read_text())["history"]
    assert [h["step"] for h in history if "left" in h] == [20] and len(history) == 30


@pytest.mark.parametrize("stopped", [20, 30])
def test_a_run_resumed_when_the_blocks_join_ends_alike(stopped, checkpoints, images, tmp_path, monkeypatch):
    """The projector alone is off course at step 20, and the blocks begin there, at a rate of their own."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    flags = ("--projector-first", "--stop", "0.01", "--steps", "40")
    assert main(command(checkpoints["llava"], images, once, *flags)) == 0
    args = command(checkpoints["llava"], images, twice, *flags)
    with stopped_at(stopped, monkeypatch):
        assert main(args) == 130
    assert main(args) == 0
    assert (once / PATCH).read_bytes() == (twice / PATCH).read_bytes()
    history = json.loads((twice / "metrics.json").read_text())["history"]
    assert [h["step"] for h in history if "rate" in h] == [1, 21]
    names = set(Patch.load(once / "patch").tensors)
    assert any("projector" in n for n in names) and any("vision" in n for n in names)


def test_a_projector_that_is_on_course_changes_alone(checkpoints, images, tmp_path):
    out = tmp_path / "run"
    assert main(command(checkpoints["llava"], images, out, "--projector-first", "--stop", "0.99")) == 0
    assert all("projector" in n for n in Patch.load(out / "patch").tensors)


def test_a_second_run_to_the_same_output_is_told(checkpoints, images, tmp_path, capsys):
    """While the first is at work: it says so in one line, and touches nothing of the first."""
    out, ready, done = tmp_path / "run", tmp_path / "ready", tmp_path / "done"
    child = os.fork()
    if not child:
        with checkpoints_of(out) as folder:
            (folder / resume.FILE).write_text("the first's")
            ready.touch()
            while not done.exists():
                time.sleep(0.01)
        os._exit(0)
    while not ready.exists():
        time.sleep(0.01)
    args = command(checkpoints["llava"], images, out)
    assert main(args) == 2
    assert f"error: another unsee is at work on '{out}'" in capsys.readouterr().err
    assert (tmp_path / ".run.checkpoint" / resume.FILE).read_text() == "the first's"
    done.touch()
    os.waitpid(child, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["done", "ready"]


def test_killed_when_all_is_in_place(checkpoints, images, tmp_path, capsys):
    """What it left goes when the command is given again, which says that the output is there."""
    out, left = tmp_path / "run", tmp_path / ".run.checkpoint"
    for folder in (out, left):
        folder.mkdir()
    (left / resume.FILE).touch()
    args = command(checkpoints["llava"], images, out)
    assert main(args) == 2 and left.exists()  # an empty folder is no output
    (out / "manifest.json").touch()
    (tmp_path / ".run.unsee-lock").touch()
    assert main(args) == 2
    assert "exists already" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_a_run_writes_is_private(checkpoints, images, tmp_path, monkeypatch):
    """It holds names, paths, features and statistics. A checkpoint on the way too."""
    seen = list[int]()
    monkeypatch.setattr(resume, "restore", lambda folder, *_: seen.append(folder.stat().st_mode) or (0, []))
    out, sums = tmp_path / "run", tmp_path / "sums"
    args = [*command(checkpoints["llava"], images, out), "--steps", "1", "--most-left", "9"]
    assert main(args) == 0
    statistics = ["--images", str(images / "known"), "--concepts", "ada", "--out", str(sums)]
    assert main(["statistics", "--model", str(checkpoints["llava"]), *statistics]) == 0
    modes = [p.stat().st_mode for p in (out, *out.rglob("*"), sums)]
    assert not [m for m in (*modes, *seen) if m & 0o077] and len(seen) == 1


def folder_study(images: Path, root: Path) -> list[str]:
    for part, source in (("train", "known"), ("test", "known"), ("neutral", "neutral")):
        (root / part).symlink_to(images / source)
    names = ("ada", "ben", "cleo", "dan", "eve")
    (root / "facts.csv").write_text("id,name\n" + "".join(f"{n},{n.title()}\n" for n in names))
    (root / "recipe.yaml").write_text(
        "id: id\ntopics:\n  name: {kind: identity, column: name, image: ['who is this ?', 'this is ?']}\n"
    )
    return ["--data", str(root), "--facts", str(root / "facts.csv"), "--recipe", str(root / "recipe.yaml")]


@pytest.mark.parametrize("shape", ["llava", "qwen2_vl"])
def test_finetuning_resumes_to_the_byte(shape, checkpoints, images, tmp_path, monkeypatch, capsys):
    study = folder_study(images, tmp_path)
    flags = ["--steps", "6", "--batch", "4", "--checkpoint-every", "2", "--lr", "1e-3"]
    args = ["finetune", "--model", str(checkpoints[shape]), *study, *flags]
    assert main([*args, "--out", str(tmp_path / "whole")]) == 0
    save = resume.save

    def stop(*given):
        save(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", stop)
        assert main([*args, "--out", str(tmp_path / "again")]) == 130
        assert main([*args, "--out", str(tmp_path / "again")]) == 130
    assert main([*args, "--out", str(tmp_path / "again")]) == 0
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert main([*args, "--seed", "1", "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / weights).read_bytes() != (tmp_path / "whole" / weights).read_bytes()
    assert not list(tmp_path.glob(".*"))


def optimizer(weight: torch.nn.Parameter) -> ProjectedAdam:
    return ProjectedAdam([(weight, None)])


def test_restore_without_a_checkpoint_does_nothing(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    assert resume.restore(tmp_path, {"w": weight}, optimizer(weight), "x") == (0, [])
    assert torch.equal(weight, torch.ones(2, 2))


def test_restore_refuses_another_run(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    resume.save(tmp_path, {"w": weight}, optimizer(weight), "x", 10, [])
    with pytest.raises(UnseeError, match="remove it to start anew"):
        resume.restore(tmp_path, {"w": weight}, optimizer(weight), "y")


def test_origin_depends_on_everything():
    base = resume.origin({"a": 1}, [torch.zeros(3)], ["n"])
    assert base == resume.origin({"a": 1}, [torch.zeros(3)], ["n"])
    others = [
        resume.origin({"a": 2}, [torch.zeros(3)], ["n"]),
        resume.origin({"a": 1}, [torch.ones(3)], ["n"]),
        resume.origin({"a": 1}, [torch.zeros(3, dtype=torch.float64)], ["n"]),
        resume.origin({"a": 1}, [torch.zeros(3)], ["m"]),
    ]
    assert base not in others and len(set(others)) == 4
