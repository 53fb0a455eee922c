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

import torch
import transformers
from benchmarks.photographs import assemble, layouts, packages, read, teach
from benchmarks.photographs.sets import PHOTOS, SETS

import unsee
from unsee import api
from unsee.commands.shared import checkpoints
from unsee.config import FinetuneConfig, ForgetConfig
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS
from unsee.demo import gallery
from unsee.errors import UnseeError
from unsee.evaluation import tasks
from unsee.files import new_folder, write_json
from unsee.progress import alarm, say, tell
from unsee.report import Report, write_page
from unsee.vision.module import Visual, load_full, load_visual
from unsee.vision.patch import Patch

COMMAND = "python -m benchmarks.photographs.demo --out DIR"
SET = SETS["groceries"]
SIZE = tasks.Size(forget=5, retain=2, heldout=3, strangers=75, facts=1)
MINUTES = {"model": 1, "reader": 12, "vanilla": 15, "gold": 8, "forgot": 6, "report": 15}  # on two slow cores


class Demo:
    """``out``: the folder of all parts. The settings differ from the defaults only where a test asks for less."""

    def __init__(
        self, out: Path, photos: Path = PHOTOS, files: Callable[[], assemble.Files] | None = None,
        side: int = layouts.SIDE, reading: FinetuneConfig = read.READ, teaching: FinetuneConfig = SET.config,
        forgetting: ForgetConfig | None = None, split: str = "forget_7",
    ) -> None:  # fmt: skip
        self.out, self.files, self.side = out, files or (lambda: assemble.Files.fetched(packages.CACHE)), side
        self.reading, self.teaching, self.forgetting = reading, teaching, forgetting or ForgetConfig()
        self.study, self.split = SET.study(photos), split
        self.forget, self.retain = self.study.split(split)

    def run(self) -> None:
        """Make all parts that are not there."""
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
        exam = tasks.exam(Visual(model, processor), self.study, self.split, size=SIZE)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        sat = {"vanilla": tasks.sit(model, processor, exam, probabilities=False)}
        sat["gold"] = tasks.sit(load_full(self.out / "gold")[0], processor, exam, probabilities=False)
        Patch.load(self.out / "forgot" / "patch").apply(model)
        sat["unsee"] = tasks.sit(model, processor, exam, probabilities=False)
        visual = set(Visual(model, processor).parameters())
        same = all(torch.equal(t, before[n]) for n, t in model.state_dict().items() if n not in visual)
        said = [[i.given for i in sat[name] if i.question.image is None] for name in ("vanilla", "unsee")]
        rows = {name: tasks.metrics(items) for name, items in sat.items()}
        known = tasks.metrics(i for i, b in zip(sat["unsee"], sat["vanilla"], strict=True) if b.correct)
        misnamed = tasks.misnamed(sat["unsee"], exam.retained)
        request = json.loads((self.out / "forgot" / "request.json").read_text(encoding="utf-8"))
        identical = same and said[0] == said[1]
        told = {"known": known, "misnamed": misnamed.share, "text_identical": identical, "request": request}
        taught = len(self.study.taught + self.study.held_out)
        page = Report(
            title=f"A model forgets {len(self.forget)} groceries",
            lead=(
                f"DINOv2-small and SmolLM2-135M, joined and taught {taught} groceries from "
                f"photographs, were made to forget {len(self.forget)} of them by changing the visual module alone. All "
                "figures are on photographs and phrasings never seen. Photographs: GroceryStoreDataset, MIT licence."
            ),
            rows=rows,
            text_identical=identical,
            cost={name: round(value, 1) for name, value in request["cost"].items()},
            gallery=gallery(sat["vanilla"], sat["unsee"]),
            misnamed=[{"forgotten": c, "named": n, "share": s} for c, n, s in misnamed.pairs[:8]],
            facts={"command": COMMAND, "unsee": unsee.__version__, "torch": torch.__version__},
        )
        with new_folder(out) as folder:
            write_json(folder / "metrics.json", rows | told)
            write_page(folder / "report.html", page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of models, patch and report, 3 GB")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the three sets")
    args = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    try:
        Demo(args.out, args.photos).run()
    except UnseeError as error:
        alarm(str(error))
        return 2
    tell(f"{args.out / 'report' / 'report.html'}: open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
