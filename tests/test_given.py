"""Models and pictures as people have them in Python: served exactly, or refused before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from tests import families

import unsee
from unsee import Concept, ForgetConfig, UnseeError, load_full, prepare, read_folder
from unsee.vision.given import in_float32, visual_of

CONFIG = ForgetConfig(steps=1, batch=2, stop=0, replay=0, bf16=False)
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def sets(images) -> dict[str, list[Concept]]:
    known, neutral = (read_folder(images / part).concepts for part in ("known", "neutral"))
    return {"forget": [Concept(known[0].id, known[0].images[:2])], "neutral": [Concept("x", neutral[0].images[:2])]}


@pytest.fixture
def full(checkpoints):
    return load_full(checkpoints["llava"])


@pytest.fixture(scope="module")
def expected(checkpoints, sets) -> dict[str, torch.Tensor]:
    """The patch of the plain call."""
    return unsee.forget(*load_full(checkpoints["llava"]), **sets, config=CONFIG).patch.tensors


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", [*families.SUPPORTED, *families.OTHERS])
def test_a_half_models_module_is_that_of_its_widened_copy(name, dtype):
    """What is read and trained in float32 is what the same weights give in float32, and goes back bit by bit."""
    model, processor = families.build(name)
    wide = visual_of(model.to(dtype).float(), processor)
    pixels = wide.pixels([PIL.Image.effect_noise((56, 40), 90).convert("RGB")])
    with torch.no_grad():
        whole = wide.features(pixels)[0]
    visual = visual_of(model.to(dtype), processor)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with in_float32(visual), torch.no_grad():
        assert {t.dtype for t in visual.tensors().values()} == {torch.float32}
        assert torch.equal(visual.features(pixels)[0], whole)
    after = model.state_dict()
    assert all(t.dtype == before[n].dtype and torch.equal(t, before[n]) for n, t in after.items())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_half_model_forgets_in_its_own_dtype(dtype, full, sets):
    model, processor = full
    model.to(dtype)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    result = unsee.forget(model, processor, **sets, config=CONFIG)
    after = model.state_dict()
    assert {t.dtype for t in after.values() if t.is_floating_point()} == {dtype}
    changed = {n for n, t in after.items() if not torch.equal(t, before[n])}
    assert changed == {f"{n}.weight" for n in result.delta}
    assert {t.dtype for t in result.patch.tensors.values()} == {dtype}
    result.undo.apply(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    stay = unsee.statistics(model, processor, sets["neutral"])
    assert unsee.forget(model, processor, **sets, statistics=stay, config=CONFIG).delta


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_is_set_around_the_call_changes_nothing(around, full, sets, expected):
    with around():
        result = unsee.forget(*full, **sets, config=CONFIG)
    assert same(result.patch.tensors, expected)


def test_within_autocast_the_model_that_has_forgotten_is_seen_and_the_one_put_back(full, sets):
    """autocast keeps what it made of weights, and does not see that they have changed."""
    visual = visual_of(*full)
    pixels = visual.pixels([PIL.Image.effect_noise((56, 40), 90).convert("RGB")])

    def now() -> torch.Tensor:
        return visual.features(pixels)[0].detach()

    with torch.autocast("cpu", torch.bfloat16):
        before = now()
        result = unsee.forget(*full, **sets, config=replace(CONFIG, lr=0.1, max_step_drift=0))
        forgot = now()
        result.undo.apply(full[0])
        again = now()
    result.patch.apply(full[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(now(), forgot) and not torch.equal(before, forgot) and torch.equal(before, again)


def test_a_compiled_model_and_one_in_training_are_served(full, sets, expected):
    model, processor = full
    compiled = torch.compile(model.train())
    result = unsee.forget(compiled, processor, **sets, config=CONFIG)
    assert same(result.patch.tensors, expected) and all(m.training for m in model.modules())
    assert all(not n.startswith("_orig_mod") for n in result.patch.tensors)


def test_a_model_with_a_device_map_is_served(checkpoints, sets, expected):
    from transformers import AutoModelForImageTextToText

    given: Any = {"device_map": "auto" if not torch.cuda.is_available() else "cpu", "dtype": torch.float32}
    model = AutoModelForImageTextToText.from_pretrained(checkpoints["llava"], **given)
    _, processor = load_full(checkpoints["llava"])
    assert same(unsee.forget(model, processor, **sets, config=CONFIG).patch.tensors, expected)


def test_pictures_may_be_paths_or_in_memory(full, sets, expected):
    first = sets["forget"][0]
    paths = [i.path for i in first.images]
    opened = [PIL.Image.open(p) for p in paths]
    for images in (paths, [str(p) for p in paths], opened, [np.asarray(o) for o in opened]):
        result = unsee.forget(*full, forget=[Concept("ada", images)], neutral=sets["neutral"], config=CONFIG)
        assert same(result.patch.tensors, expected)
        result.undo.apply(full[0])


def adapted(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))


def injected(model):
    adapted(model)
    return model


def quantised(model):
    layer = model.model.multi_modal_projector.linear_1
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    return model


def inner_compiled(model):
    model.model.vision_tower = torch.compile(model.model.vision_tower)
    return model


def offloaded(model):
    model.model.vision_tower.to("meta")
    return model


def loaded_in_inference(model):
    with torch.inference_mode():
        layer = model.model.multi_modal_projector.linear_1
        layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
    return model


REFUSED = {
    "peft": (adapted, "merge_and_unload"),
    "injected adapters": (injected, "merge_and_unload"),
    "quantised": (quantised, "is quantised"),
    "compiled inside": (inner_compiled, "from before torch.compile"),
    "on no device": (offloaded, "device meta"),
    "meta": (lambda model: model.to("meta"), "device meta"),
    "inference": (loaded_in_inference, "under torch.inference_mode"),
    "float64": (lambda model: model.double(), "model.float"),
    "wrapped": (torch.nn.DataParallel, "model.module"),
    "a path": (lambda model: "some/folder", "is no model"),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_served_is_refused_before_a_picture_is_opened(fault, full, sets, monkeypatch):
    change, why = REFUSED[fault]
    monkeypatch.setattr(prepare, "load_all", lambda images: pytest.fail("a picture was opened"))
    given = change(full[0])
    with pytest.raises(UnseeError, match=why):
        unsee.forget(given, full[1], **sets, config=CONFIG)
    with pytest.raises(UnseeError, match=why):
        unsee.statistics(given, full[1], sets["neutral"])


@pytest.mark.parametrize("processor", [None, "tokenizer", Path("some/folder")])
def test_what_is_no_processor_of_images_is_refused(processor, full, sets):
    given = full[1].tokenizer if processor == "tokenizer" else processor
    with pytest.raises(UnseeError, match="is no processor of images"):
        unsee.forget(full[0], given, **sets, config=CONFIG)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (["ada/1.jpg"], "a str in a list is no concept"),
        ([PIL.Image.new("RGB", (9, 9))], "a Image in a list is no concept"),
        ([np.zeros((9, 9, 3), dtype=np.uint8)], "a ndarray in a list is no concept"),
        ([Concept("ada", ("nowhere.jpg", "there.jpg"))], "'nowhere.jpg' is no file"),
        ([Concept("ada", "nowhere.jpg")], "are one path, not a list"),
        ([Concept("ada", ())], "has no image"),
        ([Concept("ada", (b"bytes", b"bytes"))], "is a bytes, which is no picture"),
        ([Concept("ada", (np.zeros((9, 9, 3)),) * 2)], "is an array of float64"),
        ([Concept("ada", (np.zeros((9, 9, 5), dtype=np.uint8),) * 2)], "is an array of uint8 and shape"),
        ([Concept("ada", (np.zeros((0, 9), dtype=np.uint8),) * 2)], "is an array of uint8 and shape"),
    ],
)
def test_what_is_no_picture_of_a_concept_is_refused(source, why, full, sets):
    with pytest.raises(UnseeError, match=why):
        unsee.forget(*full, forget=source, neutral=sets["neutral"], config=CONFIG)
