"""Every rival beside ours, tuned alike, on people or flags: ``unsee compare`` with the settings of the committed table.

    python benchmarks/rivals.py --study people --shape llava --jobs 2
    python benchmarks/rivals.py --study flags --shape llava --jobs 2

Stop it at any moment and give it again: it goes on where it was, in build/. At its end benchmarks/results has it all;
``python benchmarks/tables.py`` places it in the documents. Models of people: LLaVA's ship with the package, Qwen2-VL's
lie in models/, as ``make build/people-qwen2_vl build/people-qwen2_vl-gold`` made them in two hours; of flags make
builds them (``make build/flags-llava build/flags-llava-gold10``). Products are in bfloat16 where
that is fast (``--bf16``, ``--no-bf16``); each run notes its machine and precision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from unsee.files import write_json
from unsee.hardware import has_bf16
from unsee.runs import command_line

ROOT = Path(__file__).parent.parent
STEPS = "80"  # of 8 images: 0.64 of a pass over the people to forget, 6 over the flags


def flags(study: str, shape: str, root: str) -> list[str]:
    """Of ``unsee compare``."""
    count = "10" if study == "flags" else ""
    place = "benchmarks/models" if study == "people" else "build"
    models = {"model": f"{place}/{study}-{shape}", "gold": f"{place}/{study}-{shape}-gold{count}"}
    given = {} if (study, shape) == ("people", "llava") else models
    if study == "flags":
        given |= {"data": root, "facts": f"{root}/facts.csv", "recipe": "recipes/flags.yaml"}
    given |= {"split": "forget_10", "steps": STEPS, "out": f"build/compare-{study}{count}-{shape}"}
    return [part for key, value in given.items() for part in (f"--{key}", value)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("people", "flags"), default="people")
    parser.add_argument("--shape", choices=("llava", "qwen2_vl"), default="llava")
    parser.add_argument("--root", default="../shared/data/flags", help="folder of the flags")
    parser.add_argument("--methods", default="", help="their names with commas between; more can be added later")
    parser.add_argument("--jobs", default="1", help="methods at a time")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=has_bf16(), help="bfloat16 products")
    args = parser.parse_args()
    asked = flags(args.study, args.shape, args.root) + ["--bf16" if args.bf16 else "--no-bf16"]
    asked += ["--methods", args.methods] if args.methods else []
    done = subprocess.run([sys.executable, "-m", "unsee", "compare", *asked, "--jobs", args.jobs])
    if done.returncode:
        sys.exit(done.returncode)
    out = Path(asked[asked.index("--out") + 1])
    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    found |= {"command": command_line("python benchmarks/rivals.py")}
    write_json(ROOT / "benchmarks" / "results" / f"{out.name}.json", found)


if __name__ == "__main__":
    main()
