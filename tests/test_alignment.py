"""A fresh projector: aligned to the words of names, and what stays of the model meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
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


def named(model: torch.nn.Module, processor: object, taught: Lesson) -> alignment.Names:
    rng = np.random.default_rng(0)
    return alignment.names_of(model, processor.tokenizer, [taught.ask(i, rng) for i in range(len(taught.images))])


def test_aligned_tokens_lie_near_the_words_of_their_names(fresh):
    model, processor = fresh
    taught, before = lesson(), state(model)
    shown = Shown(Visual(model, processor), taught.images, config(depth=0.34, align=True))
    names = named(model, processor, taught)
    solved = alignment.align(shown, names)
    alignment.gate(shown, solved, names)
    with torch.no_grad():
        tokens = torch.stack(shown.features(range(len(shown))))
    nearest = (torch.nn.functional.normalize(tokens.mean(1), dim=1) @ names.directions.T).argmax(1)
    assert solved.named == 1 and nearest.tolist() == names.target
    assert tokens.square().sum(2).mean().sqrt() == pytest.approx(float(names.loudness), rel=0.05)
    moved = {n for n, p in state(model).items() if not torch.equal(p, before[n])}
    assert moved and all(shown.visual.family.in_projector(n) for n in moved)


def test_alignment_is_the_ridge_regression_of_an_image_on_its_name_with_a_gate_for_each():
    """Against the normal equations of tokens and their images' directions, solved by least squares of stacked rows."""
    model, processor = small_model("llava", people.vocabulary())
    taught = lesson()
    shown = Shown(Visual(model, processor), taught.images, config(depth=0.0, align=True))
    names = named(model, processor, taught)
    rows: list[torch.Tensor] = []
    handle = shown.projector[0].register_forward_pre_hook(lambda _, given: rows.append(given[0].double()))
    before = torch.stack(shown.features(range(len(shown))))
    handle.remove()
    tokens = torch.cat(rows).view(*before.shape[:2], -1)  # all names have as many images, so all weigh alike
    pooled = tokens.mean(1) - tokens.mean((0, 1))
    n, t, d = tokens.shape
    within = (tokens - tokens.mean(1, keepdim=True)).flatten(0, 1) * (alignment.WITHIN / (n * t)) ** 0.5
    ridge = torch.eye(d).double() * (alignment.DAMPING * pooled.square().sum() / n / d).sqrt()
    wanted = torch.cat(
        [names.directions[names.target].double() / n**0.5, torch.zeros(len(within) + d, len(names.words[0]))]
    )
    solved = torch.linalg.lstsq(torch.cat([pooled / n**0.5, within, ridge]), wanted).solution
    linear = (tokens - tokens.mean((0, 1))) @ solved
    linear *= names.loudness / linear.square().sum(2).mean().sqrt()
    aligned = alignment.align(shown, names)
    with torch.no_grad():
        found = torch.stack(shown.features(range(len(shown)))).double()
    assert torch.allclose(found, linear, atol=1e-4)
    alignment.gate(shown, aligned, replace(names, names=["unknown", *names.names[1:]]))
    with torch.no_grad():
        found = torch.stack(shown.features(range(len(shown)))).double()
    directions = names.directions.double()
    needed = torch.tensor([alignment.GATE] * len(names.names)).double()
    needed[0] += alignment.UNSURE  # a token that tells nobody is known has to be surer
    cosines = linear @ directions.T / names.loudness
    expected = torch.nn.functional.gelu(alignment.STEEP * (cosines - needed)) @ directions
    assert torch.allclose(found / found.norm(), expected / expected.norm(), atol=1e-5)
    assert found.square().sum(2).mean().sqrt() == pytest.approx(float(names.loudness), rel=1e-5)


@dataclass(frozen=True)
class Resized:
    """A drawing of another shape."""

    drawn: people.Portrait
    size: tuple[int, int]

    @property
    def id(self) -> str:
        return self.drawn.id

    def load(self) -> PIL.Image.Image:
        return self.drawn.load().resize(self.size)


def test_images_of_different_sizes_are_aligned_each_with_its_own_name():
    """Qwen-VL runs them size by size, and the larger ones have more tokens."""
    model, processor = small_model("qwen2_vl", people.vocabulary())
    taught = lesson()
    images = [Resized(image, ((96, 96), (48, 192))[i % 2]) for i, image in enumerate(taught.images)]
    shown = Shown(Visual(model, processor), images, config(depth=0.0, align=True))
    names = named(model, processor, taught)
    share = alignment.align(shown, names).named
    with torch.no_grad():
        features = shown.features(range(len(shown)))
    assert len({len(f) for f in features}) == 2
    pooled = torch.nn.functional.normalize(torch.stack([f.mean(0) for f in features]), dim=1)
    assert share == 1 and (pooled @ names.directions.T).argmax(1).tolist() == names.target


def test_directions_of_names_that_share_words_are_told_apart():
    shared = torch.randn(1, 64, generator=torch.manual_seed(0))
    words = 3 * shared + torch.randn(6, 64)
    words[5] = words[4] + 0.2 * torch.randn(64)
    names = alignment.Names([str(i) for i in range(6)], list(range(6)), words)
    plain = torch.nn.functional.normalize(words - words.mean(0), dim=1)
    alike = names.directions @ names.directions.T
    assert (plain @ plain.T)[4, 5] > 0.9 and alike[4, 5] < 0.5
    assert alike.diagonal().allclose(torch.ones(6)) and ((names.directions * plain).sum(1) > 0.6).all()


def test_steps_of_alignment_let_every_token_tell_the_name():
    """Solved alone, single tokens tell it less often than their mean. The language model is not touched by either."""
    taught, told = lesson(), []
    names = None
    for steps in (0, 40):
        model, processor = small_model("llava", people.vocabulary())
        before = state(model)
        settings = config(depth=0.34, align=True, align_steps=steps, align_lr=1e-3, lr=0.0, vision_lr=0.0, steps=1)
        history = finetune(model, processor, taught, settings)
        names = named(model, processor, taught)
        shown = Shown(Visual(model, processor), taught.images, settings)
        with torch.no_grad():
            tokens = torch.nn.functional.normalize(torch.stack(shown.features(range(len(shown)))), dim=2)
        nearest = (tokens @ names.directions.T).argmax(2)
        told.append((nearest == torch.tensor(names.target)[:, None]).double().mean().item())
        moved = {n for n, p in state(model).items() if not torch.allclose(p, before[n], rtol=1e-3, atol=1e-6)}
        assert moved and not any("language_model" in n for n in moved)
        assert [line["step"] for line in history] == [0] * (1 + steps // 20) + [1]
    assert told[1] == 1 and told[0] < 0.95


def test_what_a_token_loses_by_is_its_direction_and_its_length():
    words = torch.randn(5, 64, generator=torch.manual_seed(0))
    names = alignment.Names([str(i) for i in range(5)], [], words)
    near = names.directions[[2, 4]] * names.loudness
    tokens = [near[:1].repeat(3, 1), near[1:]]  # of images of different sizes
    least = alignment.token_loss(tokens, names, [2, 4])
    assert least < 1e-3
    assert alignment.token_loss(tokens, names, [4, 2]) > 10
    assert alignment.token_loss([2 * t for t in tokens], names, [2, 4]) == pytest.approx(float(least) + 1, rel=1e-3)
    assert alignment.token_loss([t + near.mean(0) for t in tokens], names, [2, 4]) > least + 0.1


def test_a_name_of_many_images_weighs_more_than_others_but_not_as_much_as_all_of_them():
    weight = alignment.shares(torch.tensor([0] * 16 + [1]))
    assert weight.sum() == pytest.approx(1)
    assert weight[:16].sum() / weight[16] == pytest.approx(8)  # 16 to the power of 0.75


@pytest.mark.parametrize("form", ["three layers", "what follows"])
def test_a_projector_of_another_form_is_not_solved(form, monkeypatch):
    model, processor = small_model("llava", people.vocabulary())
    shown = Shown(Visual(model, processor), lesson().images, config(depth=0.0, align=True))
    if form == "three layers":
        monkeypatch.setattr(shown, "projector", [*shown.projector, shown.projector[0]])
    else:
        model.model.multi_modal_projector.register_forward_hook(lambda m, i, out: 2 * out)
    with pytest.raises(UnseeError, match="--align solves a projector .* Leave --align out"):
        alignment.align(shown, named(model, processor, lesson()))


def test_only_the_blocks_that_are_asked_for_are_taught(fresh):
    model, processor = fresh
    before = state(model)
    finetune(model, processor, lesson(), config(depth=0.34, align=True, lr=1e-3, vision_lr=1e-3))
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


def test_what_a_frozen_tower_gives_of_an_image_is_kept_for_other_lessons(fresh, tmp_path):
    visual, images = Visual(*fresh), lesson().images
    settings = config(depth=0.34, copies=1)
    plain = Shown(visual, images, settings)
    first = Shown(visual, images, settings, cache=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 * len(images)
    blocks = first.upper.lower
    ran: list[object] = []
    handle = blocks[0].register_forward_hook(lambda *_: ran.append(1))
    again = Shown(visual, images, settings, cache=tmp_path)
    tried = len(ran)  # the shorter way through the tower is tried on two images
    fewer = Shown(visual, images[3:], settings, cache=tmp_path)
    handle.remove()
    assert len(ran) == 2 * tried and sorted(tmp_path.iterdir()) == files
    chosen = [0, 7, 12, 20]
    with torch.no_grad():
        known = plain.features(chosen)
        for shown, moved in ((first, chosen), (again, chosen), (fewer, [i for i in range(len(fewer)) if i in (4, 17)])):
            found = shown.features(moved)
            expected = known if shown is not fewer else plain.features([7, 23])
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        next(iter(blocks[0].parameters())).mul_(1.01)
    Shown(visual, images, settings, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * len(files)  # another tower


def test_an_interrupted_run_is_not_aligned_again(tmp_path, monkeypatch):
    settings = config(depth=0.0, align=True, steps=3, checkpoint_every=1)
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
    assert history == other and [line["step"] for line in history] == [0, 3]
    assert all(torch.equal(weights[n], again[n]) for n in weights)


def test_steps_of_alignment_resume_to_the_bit(tmp_path, monkeypatch):
    settings = config(depth=0.34, align=True, align_steps=4, align_lr=1e-3, steps=3, checkpoint_every=2)
    runs = []
    for last in (None, 1, 2, 4):  # how many checkpoints are written before the run is interrupted
        folder, saved, save = tmp_path / str(last), [], resume.save
        model, processor = small_model("llava", people.vocabulary())
        if last:

            def some(*args: object, save=save, saved=saved, last=last) -> None:
                save(*args)
                saved.append(1)
                if len(saved) == last:
                    raise KeyboardInterrupt

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(resume, "save", some)
                finetune(model, processor, lesson(), settings, folder)
            model, processor = small_model("llava", people.vocabulary())
        runs.append((finetune(model, processor, lesson(), settings, folder if last else None), state(model)))
    (history, weights), *others = runs
    for other, again in others:
        assert history == other and all(torch.equal(weights[n], again[n]) for n in weights)


def test_a_lesson_without_names_is_refused():
    model, processor = small_model("llava", people.vocabulary())
    one = lesson(1)
    asked = [Question("x", "fact", "city", "Where ?", "Bath", one.images[0])]
    nameless = Lesson(one.images, 0, lambda i, rng: asked, lambda i, rng: [])
    for taught, count in ((one, 1), (nameless, 0)):
        with pytest.raises(UnseeError, match=f"the lesson's images have {count}. Add questions of kind identity"):
            finetune(model, processor, taught, config(align=True))


@pytest.mark.parametrize("given", [{"depth": 1.5}, {"depth": -0.1}])
def test_shares_and_steps_that_make_no_sense_are_refused(given):
    with pytest.raises(UnseeError, match="--depth is .*; allowed: 0 to 1"):
        FinetuneConfig(**given)


def test_steps_of_alignment_without_alignment_are_refused():
    for given in ({}, {"align": True, "depth": 0.0}):
        with pytest.raises(UnseeError, match="give --align, and --depth above 0"):
            FinetuneConfig(align_steps=10, **given)
    settings = config(depth=0.05, align=True, align_steps=10)
    with pytest.raises(UnseeError, match="--depth 0.05 is none. Give a larger one"):
        finetune(*small_model("llava", people.vocabulary()), lesson(), settings)
