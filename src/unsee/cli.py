"""The command line: finds the command, reads its flags, and says in one line what went wrong.

What a command needs is imported when it runs, so that ``unsee --help`` and most errors come at once.
"""

from __future__ import annotations

import argparse
import inspect
import os
import select
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tyro
import yaml
from rich.console import Console
from rich.text import Text

from unsee import __version__, processes
from unsee.commands import benchmarks, comparing, forgetting, models, requests, studies
from unsee.errors import UnseeError, nearest
from unsee.progress import say

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": studies.demo,
    "forget": forgetting.forget,
    "statistics": forgetting.statistics,
    "add-statistics": forgetting.add_statistics,
    "apply": models.apply,
    "revert": models.revert,
    "inspect": models.inspect_model,
    "lora": models.lora,
    "push": models.push,
    "evaluate": benchmarks.evaluate,
    "utility": benchmarks.utility,
    "compare": comparing.compare,
    "data check": benchmarks.data_check,
    "data export": benchmarks.data_export,
    "data folders": benchmarks.data_folders,
    "requests init": requests.init,
    "requests add": requests.add,
    "requests list": requests.list_requests,
    "requests run": requests.run,
    "requests verify": requests.verify,
    "requests release": requests.release,
    "requests rollback": requests.rollback,
    "requests replay": requests.replay,
    "requests audit": requests.audit,
    "requests export": requests.export,
    "finetune": studies.finetune,
    "pretrain": studies.pretrain,
    "questions": studies.questions,
}
# the same command again goes on where it was stopped
RESUME = ("forget", "finetune", "evaluate", "compare", "requests run", "requests replay")
UNREAD = 141  # exit code, a shell's for SIGPIPE
SHARED = ("forget", "statistics", "evaluate")  # several processes can do them together
CONFIG_HELP = "--config FILE reads flags from a YAML file, such as the config.yaml of a run; flags given beside it win."


def main(args: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 2 for what the user can put right, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if args is None else args)
    _quiet()
    code = _answer(given)
    processes.leave(code)
    return code


def _answer(given: list[str]) -> int:
    try:
        processes.meet()
        code = _run(given)
        sys.stdout.flush()  # what nobody reads is found out here, not while Python ends
        return code
    except BrokenPipeError:
        if not _unread():  # it was another pipe
            raise
        return UNREAD
    except UnseeError as error:
        if processes.speaks():
            Console(stderr=True).print(Text("error: ", "bold red") + Text(str(error)), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        again = "run the same command again to resume" if _name(given) in RESUME else "nothing was written"
        say(f"\nstopped; {again}")
        return processes.INTERRUPTED


def _unread() -> bool:
    """Whether what is printed is read no further, as by ``unsee … | head``; if so, the rest goes nowhere."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in pipe.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0
    if given[0] == "--version":
        print(f"unsee {__version__}")
        return 0
    name = _name(given)
    if name not in COMMANDS:
        group = [c for c in COMMANDS if c.startswith(f"{name} ")]
        asked = " ".join(given[:2]) if group else name
        raise UnseeError(f"there is no command '{asked}'. {nearest(asked, group or COMMANDS)}")
    if processes.asked() > 1 and name not in SHARED:
        raise UnseeError(f"unsee {name} is the work of one process. Start it without torchrun.")
    command = COMMANDS[name]
    flags = _with_file(command, given[1 + name.count(" ") :])
    description = f"{inspect.getdoc(command)}".partition("\n\nArgs:")[0] + f"\n\n{CONFIG_HELP}"
    marks = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    try:
        tyro.cli(
            command, prog=f"unsee {name}", args=flags, description=description, config=marks,
            console_outputs=processes.first(),
        )  # fmt: skip
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    return 0


def _name(given: list[str]) -> str:
    two = " ".join(given[:2])
    return two if two in COMMANDS else given[0]


def overview() -> str:
    """What ``unsee --help`` prints."""
    rows = [f"  {name:<18}{inspect.getdoc(f)}".partition("\n")[0] for name, f in COMMANDS.items()]
    return "\n".join([
        "usage: unsee COMMAND [flags]", "",
        "Make multimodal models forget visual concepts: a person, a brand, a flag.", "", *rows, "",
        "unsee COMMAND --help tells its flags.", CONFIG_HELP,
    ])  # fmt: skip


def _quiet() -> None:
    """Our commands report their own progress: switch off the bars and remarks of transformers and its hub."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def _with_file(command: Callable[..., None], args: list[str]) -> list[str]:
    """Put the flags that ``--config FILE`` holds before the others, which so win."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(args)
    if found.config is None:
        return rest
    from unsee.data.tables import read_text

    try:
        values = yaml.safe_load(read_text(found.config))
    except yaml.YAMLError as error:
        raise UnseeError(f"{found.config} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UnseeError(f"{found.config} holds no settings: lines such as 'steps: 120' are needed.")
    allowed = _flags(command)
    unknown = [f"  {k}. {nearest(str(k), allowed).partition('Allowed:')[0]}" for k in values if k not in allowed]
    if unknown:
        head, foot = f"{found.config} has {len(unknown)} unknown key(s):", f"Allowed: {', '.join(sorted(allowed))}."
        raise UnseeError("\n".join([head, *unknown, foot]))
    return [part for key, value in values.items() for part in _flag(key, value)] + rest


def _flags(command: Callable[..., None]) -> list[str]:
    names = [n for n in inspect.signature(command).parameters if n != "config"]
    config = command.__annotations__.get("config")
    return names + ([f.name for f in fields(command.__globals__[config])] if config else [])


def _flag(key: str, value: Any) -> list[str]:
    flag = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]
