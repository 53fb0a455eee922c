"""A published benchmark from its folder to the table, by the commands that the documents name."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unsee.cli import main
from unsee.data import sources
from unsee.data.benchmark import Benchmark
from unsee.data.export import export
from unsee.errors import NOT_TO_RELEASE
from unsee.evaluation.engine import Batched

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "evaluation.md"


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Answers of four tokens at most, since an untaught model goes on to the limit; questions about two of a group."""
    generate, opened = Batched.generate, sources.open_benchmark

    def few(*given: Any, **named: Any) -> Benchmark:
        benchmark = opened(*given, **named)
        asked = {group: {e.question.concept: 0 for e in of} for group, of in benchmark.groups.items()}
        first = {group: list(of)[:2] for group, of in asked.items()}
        return replace(benchmark, entries=tuple(e for e in benchmark.entries if e.question.concept in first[e.group]))

    monkeypatch.setattr(Batched, "generate", lambda self, prompts, tokens: generate(self, prompts, min(tokens, 4)))
    monkeypatch.setattr(sources, "open_benchmark", few)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "mllmu"
    assert (
        main(["data", "export", "people", "--format", "mllmu", "--out", f"{folder}", "--people", "20", "--views", "1"])
        == 0
    )
    return folder


def evaluate(model: Path, source: Path, out: Path, *more: str) -> int:
    asked = ["--model", f"{model}", "--benchmark", "mllmu", "--source", f"{source}", "--split", "forget_5"]
    return main(["evaluate", *asked, "--out", f"{out}", *more])


def test_the_commands_of_the_document(tmp_path, monkeypatch, checkpoints):
    for name in ("M", "VANILLA", "GOLD"):
        shutil.copytree(checkpoints["llava"], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    commands = [shlex.split(line)[1:] for line in block.splitlines() if line.startswith("unsee ")]
    assert len(commands) == 4
    for command in commands:
        assert main([*command, *(["--people", "20", "--views", "1"] if "export" in command else [])]) == 0, command
    written = {path.name for path in (tmp_path / "OUT-official").iterdir()}
    assert {
        "items.jsonl",
        "table.json",
        "table.csv",
        "table.md",
        "table.tex",
        "manifest.json",
        "report.html",
    } <= written


def test_the_same_command_gives_the_same_bytes_also_where_answers_are_kept(tmp_path, exported, checkpoints):
    kept = tmp_path / "answers.sqlite"
    for out, more in (("one", []), ("two", ["--cache", f"{kept}"]), ("three", ["--cache", f"{kept}"])):
        assert evaluate(checkpoints["llava"], exported, tmp_path / out, *more) == 0
    folders = [{p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("one", "two", "three")]
    assert folders[0] == folders[1] == folders[2]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("compare", "said"),
    [(["vanilla"], "write NAME=MODEL"), (["a=x", "a=y"], "stands twice"), (["model=x"], "stands twice")],
)
def test_models_to_compare_have_a_name_each(tmp_path, exported, checkpoints, capsys, compare, said):
    assert evaluate(checkpoints["llava"], exported, tmp_path / "out", "--compare", *compare) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_not_there(tmp_path, exported, checkpoints, capsys):
    asked = ["--model", f"{checkpoints['llava']}", "--benchmark", "mllmu", "--source", f"{exported}"]
    assert main(["evaluate", *asked, "--split", "forget_7", "--out", f"{tmp_path / 'out'}"]) == 2
    assert "Did you mean 'forget_5'" in capsys.readouterr().err


def test_check_ends_with_2_where_something_is_wrong(tmp_path, exported, capsys):
    assert main(["data", "check", f"{exported}"]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    shutil.copytree(exported, tmp_path / "broken")
    (file,) = (tmp_path / "broken" / "forget_5").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    assert main(["data", "check", f"{tmp_path / 'broken'}"]) == 2
    assert "1 fault" in capsys.readouterr().err
    assert main(["data", "check", f"{tmp_path / 'nothing'}"]) == 2
    assert "is no folder here" in capsys.readouterr().err


def test_teach_a_benchmark_and_not_its_forgotten(tmp_path, exported, checkpoints, capsys):
    asked = ["--benchmark", "mllmu", "--source", f"{exported}", "--steps", "1", "--batch", "2"]
    taught = []
    for name, without in (("vanilla", []), ("gold", ["--without", "forget_5"])):
        flags = [*asked, "--split", "forget_5", *without, "--out", f"{tmp_path / name}"]
        assert main(["finetune", "--model", f"{checkpoints['llava']}", *flags]) == 0
        taught.append(int(re.search(r"taught (\d+) images", capsys.readouterr().out)[1]))
    assert taught[0] > taught[1] > 0
    assert main(["finetune", "--model", f"{checkpoints['llava']}", "--out", f"{tmp_path / 'x'}"]) == 2
    assert "one of the two" in capsys.readouterr().err


def variables_of(tmp_path: Path, name: str, model: Path) -> dict[str, str]:
    return {
        "MODEL": f"{model}", "DATA": f"{tmp_path / 'data'}", "OUT": f"{tmp_path / 'out'}",
        "TEACH": "--steps 1 --batch 2", "FORGET": "--steps 1 --batch 2",
        "SPLIT": "forget05" if name == "clear" else "forget_10",
    }  # fmt: skip


@pytest.mark.parametrize("recipe", ["mllmu-qwen2-vl-7b", "clear-llava-1.5-7b", "umu-qwen2-vl-7b"])
def test_a_recipe_runs_to_its_end(tmp_path, checkpoints, recipe):
    """The tiny twin: a small model of the same kind, exported data, few steps. Each benchmark is run once."""
    name, shape = recipe.partition("-")[0], "qwen2_vl" if "qwen2" in recipe else "llava"
    export(name, tmp_path / "data", 20, 1)
    variables = variables_of(tmp_path, name, checkpoints[shape])
    commands = commands_of(ROOT / "recipes" / f"{recipe}.sh", tmp_path / "bin", variables)
    assert [c[0] for c in commands].count("evaluate") == 2
    for command in commands:
        assert main(command) in ((0, NOT_TO_RELEASE) if command[0] == "forget" else (0,)), command
    for protocol in ("official", "strict"):
        metrics = json.loads((tmp_path / "out" / protocol / "metrics.json").read_text())
        assert set(metrics["models"]) == {"model", "vanilla", "gold"}


@pytest.mark.parametrize("name", ["mllmu", "clear", "umu"])
def test_recipes_of_a_benchmark_do_the_same_with_another_model(tmp_path, name):
    variables = variables_of(tmp_path, name, Path("m"))
    given = []
    for recipe in sorted((ROOT / "recipes").glob(f"{name}-*.sh")):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        given.append(commands_of(recipe, tmp_path / recipe.stem, variables))
    assert len(given) == 2 and given[0] == given[1] != []


OUTPUTS = ["images", "vanilla", "gold", "run", "unsee", "official", "strict"]


@pytest.mark.parametrize("stopped", OUTPUTS)
def test_an_interrupted_recipe_makes_only_what_is_not_there(tmp_path, stopped):
    """By an ``unsee`` that only makes its output: as a real one, when it is done; it is killed once, at ``stopped``."""
    pretend(
        tmp_path / "bin",
        f"""case "$out" in */{stopped}) [ -e "$0.killed" ] || {{ : > "$0.killed"; exit 130; }};; esac
mkdir "$out"
case "$1" in forget) exit 3;; esac""",
    )
    assert follow(tmp_path).returncode == 130
    assert follow(tmp_path).returncode == 0
    begun = [Path(line).name for line in (tmp_path / "bin" / "told").read_text().splitlines()]
    place = OUTPUTS.index(stopped)
    assert begun == [*OUTPUTS[:place], stopped, *OUTPUTS[place:]]
    assert follow(tmp_path).returncode == 0 and {p.name for p in (tmp_path / "out").iterdir()} == {*OUTPUTS, "given"}
    other = follow(tmp_path, TEACH="--steps 2")
    assert other.returncode == 2 and "was begun with" in other.stderr and other.stderr.count("\n") == 1


def test_a_recipe_ends_where_a_step_fails(tmp_path):
    pretend(tmp_path / "bin", 'case "$1" in forget) exit 2;; esac\nmkdir "$out"')
    assert follow(tmp_path).returncode == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"given", "images", "vanilla", "gold"}


def pretend(folder: Path, doing: str) -> None:
    """An ``unsee`` for a script to call, which notes each output asked for and then does as is said here."""
    folder.mkdir()
    (folder / "unsee").write_text(f"""#!/bin/sh
[ "$2" = check ] && exit 0
for out; do :; done
echo "$out" >> {folder}/told
{doing}
""")
    (folder / "unsee").chmod(0o755)


def follow(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "OUT": f"{folder / 'out'}", "DATA": "d", "MODEL": "m"}
    script = ROOT / "recipes" / "mllmu-qwen2-vl-7b.sh"
    return subprocess.run(["sh", f"{script}"], env=os.environ | path | variables, capture_output=True, text=True)


def commands_of(script: Path, folder: Path, variables: dict[str, str]) -> list[list[str]]:
    """What the script gives to unsee, told by an ``unsee`` that only writes it down: a process each takes long."""
    folder.mkdir()
    (folder / "unsee").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" END >> {folder}/told\n")
    (folder / "unsee").chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["sh", f"{script}"], env=os.environ | variables | path, check=True)
    told = (folder / "told").read_text().split("END\n")[:-1]
    return [command.splitlines() for command in told]
