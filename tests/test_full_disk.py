"""No file may grow any more, whichever library writes it: one true line, exit code 2, and the same command goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import small_ledger
from tests.conftest import WORDS, small_model
from tests.faults import (  # noqa: F401  (fixtures: base, made)
    apply_flags,
    forget_flags,
    full_disk,
    given_base,
    given_run,
    revert_flags,
    tree,
)
from tests.small_ledger import asked
from tests.test_resume import folder_study

from unsee import resume
from unsee.cli import main
from unsee.errors import UnseeError
from unsee.evaluation.cache import Cache
from unsee.ledger.book import Ledger

LIMITS = (0, 50_000)  # bytes: nothing can be written; all but weights
COMMANDS = ("forget", "apply", "revert", "statistics", "add-statistics", "finetune", "lora")
STEPS = ("init", "add", "run", "release", "export")


@dataclass
class Desk:
    """What commands are given, and a ledger before each step."""

    base: Path
    images: Path
    made: Path
    root: Path

    def flags(self, command: str, out: Path) -> list[str]:
        patch, known = self.made / "patch", str(self.images / "known")
        sums = [str(self.root / "sum"), str(self.root / "sum")]
        return {
            "forget": lambda: forget_flags(self.base, self.images, out),
            "apply": lambda: apply_flags(self.base, patch, out),
            "revert": lambda: revert_flags(self.root / "patched", self.made / "undo", out),
            "lora": lambda: ["lora", "--model", str(self.base), "--patch", str(patch), "--out", str(out)],
            "statistics": lambda: ["statistics", "--model", str(self.base), "--images", known, "--out", str(out)],
            "add-statistics": lambda: ["add-statistics", *sums, "--out", str(out)],
            "finetune": lambda: [
                "finetune", "--model", str(self.root / "talk"), "--steps", "2", "--batch", "2", *self.study(),
                "--out", str(out),
            ],
        }[command]()  # fmt: skip

    def study(self) -> list[str]:
        place = self.root / "study"
        if not place.exists():
            place.mkdir()
            return folder_study(self.images, place)
        return ["--data", f"{place}", "--facts", f"{place / 'facts.csv'}", "--recipe", f"{place / 'recipe.yaml'}"]

    def step(self, step: str, place: Path) -> list[str]:
        """Flags of a ledger's command in ``place``, where the ledger lies as it is before."""
        ledger = place / "ledger"
        if step != "init":
            shutil.copytree(self.root / f"before {step}", ledger)
        out = ["--out", str(place / "out")] if step == "export" else []
        given = {"init": small_ledger.init(self.root, ledger), "add": small_ledger.add(self.root, ledger, "ada")}
        return given.get(step) or asked(step, ledger, *out)


@pytest.fixture(scope="module", name="desk")
def given_desk(base, images, made, tmp_path_factory) -> Desk:
    root = small_ledger.desk(tmp_path_factory.mktemp("desk"))
    desk = Desk(base, images, made, root)
    assert main(apply_flags(base, made / "patch", root / "patched")) == 0
    assert main(desk.flags("statistics", root / "sum")) == 0
    model, processor = small_model("llava", WORDS)
    model.save_pretrained(root / "talk")
    processor.save_pretrained(root / "talk")
    ledger = root / "ledger"
    for before, step in zip((None, *STEPS[1:]), (small_ledger.init(root, ledger), *STEPS[1:]), strict=True):
        if before:
            shutil.copytree(ledger, root / f"before {before}")
        given = {"add": small_ledger.add(root, ledger, "ada"), "export": asked("export", ledger, "--out", f"{root}/x")}
        assert main(step if isinstance(step, list) else given.get(step) or asked(step, ledger)) == 0
    return desk


def refused(capsys, flags: list[str], most: int) -> bool:
    """Whether a command had no room; it says so in one line."""
    capsys.readouterr()
    with full_disk(most):
        code = main(flags)
    err = capsys.readouterr().err
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code in (0, 2) and "Traceback" not in err and len(told) == (code == 2)
    assert not told or ("again" in told[0] and ("File too large" in told[0] or "disk I/O error" in told[0]))
    return code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_writes_a_new_output(command, desk, tmp_path, capsys):
    """Nothing is left, nothing is said that is not so, and there is no limit at which it ends otherwise."""
    flags = desk.flags(command, tmp_path / "sub" / "out")
    refusals = [refused(capsys, flags, most) for most in LIMITS if not (tmp_path / "sub" / "out").exists()]
    assert refusals[0] and (not refusals[-1] or list(tmp_path.iterdir()) == [])
    assert not refusals[-1] or main(flags) == 0
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["out"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("most", LIMITS)
def test_a_step_of_a_ledger(step, most, desk, tmp_path, capsys):
    """It is done or it is not: the ledger is whole, and the same command again brings it where it would be."""
    flags, ledger = desk.step(step, tmp_path), tmp_path / "ledger"
    if refused(capsys, flags, most):
        assert step == "init" or main(asked("audit", ledger)) == 0
        assert main(flags) == 0
    assert main(asked("audit", ledger)) == 0
    wanted = {"init": "add", "add": "run", "run": "release", "release": "export", "export": "export"}[step]
    assert states(ledger) == states(desk.root / f"before {wanted}")
    assert not [p for p in tmp_path.rglob(".*")] and not (ledger / "work").exists()


def states(ledger: Path) -> list[tuple[str, str | None]]:
    opened = Ledger(ledger)
    return [(e.state, e.turn) for e in opened.store.entries()] + [(line.event, "") for line in opened.store.lines()]


def test_add_is_taken_in_or_not(desk, tmp_path, capsys):
    """What says that nothing was written is true: the request is not there, and can be given again."""
    flags, ledger = desk.step("add", tmp_path), tmp_path / "ledger"
    assert refused(capsys, flags, 0) and states(ledger) == states(desk.root / "before add")
    assert main(flags) == 0 and main(flags) == 2
    assert "are those of request" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["a checkpoint", "the run folder"])
def test_forget_goes_on_from_its_checkpoint(where, base, images, tmp_path, monkeypatch, capsys):
    def flags(out: Path) -> list[str]:
        return [*forget_flags(base, images, out), "--steps", "25"]

    assert main(flags(tmp_path / "whole")) == 0
    save: Callable[..., None] = resume.save

    def filling(*given) -> None:
        with full_disk(0 if given[4] == 20 else 2**40):
            save(*given)

    with monkeypatch.context() as patch:
        if where == "a checkpoint":
            patch.setattr(resume, "save", filling)
        else:
            patch.setattr("unsee.runs.figures", lambda *_: "x" * 10**6)
        with full_disk(2**40 if where == "a checkpoint" else 10**6):
            assert main(flags(tmp_path / "run")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Nothing of it was left behind. Mend that and give the same command again: it goes on where" in last
    assert sorted(p.name for p in tmp_path.iterdir()) == [".run.checkpoint", "whole"]
    steps = list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", lambda *given: steps.append(given[4]))
        assert main(flags(tmp_path / "run")) == 0
    assert steps == ([20] if where == "a checkpoint" else [])
    for part in ("patch", "undo", "metrics.json", "statistics.safetensors"):
        assert alike(tmp_path / "run" / part, tmp_path / "whole" / part)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "whole"]


def alike(one: Path, two: Path) -> bool:
    return tree(one) == tree(two) if one.is_dir() else one.read_bytes() == two.read_bytes()


def test_a_cache_of_answers(tmp_path):
    cache = Cache(tmp_path / "answers.db")
    with full_disk(), pytest.raises(UnseeError, match="cannot be used"):
        cache.put("key", "x" * 10_000)
    cache.put("key", "x")
    assert cache.get("key") == "x" and (tmp_path / "answers.db").stat().st_mode & 0o077 == 0
