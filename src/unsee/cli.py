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
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import tyro

from unsee import __version__, files, processes
from unsee.commands import benchmarks, comparing, forgetting, models, requests, studies
from unsee.errors import NOT_TO_RELEASE, UnseeError, nearest
from unsee.interrupts import end, heard_once, interrupted
from unsee.progress import alarm, say, tell
from unsee.untrusted import read_yaml

COMMANDS: dict[str, Callable[..., int | None]] = {
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
AFTERWARDS = {  # what to do next where a command has changed a ledger before it was stopped
    "requests rollback": ". Where it is rolled back there, go on with unsee requests replay, else give this again",
    "requests run": ". Run the same command again to resume",
    "requests replay": ". Run the same command again to resume",
}
UNREAD = 141  # exit code, a shell's for SIGPIPE
CODES = {
    0: "done",
    2: "the input cannot serve, or the disk took no more; the message says why and what is left",
    NOT_TO_RELEASE: "done and written, but not to be released: the target has not left, or what stays has moved",
    processes.INTERRUPTED: "stopped by Ctrl-C",
}
SHARED = ("forget", "statistics", "evaluate")  # several processes can do them together
CONFIG_HELP = "--config FILE reads flags from a YAML file, such as the config.yaml of a run; flags given beside it win."


def main(args: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: ``CODES``."""
    given = list(sys.argv[1:] if args is None else args)
    _quiet()
    _printable()
    with heard_once():
        code = _answer(given)
    processes.leave(code)
    return code


def _answer(given: list[str]) -> int:
    files.finished.clear()
    try:
        processes.meet()
        code = _run(given)
        sys.stdout.flush()  # what nobody reads is found out here, not while Python ends
        return code
    except BrokenPipeError:
        if not _unread():  # it was another pipe
            raise
        return UNREAD
    except KeyboardInterrupt:
        return _stop(given)
    except UnseeError as error:
        return _stop(given) if interrupted() else _refuse(given, error)
    except Exception as error:
        if interrupted():
            return _stop(given)
        if not files.refused(error):
            raise
        return _refuse(given, files.Unwritten(f"could not write: {files.refused(error)}."))


def _refuse(given: list[str], error: UnseeError) -> int:
    if processes.speaks():
        *lines, last = error.args or ("",)
        if isinstance(error, files.Unwritten):
            last += " Mend that and give the same command again"
            last += ": it goes on where it stopped." if _name(given) in RESUME else "."
        alarm(*lines, last)
    return 2


def _stop(given: list[str]) -> int:
    if interrupted():
        end()
    say("")  # below what the terminal makes of Ctrl-C
    say(_stopped(_name(given)))
    return processes.INTERRUPTED


def _stopped(name: str) -> str:
    """What is left of a command that Ctrl-C ended: said when what was half written is gone."""
    half = [f"'{p}'" for p in files.abandon()]
    there = [f"'{p}'" for p in files.finished]
    said = "run the same command again to resume" if name in RESUME else "nothing was written"
    if there and name.startswith("requests "):
        said = f"what was done before that stays: unsee requests list shows it{AFTERWARDS.get(name, '')}"
    elif there and name not in RESUME:
        said = f"written before that, and kept: {', '.join(there)}"
    if half:
        said += f"; could not remove {', '.join(half)}, which the next command that writes there removes"
    return f"stopped; {said}"


def _printable() -> None:
    """What a terminal's encoding lacks is printed as '?', and output that was closed goes nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open as long as this process runs)
        elif hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):  # what lies under it was exchanged, or closed
                stream.reconfigure(errors="replace")


def _unread() -> bool:
    """Whether what is printed is read no further, as by ``unsee … | head``; if so, the rest goes nowhere."""
    if hasattr(select, "poll"):  # Windows has none, and no other pipes of ours break there
        pipe = select.poll()
        pipe.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in pipe.poll(0)):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        tell(*overview().split("\n"))
        return 0
    if given[0] == "--version":
        tell(f"unsee {__version__}")
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
        done = tyro.cli(
            command, prog=f"unsee {name}", args=flags, description=description, config=marks,
            console_outputs=processes.first(),
        )  # fmt: skip
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    return int(done or 0)


def _name(given: list[str]) -> str:
    two = " ".join(given[:2])
    return two if two in COMMANDS else "".join(given[:1])


def overview() -> str:
    """What ``unsee --help`` prints."""
    rows = [f"  {name:<18}{inspect.getdoc(f)}".partition("\n")[0] for name, f in COMMANDS.items()]
    return "\n".join([
        "usage: unsee COMMAND [flags]", "",
        "Make multimodal models forget visual concepts: a person, a brand, a flag.", "", *rows, "",
        "unsee COMMAND --help tells its flags.", CONFIG_HELP, "",
        "exit codes:", *(f"  {code:<5}{meaning}" for code, meaning in CODES.items()),
    ])  # fmt: skip


def _quiet() -> None:
    """Our commands report their own progress: switch off the bars and remarks of transformers and its hub."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def _with_file(command: Callable[..., int | None], args: list[str]) -> list[str]:
    """Put the flags that ``--config FILE`` holds before the others, which so win."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(args)
    if found.config is None:
        return rest
    values = read_yaml(found.config)
    if not isinstance(values, dict):
        raise UnseeError(f"{found.config} holds no settings: lines such as 'steps: 120' are needed.")
    allowed = _flags(command)
    unknown = [f"  {k}. {nearest(str(k), allowed).partition('Allowed:')[0]}" for k in values if k not in allowed]
    if unknown:
        head, foot = f"{found.config} has {len(unknown)} unknown key(s):", f"Allowed: {', '.join(sorted(allowed))}."
        raise UnseeError(head, *unknown, foot)
    many = [k for k, value in values.items() if isinstance(value, list | dict)]
    if many:
        raise UnseeError(f"{found.config}: '{many[0]}' holds several values, where one is needed.")
    return [part for key, value in values.items() if value is not None for part in _flag(key, value)] + rest


def _flags(command: Callable[..., int | None]) -> list[str]:
    names = [n for n in inspect.signature(command).parameters if n != "config"]
    config = command.__annotations__.get("config")
    return names + ([f.name for f in fields(command.__globals__[config])] if config else [])


def _flag(key: str, value: Any) -> list[str]:
    flag = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", str(value)]
