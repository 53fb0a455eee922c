"""The main job on pretrained weights and photographs, from nothing to a report: seven groceries are forgotten.

    python -m benchmarks.photographs.demo --out build/photographs

Assembles the model, teaches it 72 groceries, teaches another one without seven of them, makes the first forget the
seven, and asks all three about unseen pictures. A part that is there is not done again, and an interrupted one goes
on where it was: give the same command again. Only groceries are shown in the report, since those may be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.photographs import assemble, layouts, packages, picture, read, teach
from benchmarks.photographs.command import provenance, told
from benchmarks.photographs.sets import PHOTOS, SETS

import unsee
from unsee import api
from unsee.commands.shared import checkpoints
from unsee.config import FinetuneConfig, ForgetConfig
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS
from unsee.demo import gallery
from unsee.evaluation import tasks
from unsee.files import new_folder, write_json
from unsee.hardware import has_bf16
from unsee.progress import alarm, say
from unsee.report import Report, write_page
from unsee.vision.module import Visual, load_full, load_visual
from unsee.vision.patch import Patch

COMMAND = "python -m benchmarks.photographs.demo --out DIR"
SET = SETS["groceries"]
SIZE = tasks.Size(forget=5, retain=2, heldout=3, strangers=75, facts=1)
# On two cores without bfloat16 units: a step of reading takes some 8 s, one of teaching 3, a picture 0.1 to 0.2 s. With
# such units all of it takes about a third.
MINUTES = {"model": 1, "reader": 35, "vanilla": 30, "gold": 22, "forgot": 10, "report": 15}


class Demo:
    """``out``: the folder of all parts. The settings differ from the defaults only where a test asks for less."""

    def __init__(
        self, out: Path, photos: Path = PHOTOS, files: Callable[[], assemble.Files] | None = None,
        side: int = layouts.SIDE, reading: FinetuneConfig = SET.reading, teaching: FinetuneConfig = SET.config,
        forgetting: ForgetConfig | None = None, split: str = "forget_7",
    ) -> None:  # fmt: skip
        self.out, self.files, self.side = out, files or (lambda: assemble.Files.fetched(packages.CACHE)), side
        self.reading, self.teaching, self.forgetting = reading, teaching, forgetting or ForgetConfig()
        self.study, self.split = SET.study(photos), split
        self.forget, self.retain = self.study.split(split)

    def run(self) -> str:
        """Make all parts that are not there; returns where the report is."""
        parts: dict[str, Callable[[Path], object]] = {
            "model": lambda out: assemble.assemble("internvl", self.files(), out, self.side),
            "reader": lambda out: read.write(self.study.lesson(), self.out / "model", out, self.reading),
            "vanilla": lambda out: self._taught((), out),
            "gold": lambda out: self._taught(self.forget, out),
            "forgot": self._forgotten,
            "report": self._report,
        }
        left = [name for name in parts if not (self.out / name).exists()]
        say(f"to do: {', '.join(left) or 'nothing'}; {sum(MINUTES[n] for n in left)} minutes on two slow cores")
        for number, name in enumerate(left, start=1):
            say(f"{number} of {len(left)}: {name}")
            parts[name](self.out / name)
        return f"{self.out / 'report' / 'report.html'}: open it in a browser"

    def _taught(self, without: Sequence[str], out: Path) -> None:
        lesson = self.study.lesson(without)
        teach.teach([lesson], self.out / "reader", out, self.teaching, self.out / "seen")

    def _forgotten(self, out: Path) -> None:
        """A folder of the patch and of what the request took and left."""
        given = {"forget": (self.forget, FORGET_VIEWS), "retain": (self.retain, RETAIN_VIEWS)}
        images = {kind: self.study.concepts(ids, views) for kind, (ids, views) in given.items()}
        visual = load_visual(self.out / "vanilla")
        with checkpoints(out) as checkpoint:
            done = api.forget(
                visual, neutral=self.study.neutral(), config=self.forgetting, checkpoint=checkpoint, **images
            )
            with new_folder(out) as folder:
                done.patch.save(folder / "patch")
                moved = max(done.certificates.values())
                figures = {"stopped": done.stopped, "forgotten": done.forgotten, "kept": done.kept, "moved": moved}
                write_json(folder / "request.json", {**figures, "left": done.left, "cost": done.cost})

    def _report(self, out: Path) -> None:
        model, processor = load_full(self.out / "vanilla")
        visual, state = Visual(model, processor), {name: t.clone() for name, t in model.state_dict().items()}
        exam = tasks.exam(visual, self.study, self.split, size=SIZE)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            vanilla = tasks.sit(model, processor, exam, probabilities=False)
            gold = tasks.sit(load_full(self.out / "gold")[0], processor, exam, probabilities=False)
            Patch.load(self.out / "forgot" / "patch").apply(model)
            ours = tasks.sit(model, processor, exam, probabilities=False)
        rows = {name: tasks.metrics(sat) for name, sat in (("vanilla", vanilla), ("gold", gold), ("unsee", ours))}
        known = tasks.metrics(i for i, b in zip(ours, vanilla, strict=True) if b.correct)
        misnamed, identical = tasks.misnamed(ours, exam.retained), tasks.text_identical(visual, state, vanilla, ours)
        request = request_of(self.out)
        figures = {"known": known, "misnamed": misnamed.share, "text_identical": identical, "request": request}
        taught = len(self.study.taught + self.study.held_out)
        page = Report(
            title=f"A model forgets {len(self.forget)} groceries",
            lead=(
                f"DINOv2-small and SmolLM2-135M, joined and taught {taught} groceries from photographs, were made to "
                f"forget {len(self.forget)} of them by changing the visual module alone. All figures are on "
                "photographs and phrasings never seen. Photographs: GroceryStoreDataset, MIT licence."
            ),
            rows=rows,
            text_identical=identical,
            cost={name: round(value, 1) for name, value in request["cost"].items()},
            gallery=gallery(vanilla, ours),
            misnamed=[{"forgotten": c, "named": n, "share": s} for c, n, s in misnamed.pairs[:8]],
            facts={"command": COMMAND, "unsee": unsee.__version__, "torch": torch.__version__},
        )
        with new_folder(out) as folder:
            write_json(folder / "metrics.json", rows | figures)
            write_page(folder / "report.html", page)
            picture.draw(vanilla, ours, self.study.twins(self.forget), folder / "pictures.png")


def request_of(out: Path) -> dict[str, Any]:
    """What the request in the demo's folder took and left."""
    return json.loads((out / "forgot" / "request.json").read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """3, as of ``unsee forget``, where the seven have not left or what stays has moved too far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of models, patch and report, 5 GB")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the three sets")
    parser.add_argument("--result", type=Path, help="new JSON file of the report's figures, with command and commit")
    args = parser.parse_args(arguments)
    made = provenance("demo")
    if code := told(lambda: Demo(args.out, args.photos).run()):
        return code
    if args.result:
        figures = json.loads((args.out / "report" / "metrics.json").read_text(encoding="utf-8"))
        write_json(args.result, {**made, **figures})
    request = request_of(args.out)
    if request["forgotten"] and request["kept"]:
        return 0
    moved = f"{100 * request['moved']:.1f} % of a layer's retained outputs moved"
    alarm(f"{request['stopped']}; {moved}", head="not to be released: ")
    return 3


if __name__ == "__main__":
    sys.exit(main())
