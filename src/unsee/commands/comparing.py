"""Methods side by side."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from unsee.commands.shared import Device, device_of
from unsee.errors import UnseeError
from unsee.hardware import has_bf16
from unsee.progress import tell


def compare(
    *,
    out: Path,
    model: Path | None = None,
    gold: Path | None = None,
    data: str = "people",
    facts: Path | None = None,
    recipe: Path | None = None,
    split: str = "forget_10",
    methods: str = "",
    trials: int = 8,
    seeds: int = 3,
    lr_scale: float = 1.0,
    steps: int = 0,
    batch: int = 8,
    jobs: int = 1,
    bf16: bool = has_bf16(),
    device: Device = "auto",
) -> None:
    """Put published methods beside unsee: tuned alike, measured on the same questions, in one table.

    Each method has as many trials on one request of the study as any other; what scored best is run on another request
    with several seeds. An interrupted comparison goes on when the same command is given again, and the same folder
    takes further methods later.

    Args:
        out: folder of the comparison: report.html, table.md, table.csv, table.tex, comparison.json, trials.db, runs/
        model: folder of a model that was taught --data; without it the embedded model of people
        gold: the same model, never taught what --split asks to forget; without it the embedded one
        data: people (the embedded world), or a folder with train/, test/ and neutral/, DIR/train/<concept>/*.jpg
        facts: CSV table of a folder's facts
        recipe: YAML file with the phrasings of questions about them
        split: which concepts are to be forgotten, forget_10
        methods: their names with commas between; without it all of them
        trials: of each method's settings; 0: the settings of its paper
        seeds: runs of the chosen settings
        lr_scale: of the learning rates that are tried, which suit small models; for a 7B model 0.02
        steps: of methods that train by a gradient; 0: one pass over the images to forget
        batch: images of each set a step, of those methods
        jobs: methods at a time, each in a process of its own
        bf16: bfloat16 matrix products where methods train (weights stay float32); default: if fast here
        device: where the model runs
    """
    from unsee.comparison.bench import Plan
    from unsee.comparison.contest import assemble, contest
    from unsee.comparison.page import write_page
    from unsee.comparison.table import table
    from unsee.embedded import EMBEDDED
    from unsee.files import write_json
    from unsee.rivals import METHODS, method
    from unsee.runs import command_line

    if data != "people" and model is None:
        raise UnseeError(f"--data {data} is a folder: --model DIR gives the model that was taught it.")
    numbers = {"trials": (trials, 0), "seeds": (seeds, 1), "steps": (steps, 0), "batch": (batch, 1), "jobs": (jobs, 1)}
    for flag, (value, least) in numbers.items():
        if value < least:
            raise UnseeError(f"--{flag} is {value}; it must be {least} or more.")
    if not lr_scale > 0:
        raise UnseeError(f"--lr-scale is {lr_scale}; it must be above 0.")
    names = [n.strip() for n in methods.split(",") if n.strip()] or list(METHODS)
    for name in names:
        method(name)
    embedded = (EMBEDDED[0], str(gold or EMBEDDED[1]))
    before, never = embedded if model is None else (str(model), str(gold or ""))
    plan = Plan(
        before, never, data, str(facts or ""), str(recipe or ""), split, trials, seeds, lr_scale, steps, batch,
        device_of(device), bf16,
    )  # fmt: skip
    plan.study().split(split)
    contest(plan, names, out, jobs)
    found = assemble(plan, out, command_line("unsee"))
    write_json(out / "comparison.json", found.to_json(), private=True)
    made = table(found)
    made.write(out)
    write_page(out / "report.html", found)
    Console().print(made)
    tell(f"{out / 'report.html'} shows it")
