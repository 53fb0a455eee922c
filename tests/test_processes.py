"""Two processes that torchrun starts do what one does, speak once, and end together whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from unsee import resume
from unsee.cli import main

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "unsee"]
# Of 8 images and not of 4: a product over 4 of each kind is cut in two halves by BLAS itself, and sums hide nothing.
pytestmark = [pytest.mark.usefixtures("full_size_module"), pytest.mark.timeout(900)]
FLAGS = ["--steps", "40", "--batch", "8", "--stop", "0", "--most-left", "9", "--no-bf16", "--replay", "24"]
FILES = {"config.yaml", "manifest.json", "metrics.json", "patch", "statistics.safetensors", "undo"}


def start(args: list[str]) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*TWO, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its output ends when the last process that writes to it has ended, so that none can be left."""
    out, err = process.communicate(timeout=240)  # a busy machine takes long to import torch
    assert "terminate called" not in err and "[rank" not in err, err  # no traceback but torchrun's own
    return process.returncode, out, err


def command(model: Path, images: Path, out: Path) -> list[str]:
    known, neutral = str(images / "known"), str(images / "neutral")
    return ["forget", "--model", str(model), "--forget", known, "--retain", known, "--concepts", "ada,ben",
            "--neutral", neutral, "--out", str(out), *FLAGS]  # fmt: skip


def apart(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest difference of two tensors of a name, relative to their size."""
    assert one.keys() == two.keys()
    return max(float((one[k].double() - two[k].double()).norm() / one[k].double().norm()) for k in one)


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "patch" / "patch.safetensors")


def moments(file: Path) -> dict[str, Tensor]:
    return {k: t for k, t in load_file(file).items() if not k.startswith("replay.")}


@pytest.fixture(scope="module")
def runs(checkpoints, images, tmp_path_factory) -> Path:
    """two/: a request on two processes, whose messages are in out and err; one/: on one; other/: with another seed."""
    root = tmp_path_factory.mktemp("runs")
    code, out, err = finish(start(command(checkpoints["llava"], images, root / "two")))
    assert code == 0, err
    for name, flags in (("one", []), ("other", ["--seed", "1"])):
        assert main([*command(checkpoints["llava"], images, root / name), *flags]) == 0
    assert {p.name for p in root.iterdir()} == {"one", "two", "other"}
    (root / "out").write_text(out)
    (root / "err").write_text(err)
    return root


def test_two_processes_change_the_weights_as_one_does(runs):
    assert 0 < apart(weights(runs / "one"), weights(runs / "two")) < 1e-5
    assert apart(weights(runs / "one"), weights(runs / "other")) > 1e-3


def test_two_processes_record_the_moments_that_one_does(runs):
    one, two = (moments(runs / name / "statistics.safetensors") for name in ("one", "two"))
    assert apart(one, two) < 1e-12


def test_the_run_is_written_and_told_once(runs):
    assert {p.name for p in (runs / "two").iterdir()} == FILES
    assert json.loads((runs / "two" / "manifest.json").read_text())["machine"]["processes"] == 2
    out, err = (runs / "out").read_text().splitlines(), (runs / "err").read_text().splitlines()
    assert len(out) == 3 and "2 concept(s) forgotten" in out[0]
    told = [line for line in err if "look like" in line or "learning rate" in line]
    assert [line.partition(":")[0] for line in err if ": " in line and line not in told] == [
        "images to forget", "held-back images", "neutral images", "retain images", "forgetting",
    ]  # fmt: skip
    assert sorted(line.split()[0] for line in told) == sorted({line.split()[0] for line in told}), told
    assert sum("look like a concept to forget" in line for line in told) == 1


def test_statistics_of_uneven_parts(checkpoints, images, make_images, tmp_path):
    """136 images are three parts, so one process has nothing to do in the end."""
    many = make_images(tmp_path / "many", {f"c{i}": i for i in range(17)}, 8)
    args = ["statistics", "--model", str(checkpoints["qwen2_vl"]), "--images", str(many)]
    code, out, err = finish(start([*args, "--out", str(tmp_path / "two")]))
    assert code == 0 and out.count("136 images of 17 concepts") == 1, err
    assert main([*args, "--out", str(tmp_path / "one")]) == 0
    assert main([*args, "--out", str(tmp_path / "less"), "--concepts", "c0"]) == 0
    one = moments(tmp_path / "one")
    assert apart(one, moments(tmp_path / "two")) < 1e-12 < apart(one, moments(tmp_path / "less"))
    parts = [load_file(tmp_path / name) for name in ("one", "two")]
    for name in ("replay.between", "replay.within"):  # of a factor F only FᵀF is determined
        a, b = (part[name].T @ part[name] for part in parts)
        assert apart({name: a}, {name: b}) < 1e-5


@pytest.mark.parametrize(
    ("flags", "why"), [([], "exists already"), (["--lr", "1e30", "--out", "new"], "the loss is not finite at step 1")]
)
def test_an_error_ends_all_and_is_told_once(flags, why, checkpoints, images, tmp_path):
    """The first is found before the processes have met at any sum, the second in the midst of the loop."""
    (tmp_path / "run").mkdir()
    flags = [str(tmp_path / f) if f == "new" else f for f in flags]
    code, out, err = finish(start([*command(checkpoints["llava"], images, tmp_path / "run"), *flags]))
    assert code != 0 and out == ""
    assert err.count("error: ") == err.count(why) == 1
    assert err.count("exitcode  : 2 ") == 2, err  # torchrun's account of its processes
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def interrupt(args: list[str], file: Path, how: signal.Signals) -> str:
    """Send torchrun ``how`` when the run has written a checkpoint; returns what was said when all have ended."""
    before, process = file.stat().st_mtime_ns if file.exists() else 0, start(args)
    while not file.exists() or file.stat().st_mtime_ns == before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(how)
    code, _, err = finish(process)
    assert code != 0
    return err


def test_an_interrupted_run_resumes(runs, checkpoints, images, tmp_path):
    """After Ctrl-C and after torchrun was killed: to the byte on two processes, to rounding on one."""
    out, folder = tmp_path / "run", tmp_path / ".run.checkpoint"
    args = command(checkpoints["llava"], images, out)
    assert interrupt(args, folder / resume.FILE, signal.SIGINT).count("stopped; run the same command again") == 1
    interrupt(args, folder / resume.FILE, signal.SIGKILL)
    assert not out.exists(), "it was done before it could be interrupted: give it more steps"
    shutil.copytree(folder, tmp_path / ".alone.checkpoint")
    code, _, err = finish(start(args))
    assert code == 0, err
    assert main(command(checkpoints["llava"], images, tmp_path / "alone")) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"run", "alone"}
    for file in ("patch/patch.safetensors", "metrics.json"):
        assert (out / file).read_bytes() == (runs / "two" / file).read_bytes()
    assert apart(weights(out), weights(tmp_path / "alone")) < 1e-5
