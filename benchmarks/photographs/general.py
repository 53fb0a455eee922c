"""What a request leaves of everything that nobody asked about: text, other sets of photographs, and what is said.

    python -m benchmarks.photographs.general --set groceries --model build/photographs/vanilla \\
        --patch build/photographs/forgot/patch --result benchmarks/results/general-groceries.json

Before and after the patch:

- *perplexity* of the language model on English text that it was not taught here: Python's language reference, as the
  interpreter carries it (``pydoc_data.topics``);
- a *linear probe* (ridge) on the mean of the tokens that the language model receives of a picture, of the other two
  sets: the unseen pictures that it names among all of a set's concepts, and the difference on the same pictures;
- *answers* to "Describe this picture." on neutral pictures of all three sets: the share that is the same to the letter.
  These models were not taught to describe. What they say is a name, "unknown", or a few words of a sentence.
"""

from __future__ import annotations

import argparse
import math
import pydoc_data.topics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.photographs.command import provenance, told
from benchmarks.photographs.sets import PHOTOS, SETS
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from unsee.concepts import Concept, Question
from unsee.data.folder import read_folder
from unsee.evaluation import answer, statistics
from unsee.files import write_json
from unsee.hardware import has_bf16
from unsee.progress import progress
from unsee.vision.attention import attention_for
from unsee.vision.module import Visual, load_full
from unsee.vision.patch import Patch

TRAIN, TEST, PENALTY = 8, 3, 100.0  # pictures of each concept, and the ridge's penalty on standardised features
TOKENS, WINDOW = 8192, 512  # of held-out text, and how many the model reads at once
NEUTRAL, PROMPT = 40, "Describe this picture."  # pictures of each set


class Model:
    """A model that is asked before and after. ``sets``: those that the probe is about."""

    def __init__(self, folder: Path, photos: Path, sets: Sequence[str]) -> None:
        self.model, self.processor = load_full(folder)
        self.visual, self.photos, self.sets = Visual(self.model, self.processor), photos, sets

    def folder(self, name: str, part: str, views: int) -> list[Concept]:
        found = read_folder(self.photos / SETS[name].folder / part).concepts
        return [Concept(c.id, c.images[:views]) for c in found]

    def figures(self) -> dict[str, Any]:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(), cache_enabled=False), torch.no_grad():
            return {
                "perplexity": self.perplexity(),
                "probe": {name: self.probe(name) for name in self.sets},
                "answers": {name: self.answers(name) for name in SETS},
            }

    def perplexity(self) -> float:
        text = "\n\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
        ids = torch.tensor(self.processor.tokenizer(text[: 8 * TOKENS])["input_ids"][:TOKENS])
        losses = []
        for window in ids.split(WINDOW):
            logits = self.model(input_ids=window[None]).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
        return math.exp(torch.cat(losses).mean())

    def probe(self, name: str) -> list[tuple[bool, str]]:
        """Of each unseen picture: whether it is named, and what it shows."""
        train, test = self.folder(name, "train", TRAIN), self.folder(name, "test", TEST)
        learned = make_pipeline(StandardScaler(), RidgeClassifier(PENALTY))
        learned.fit(self.seen(train), [c.id for c in train for _ in c.images])
        shown = [c.id for c in test for _ in c.images]
        return [(str(a) == b, b) for a, b in zip(learned.predict(self.seen(test)), shown, strict=True)]

    def seen(self, concepts: Sequence[Concept]) -> Any:
        """[pictures, width], the mean token of each."""
        images, found = [i for c in concepts for i in c.images], list[Tensor]()
        with attention_for(self.model, training=False), progress("looking", len(images)) as tick:
            for start in range(0, len(images), 32):
                pixels = self.visual.pixels(images[start : start + 32])
                found += [tokens.float().mean(0) for tokens in self.visual.features(pixels)]
                tick(len(found))
        return torch.stack(found).numpy()

    def answers(self, name: str) -> list[str]:
        """What is said of neutral pictures, eight tokens of it."""
        images = [i for c in self.folder(name, "neutral", NEUTRAL) for i in c.images]
        images = images[:: max(1, len(images) // NEUTRAL)][:NEUTRAL]
        asked = [Question(i.id, "attribute", "description", PROMPT, "unknown", i) for i in images]
        pixels = answer.open_images(self.visual, asked)
        return answer.answers(self.model, self.processor, asked, answer.look(self.model, self.processor, pixels))


def compared(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The probe's shares and their difference, with 95 % intervals over concepts; answers that did not change."""
    probe = {}
    for name, old in before["probe"].items():
        right, now, concepts = [r for r, _ in old], [r for r, _ in after["probe"][name]], [c for _, c in old]
        probe[name] = {
            "before": statistics.share([float(r) for r in right], concepts),
            "after": statistics.share([float(r) for r in now], concepts),
            "difference": statistics.paired([float(r) for r in right], [float(r) for r in now], concepts),
        }
    same = {}
    for name, old in before["answers"].items():
        told_same = [float(a == b) for a, b in zip(old, after["answers"][name], strict=True)]
        same[name] = statistics.share(told_same, [str(i) for i in range(len(old))])
    perplexity = {"before": before["perplexity"], "after": after["perplexity"]}
    return {"perplexity": perplexity, "probe": probe, "answers_same": same}


def measure(name: str, folder: Path, patch: Path, photos: Path) -> dict[str, Any]:
    """``name``: the set that the request was about."""
    asked = Model(folder, photos, [other for other in SETS if other != name])
    before = asked.figures()
    change = Patch.load(patch)
    change.apply(asked.model)
    return {**compared(before, asked.figures()), "layers": sorted(change.tensors)}


def line(found: dict[str, Any]) -> str:
    probe = "; ".join(
        f"{name} {100 * of['before']['value']:.1f} → {100 * of['after']['value']:.1f} %"
        for name, of in found["probe"].items()
    )
    same = ", ".join(f"{name} {100 * of['value']:.0f} %" for name, of in found["answers_same"].items())
    before, after = found["perplexity"].values()
    return f"perplexity {before:.4f} → {after:.4f}; probe of {probe}; same answers on neutral pictures: {same}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=tuple(SETS), default="groceries", help="which the request was about")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model before the request")
    parser.add_argument("--patch", type=Path, required=True, help="folder of the request's patch")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the three sets")
    parser.add_argument("--result", type=Path, help="new JSON file of the figures")
    args = parser.parse_args(arguments)
    made = provenance("general")

    def work() -> str:
        found = measure(args.set, args.model, args.patch, args.photos)
        if args.result:
            write_json(args.result, {**made, **found})
        return line(found)

    return told(work)


if __name__ == "__main__":
    sys.exit(main())
