"""The three sets of photographs, what is asked about them, and how a model is taught each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unsee.config import FinetuneConfig
from unsee.data.study import FolderStudy, Lesson

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT.parent / "shared" / "data" / "photos"
RECIPES = ROOT / "recipes" / "photographs"
# The language model alone learns to read names in an image's place, and facts, without pictures.
READ = FinetuneConfig(steps=240, batch=16, text_batch=3, questions=2, lr=4e-4, checkpoint_every=10)


@dataclass(frozen=True)
class Set:
    """``names``: the share of names on unseen pictures that a model taught it has to give."""

    folder: str
    recipe: str
    names: float
    config: FinetuneConfig = field(default_factory=FinetuneConfig)
    reading: FinetuneConfig = READ
    strangers: Literal["concepts", "images"] = "images"  # see FolderStudy; of groceries nine concepts are neutral
    alike: tuple[str, ...] = ()

    def study(self, photos: Path = PHOTOS) -> FolderStudy:
        root = photos / self.folder
        return FolderStudy(root, root / "facts.csv", RECIPES / self.recipe, strangers=self.strangers, alike=self.alike)


# The language model reads names off such tokens already (benchmarks.photographs.read), so the visual module alone
# learns: its projector is solved, then the last three blocks learn to let every token tell what the mean of all does.
TEACH = FinetuneConfig(
    steps=0, copies=2, depth=0.25, align=True, align_steps=400, align_batch=32, align_lr=1e-4, checkpoint_every=10
)
SETS = {
    "groceries": Set("grocery", "groceries.yaml", 0.85, TEACH, alike=("category", "brand_or_family")),
    "landmarks": Set("landmarks", "landmarks.yaml", 0.85, TEACH, alike=("country", "type")),
    # Twice as many concepts, whose pictures four blocks learned by heart: more blocks, and more altered copies. At 140
    # pixels (``assemble --side``), which is what a cropped face has, a step takes a quarter of the time.
    "people": Set(
        "people",
        "people.yaml",
        0.60,
        replace(TEACH, depth=0.5, align_steps=900, copies=3),
        replace(READ, steps=450, text_batch=6),
        strangers="concepts",
    ),
}
FACTS_BY_TEXT, UNKNOWN = 0.97, 0.85  # the aims of every set


def chosen(name: str) -> list[str]:
    """``all``, or one of them."""
    return list(SETS) if name == "all" else [name]


def joined(lessons: Sequence[Lesson]) -> Lesson:
    """One lesson of several."""
    images = [(lesson, i) for lesson in lessons for i in range(len(lesson.images))]
    texts = [(lesson, i) for lesson in lessons for i in range(lesson.texts)]

    def ask(number: int, rng: Any) -> Any:
        lesson, i = images[number]
        return lesson.ask(i, rng)

    def recite(number: int, rng: Any) -> Any:
        lesson, i = texts[number]
        return lesson.recite(i, rng)

    return Lesson([image for lesson in lessons for image in lesson.images], len(texts), ask, recite)
