"""Peak memory of a whole request on photographs, beside the size of the language model that stays on disk.

    python benchmarks/memory.py --study groceries --model build/photographs/vanilla --out FILE -- --no-bf16

``unsee forget`` runs in a process of its own, as ``realsize.measure`` watches it; what follows ``--`` goes to it.
``over_idle_mib``: the peak over an interpreter that only imports torch and transformers (``baseline``).
``language_mib``: all weights that are not of the visual module, in float32.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from realsize import BASELINE, MIB, UNSEE, machine, measure
from request import STUDIES, study_of
from safetensors import safe_open

from unsee.concepts import Concept
from unsee.data.study import FORGET_VIEWS, RETAIN_VIEWS
from unsee.files import write_json
from unsee.runs import command_line, revision
from unsee.vision.checkpoint import Checkpoint


def put(concepts: Sequence[Concept], folder: Path) -> int:
    """Their pictures as a user has them; returns how many."""
    for concept in concepts:
        (folder / concept.id).mkdir(parents=True)
        for number, image in enumerate(concept.images):
            shutil.copyfile(image.path, folder / concept.id / f"{number}{image.path.suffix}")  # type: ignore[attr-defined]
    return sum(len(c.images) for c in concepts)


def language_numbers(model: Path) -> int:
    """How many numbers the weights have that are not of the visual module."""
    visual, count = set(Checkpoint.open(model).visual), 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            language = [name for name in file.keys() if name not in visual]  # noqa: SIM118
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in language)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=STUDIES, default="groceries")
    parser.add_argument("--split", default="forget_7")
    parser.add_argument("--root", help="folder of the three sets of photographs")
    parser.add_argument("--model", type=Path, required=True, help="taught the study")
    parser.add_argument("--out", required=True)
    parser.add_argument("flags", nargs="*")
    args, at = parser.parse_args(), revision()
    study = study_of(args)
    forget, retain = study.split(args.split)
    sets = {"forget": study.concepts(forget, FORGET_VIEWS), "retain": study.concepts(retain, RETAIN_VIEWS)}
    sets["neutral"] = study.neutral()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        images = {kind: put(concepts, scratch / kind) for kind, concepts in sets.items()}
        given = [part for kind in sets for part in (f"--{kind}", f"{scratch / kind}")]
        baseline = measure(BASELINE)
        request = measure(
            [*UNSEE, "forget", "--model", f"{args.model}", *given, "--out", f"{scratch / 'run'}", *args.flags]
        )
        if "error" in request:  # names the folder that is gone
            request["error"] = [line.replace(f"{scratch}/", "") for line in request["error"]]
    language = 4 * language_numbers(args.model) / MIB
    over = request["peak_mib"] - baseline["peak_mib"]
    print(f"{request['peak_mib']} MiB, {over} over an idle interpreter; language model in float32: {language:.0f}")
    figures = {"baseline": baseline, "request": request, "over_idle_mib": over, "language_mib": language}
    made = {"command": command_line("python benchmarks/memory.py"), "commit": at, "machine": machine()}
    write_json(args.out, {"study": args.study, "split": args.split, "images": images, **figures, **made})


if __name__ == "__main__":
    main()
