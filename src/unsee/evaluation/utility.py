"""General utility by lmms-eval (the extra ``unsee[utility]``): what a checkpoint can still do beside the concepts.

lmms-eval runs in a process of its own on a saved checkpoint; its figures are read from the file that it writes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

from unsee.errors import UnseeError, nearest
from unsee.files import write_json
from unsee.vision.checkpoint import Checkpoint

TASKS = {
    "mme": "mme",
    "pope": "pope",
    "mmbench": "mmbench_en_dev",
    "scienceqa": "scienceqa_img",
    "mmmu": "mmmu_val",
    "mmlu": "mmlu_generative",  # by likelihood it asks for what lmms-eval's Qwen models do not have
}
MODELS = {"llava": "llava_hf", "llava_next": "llava_hf", "qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_5_vl"}
OTHER = "huggingface"  # lmms-eval's model for any image-text-to-text checkpoint
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FAILED = re.compile(r"Error during evaluation: (.*?)(?: Please set|$)")


class Figure(TypedDict):
    value: float
    stderr: float | None


Figures = dict[str, dict[str, Figure]]  # task → metric → figure


def utility(
    model: str | Path,
    tasks: Sequence[str] = tuple(TASKS),
    device: str = "cpu",
    folder: Path | None = None,
    limit: int | None = None,
) -> Figures:
    """Figures of the checkpoint ``model``, a folder or a hub name, on each of ``tasks``.

    ``tasks``: of ``TASKS``, or with ``folder``, which holds task files of lmms-eval, any of theirs. ``limit``: how many
    questions of each task, to try it. UnseeError: lmms-eval is not installed, does not know a task, or fails.
    """
    if not importlib.util.find_spec("lmms_eval"):
        raise UnseeError("general utility needs lmms-eval, which is not installed: pip install 'unsee[utility]'.")
    names = {task: task if folder else _known(task) for task in tasks}
    with TemporaryDirectory() as out:
        command = _command(model, list(names.values()), device, out)
        command += ["--include_path", str(folder)] if folder else []
        command += ["--limit", str(limit)] if limit else []
        written = _run(command, Path(out))
    return {task: _figures(written, name) for task, name in names.items()}


def _known(task: str) -> str:
    if task == "cmmlu":
        raise UnseeError("lmms-eval has no task cmmlu. Take mmlu, or run cmmlu by lm-evaluation-harness.")
    if task not in TASKS:
        raise UnseeError(f"no task '{task}'. {nearest(task, TASKS)} Other tasks need a folder of task files.")
    return TASKS[task]


def _command(model: str | Path, names: Sequence[str], device: str, out: str) -> list[str]:
    checkpoint = Checkpoint.open(model)
    place = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    if "," in place or "=" in place:  # lmms-eval takes its arguments apart there
        raise UnseeError(f"lmms-eval cannot read a path with a comma or an equals sign: '{place}'. Rename the folder.")
    return [
        sys.executable, "-m", "lmms_eval",
        "--model", MODELS.get(checkpoint.config.model_type, OTHER),
        "--model_args", f"pretrained={place},device_map={device}",  # transformers 5 refuses some models' own default
        "--tasks", ",".join(names),
        "--device", device,
        "--batch_size", "1",
        "--output_path", out,
    ]  # fmt: skip


def _run(command: list[str], out: Path) -> dict[str, Any]:
    """What lmms-eval wrote. It ends with 0 when it failed too, so that only the file tells."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, errors="replace")  # progress goes to stderr
    files = sorted(out.rglob("*_results.json"))
    if ended.returncode or not files:
        raise UnseeError(f"lmms-eval failed: {_reason(ended.stdout)}. Its command was: {' '.join(command[1:])}")
    found: dict[str, Any] = json.loads(files[-1].read_text(encoding="utf-8"))
    return found


def _reason(said: str) -> str:
    lines = [COLOUR.sub("", line).strip() for line in said.splitlines() if line.strip()]
    told = [match[1].rstrip(". ") for line in lines if (match := FAILED.search(line))]
    return (told or lines or ["it said nothing"])[-1]


def _figures(written: dict[str, Any], name: str) -> dict[str, Figure]:
    """Of one task. lmms-eval names a figure ``metric,filter`` and its error ``metric_stderr,filter``."""
    row = written.get("results", {}).get(name)
    if row is None:
        raise UnseeError(f"lmms-eval gave no figures of {name}. It may need data or a key that is not there.")
    found: dict[str, Figure] = {}
    for label, value in row.items():
        metric, _, rest = label.partition(",")
        if not metric.endswith("_stderr") and (number := _number(value)) is not None:
            error = _number(row.get(f"{metric}_stderr,{rest}"))
            found[metric if rest in ("", "none") else f"{metric} ({rest})"] = {"value": number, "stderr": error}
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def merge(file: Path | str, figures: Figures) -> None:
    """Put ``figures`` under ``utility`` into a JSON file of results; of tasks that stand there already anew."""
    path = Path(file)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["utility"] = {**results.get("utility", {}), **figures}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnseeError(
            f"'{file}' is no file of results: {error}. Give the JSON that unsee evaluate wrote."
        ) from error
    write_json(path, results)
