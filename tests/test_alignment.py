"""A fresh projector: whitened, aligned to the words of names, and what stays of the model meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.conftest import small_model

from unsee import alignment, resume
from unsee.concepts import Question
from unsee.config import FinetuneConfig
from unsee.data import people
from unsee.data.study import Lesson
from unsee.errors import UnseeError
from unsee.finetune import finetune
from unsee.shown import Shown
from unsee.vision.module import Visual

SHAPES = ("llava", "qwen2_vl")
PEOPLE, VIEWS = 4, 3


def lesson(known: int = PEOPLE) -> Lesson:
    world = people.People()
    shown = [(p, v) for p in world.people[:known] for v in people.train_views(p, VIEWS)]
    return Lesson(
        [v for _, v in shown],
        known,
        lambda i, rng: people.image_questions(*shown[i], "train", rng),
        lambda i, rng: people.text_questions(world.people[i], "train", rng),
    )


@pytest.fixture(params=SHAPES)
def fresh(request):
    return small_model(request.param, people.vocabulary())


def config(**more: object) -> FinetuneConfig:
    settings = {"steps": 2, "batch": 6, "text_batch": 2, "questions": 1, "bf16": False, **more}
    return FinetuneConfig(**settings)  # type: ignore[arg-type]


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def test_what_enters_the_projector_is_spread_alike_afterwards(fresh):
    """One direction is made a hundred times louder than all others, as pretrained towers have it."""
    visual = Visual(*fresh)
    shown = Shown(visual, lesson().images, config(depth=0.0, align=1))
    loud = torch.nn.functional.normalize(torch.randn(shown.projector.in_features), dim=0)
    with torch.no_grad():
        handle = shown.projector.register_forward_pre_hook(
            lambda _, given: (given[0] + 100 * given[0].std() * (given[0] @ loud).sign()[..., None] * loud,)
        )
        spread = {}
        for when in ("before", "after"):
            rows: list[torch.Tensor] = []
            seen = shown.projector.register_forward_hook(lambda m, i, out, rows=rows: rows.append(out.flatten(0, -2)))
            shown.features(range(len(shown)))
            seen.remove()
            values = torch.linalg.svdvals(torch.cat(rows) - torch.cat(rows).mean(0)).square()
            spread[when] = float(values[0] / values.sum())
            if when == "before":
                alignment.whiten(shown)
        handle.remove()
    assert spread["before"] > 0.9 and spread["after"] < 0.3


def test_aligned_tokens_lie_near_the_words_of_their_names(fresh):
    model, processor = fresh
    taught, before = lesson(), state(model)
    settings = config(depth=0.34, align=60, batch=12)
    shown = Shown(Visual(model, processor), taught.images, settings)
    rng = np.random.default_rng(0)
    names = alignment.names_of(model, processor.tokenizer, [taught.ask(i, rng) for i in range(len(taught.images))])
    alignment.whiten(shown)
    with shown.projector_alone() as projector:
        losses = alignment.align(shown, names, projector, settings)
    with torch.no_grad():
        pooled = torch.stack(shown.features(range(len(shown)))).mean(1)
    assert (pooled @ names.directions.T).argmax(1).tolist() == names.target
    assert losses[-1]["image"] < 0.5 * losses[0]["image"]
    moved = {n for n, p in state(model).items() if not torch.equal(p, before[n])}
    assert moved and all(shown.visual.family.in_projector(n) for n in moved)


def test_only_the_blocks_that_are_asked_for_are_taught(fresh):
    model, processor = fresh
    before = state(model)
    finetune(model, processor, lesson(), config(depth=0.34, align=1, lr=1e-3, vision_lr=1e-3))
    visual = Visual(model, processor)
    moved = {n for n, p in state(model).items() if not torch.equal(p, before[n])}
    encoder = {n for n in moved if n in visual.parameters() and not visual.family.in_projector(n)}
    numbers = {n.split("s.", 1)[1].split(".")[0] for n in encoder}
    assert len(numbers) == 2  # of five or six
    assert any("language_model" in n for n in moved)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("depth", [0.0, 0.34])
def test_images_looked_at_once_give_the_features_of_the_whole_tower(fresh, depth):
    visual = Visual(*fresh)
    images = lesson().images
    whole, cached = (Shown(visual, images, config(depth=d, copies=1)) for d in (1.0, depth))
    assert len(whole) == len(cached) == 2 * PEOPLE * VIEWS
    chosen = [0, 5, 13, 20]
    with torch.no_grad():
        pairs = zip(whole.features(chosen), cached.features(chosen), strict=True)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
    assert len(whole.grids(chosen)) == len(cached.grids(chosen))


def test_an_interrupted_run_is_not_aligned_again(tmp_path, monkeypatch):
    settings = config(depth=0.0, align=2, steps=3, checkpoint_every=1)
    runs = []
    for stop in (False, True):
        model, processor = small_model("llava", people.vocabulary())
        if stop:

            def once(*args: object, save=resume.save) -> None:
                save(*args)
                raise KeyboardInterrupt

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(resume, "save", once)
                finetune(model, processor, lesson(), settings, tmp_path)
            model, processor = small_model("llava", people.vocabulary())
            monkeypatch.setattr("unsee.finetune.align", lambda *_: pytest.fail("aligned again"))
        runs.append((finetune(model, processor, lesson(), settings, tmp_path if stop else None), state(model)))
    (history, weights), (other, again) = runs
    assert history == other and [line["step"] for line in history] == [0, 0, 3]
    assert all(torch.equal(weights[n], again[n]) for n in weights)


def test_a_lesson_without_names_is_refused():
    model, processor = small_model("llava", people.vocabulary())
    one = lesson(1)
    asked = [Question("x", "fact", "city", "Where ?", "Bath", one.images[0])]
    nameless = Lesson(one.images, 0, lambda i, rng: asked, lambda i, rng: [])
    for taught, count in ((one, 1), (nameless, 0)):
        with pytest.raises(UnseeError, match=f"the lesson's images have {count}. Add questions of kind identity"):
            finetune(model, processor, taught, config(align=1))


@pytest.mark.parametrize("given", [{"depth": 1.5}, {"depth": -0.1}, {"align": -1}])
def test_shares_and_steps_that_make_no_sense_are_refused(given):
    with pytest.raises(UnseeError, match="--depth is .* and --align"):
        FinetuneConfig(**given)
