"""General utility by lmms-eval (the extra ``unsee[utility]``): what a checkpoint can still do beside the concepts.

lmms-eval runs in a process of its own on a saved checkpoint; its figures are read from the file that it writes.
"""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HTTPError

from unsee.errors import UnseeError, nearest
from unsee.files import write_json
from unsee.untrusted import read_json
from unsee.vision.checkpoint import Checkpoint

TASKS = {
    "mme": "mme",
    "pope": "pope",
    "mmbench": "mmbench_en_dev_static",  # mmbench_en_dev asks a GPT model which option an answer means
    "scienceqa": "scienceqa_img",
    "mmmu": "mmmu_val",
    "mmlu": "mmlu_generative",  # by likelihood it asks for what lmms-eval's Qwen models do not have
}
DATA = {"mme": "MME", "pope": "POPE", "mmbench": "MMBench", "scienceqa": "ScienceQA", "mmmu": "MMMU", "mmlu": "mmlu"}
MODELS = {"llava": "llava_hf", "llava_next": "llava_hf", "qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_5_vl"}
OTHER = "huggingface"  # lmms-eval's model for any image-text-to-text checkpoint
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
REACHED = 5.0  # seconds in which the hub has to answer
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
    questions of each task, to try it. UnseeError: lmms-eval is not installed, does not know a task, cannot have its
    data, or fails.
    """
    if not importlib.util.find_spec("lmms_eval"):
        raise UnseeError("general utility needs lmms-eval, which is not installed: pip install 'unsee[utility]'.")
    names = {task: task if folder else _known(task) for task in tasks}
    if not folder:
        _refuse_unreachable(tasks)
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


def _refuse_unreachable(tasks: Sequence[str]) -> None:
    """UnseeError: data of a task are neither in the hub's cache nor to be had.

    lmms-eval itself says so late, as a RetryError without a reason.
    """
    missing = [task for task in tasks if not _cached(DATA[task])]
    if not missing:
        return
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set"
    else:
        try:
            get_session().head(constants.ENDPOINT, timeout=REACHED)
            return
        except (HTTPError, OSError) as error:
            why = f"the hub cannot be reached: {error or type(error).__name__}"
    raise UnseeError(
        f"the data of {', '.join(missing)} are not in the Hugging Face cache, and {why}. Go online once, or give "
        f"--tasks without {'it' if len(missing) == 1 else 'them'}."
    )


def _cached(data: str) -> bool:
    """Whether a data set of this name was downloaded, by whomever it is kept: lmms-eval's versions differ in that."""
    return any(Path(constants.HF_HUB_CACHE).glob(f"datasets--*--{data}"))


def _command(model: str | Path, names: Sequence[str], device: str, out: str) -> list[str]:
    checkpoint = Checkpoint.open(model)
    place = str(model) if checkpoint.revision else str(checkpoint.folder.resolve())
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
    found = [table for file in sorted(out.rglob("*_results.json")) if (table := _table(file))]
    if ended.returncode or not found:
        raise UnseeError(f"lmms-eval failed: {_reason(ended.stdout)}. Its command was: {' '.join(command[1:])}")
    return found[-1]


def _table(file: Path) -> dict[str, Any] | None:
    """Figures by task; None of a file that a task writes beside them, as MMBench does under submissions/."""
    written = read_json(file)
    return written if isinstance(written, dict) and isinstance(written.get("results"), dict) else None


def _reason(said: str) -> str:
    lines = [COLOUR.sub("", line).strip() for line in said.splitlines() if line.strip()]
    told = [match[1].rstrip(". ") for line in lines if (match := FAILED.search(line))]
    return (told or lines or ["it said nothing"])[-1]


def _figures(written: dict[str, Any], name: str) -> dict[str, Figure]:
    """Of one task. lmms-eval names a figure ``metric,filter`` and its errors ``metric_stderr,filter``,
    ``metric_stderr_clt,filter`` and ``metric_stderr_clustered,filter``."""
    row = written.get("results", {}).get(name)
    if row is None:
        raise UnseeError(f"lmms-eval gave no figures of {name}. It may need data or a key that is not there.")
    found: dict[str, Figure] = {}
    for label, value in row.items():
        metric, _, rest = label.partition(",")
        if "_stderr" not in metric and (number := _number(value)) is not None:
            error = _number(row.get(f"{metric}_stderr,{rest}"))
            found[metric if rest in ("", "none") else f"{metric} ({rest})"] = {"value": number, "stderr": error}
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def merge(file: Path | str, model: str, figures: Figures) -> None:
    """Put the ``figures`` of ``model`` under ``utility`` into a JSON file of results; of its tasks there already anew.

    Each model has its own, since one is nothing without another to compare it with.
    """
    path = Path(file)
    try:
        results = read_json(path)
        models = results.get("utility", {})
        results["utility"] = {**models, model: {**models.get(model, {}), **figures}}
    except (UnseeError, TypeError, AttributeError) as error:
        raise UnseeError(
            f"'{file}' is no file of results: {error}. Give the JSON that unsee evaluate wrote."
        ) from error
    write_json(path, results, private=True)
