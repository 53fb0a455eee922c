"""Every supported family, from a checkpoint without its language model to one that has forgotten, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests import families
from tests.test_module import poison
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from unsee import api
from unsee.concepts import Request
from unsee.config import ForgetConfig
from unsee.data.folder import read_folder
from unsee.errors import UnseeError
from unsee.prepare import chosen
from unsee.rivals import ours
from unsee.rivals.job import Job
from unsee.rivals.material import Example, Material
from unsee.vision import blocks
from unsee.vision.checkpoint import Checkpoint, language_parts
from unsee.vision.families import FAMILIES
from unsee.vision.module import Visual, load_visual
from unsee.vision.patch import apply_patch
from unsee.vision.trace import trace

WITHIN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")  # their projector lies within the tower
CONFIG = ForgetConfig(steps=12, batch=4, lr=3e-3, bf16=False, stop=0, replay=0, keep=1.0, penalty=1.0, most_left=9.0)
MORE_FOLLOWS = ("idefics2", "gemma3")  # behind their last linear layer: a norm, a bare matrix
LLAMA4, BLIP = "llama4", "blip_2"  # their forward takes no text alone; their language models do


@pytest.fixture(scope="module")
def request_(images) -> Request:
    first, *others = read_folder(images / "known").concepts
    return Request([first], others[:2], list(read_folder(images / "neutral").concepts)[:2])


@pytest.fixture(scope="module", params=[*families.SUPPORTED, *families.OTHERS])
def family(request, tmp_path_factory) -> tuple[str, Path]:
    """A family's name and a checkpoint of it in shards, with and without language tensors in them."""
    folder = tmp_path_factory.mktemp("family") / request.param
    model, processor = families.build(request.param)
    model.save_pretrained(folder, max_shard_size="100KB")
    processor.save_pretrained(folder)
    return request.param, folder


@pytest.fixture(scope="module")
def forgotten(family, request_, tmp_path_factory) -> tuple[Path, Path, api.Result]:
    """The checkpoint before, after its patch, and the run."""
    out = tmp_path_factory.mktemp("forgotten")
    visual = load_visual(family[1])
    result = api.forget(visual, **vars(request_), config=CONFIG)
    result.patch.save(out / "patch")
    result.undo.save(out / "undo")
    apply_patch(family[1], out / "patch", out / "new")
    return family[1], out, result


def whole(folder: Path):
    cls = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(AutoConfig.from_pretrained(folder))]
    return cls.from_pretrained(folder, dtype=torch.float32).eval()


def seen(visual: Visual, request: Request) -> list[torch.Tensor]:
    with torch.no_grad():
        return visual.features(visual.pixels([i for c in request.forget for i in c.images]))


def equal(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def text_logits(name: str, model) -> torch.Tensor:
    part = model.language_model if name in (LLAMA4, BLIP) else model
    with torch.no_grad():
        return part(input_ids=torch.tensor([[5, 6, 7]])).logits


def test_features_are_those_of_the_whole_model_and_no_language_tensor_is_read(family, request_, tmp_path):
    _, folder = family
    model = whole(folder)
    expected = seen(Visual(model, load_visual(folder).image_processor), request_)
    assert all(f.isfinite().all() for f in expected) and not torch.equal(expected[0], expected[1])
    visual = Checkpoint.open(folder).visual
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    for file in bare.glob("*.safetensors"):
        poison(file, lambda name: name not in visual)
        if not any(name in visual for name in load_file(file)):
            file.unlink()
    alone = load_visual(bare)
    assert equal(seen(alone, request_), expected)
    language = {id(p) for part in language_parts(model) for p in part.parameters()}
    assert len(alone.parameters()) == sum(id(p) not in language for p in model.parameters())
    assert len(list(alone.model.parameters())) == len(alone.parameters())  # nothing of the language model is there


def test_features_do_not_depend_on_what_shares_the_batch(family, request_):
    visual = load_visual(family[1])
    pixels = visual.pixels([i for c in [*request_.forget, *request_.retain] for i in c.images])
    pixels += visual.pixels([i.load().resize((30, 70)) for c in request_.forget for i in c.images])
    with torch.no_grad():
        together = visual.features(pixels)
        for one, pixel in zip(together, pixels, strict=True):
            torch.testing.assert_close(visual.features([pixel])[0], one, rtol=1e-3, atol=1e-4)


def test_forgetting_runs_and_its_loss_falls(forgotten):
    history = forgotten[2].history
    total = [h["forget"] + CONFIG.anchor * h["anchor"] for h in history]
    assert min(total[-3:]) < 0.9 * total[0]
    assert forgotten[2].patch.tensors


def test_plain_transformers_loads_what_was_forgotten(family, forgotten, request_):
    before, out, result = forgotten
    visual = load_visual(before)
    old = seen(visual, request_)
    result.patch.apply(visual.model)
    new = seen(visual, request_)
    model = whole(out / "new")
    assert equal(seen(Visual(model, visual.image_processor), request_), new) and not equal(old, new)
    assert torch.equal(text_logits(family[0], model), text_logits(family[0], whole(before)))


def test_all_other_tensors_keep_their_bytes(forgotten):
    before, out, result = forgotten
    old, new = tensors(before), tensors(out / "new")
    assert old.keys() == new.keys()
    assert {n for n in old if not torch.equal(old[n], new[n])} == set(result.patch.tensors)


def test_reverting_gives_the_original_bytes(forgotten, tmp_path):
    before, out, _ = forgotten
    apply_patch(out / "new", out / "undo", tmp_path / "old")
    old = files(tmp_path / "old")
    assert json.loads(old.pop("unsee.json")) == {"patches": []}
    assert old == files(before)


def test_the_last_layer_is_solved_wherever_features_are_linear_in_it(family, request_):
    config = ForgetConfig(steps=1, batch=4, solve=10, stop=0.95, most_left=0.95, bf16=False)
    result = api.forget(load_visual(family[1]), **vars(request_), config=config)
    assert ("drift" in result.history[0]) == (family[0] not in MORE_FOLLOWS)


def test_every_block_trains_and_the_short_way_is_the_long_way(family, request_):
    """Trained layers alone change, and every one of them does; what is below the first runs once."""
    visual = load_visual(family[1])
    before = {n: t.clone() for n, t in visual.model.state_dict().items()}
    every = ForgetConfig(steps=1, batch=4, depth=1.0, projector_first=False, bf16=False, solve=0)
    result = api.forget(visual, **vars(request_), config=every)
    changed = {n for n, t in visual.model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {f"{n}.weight" for n in result.delta}
    assert len(blocks.tower(dict.fromkeys(result.delta))) >= 2


NO_LINEAR = ("gemma3",)  # the projector is one bare parameter


def test_projector_only_trains_layers_of_the_projector_only(family, request_, monkeypatch):
    name, _ = family
    asked: list[ForgetConfig] = []
    monkeypatch.setattr(ours.api, "forget", lambda *_, config, **__: asked.append(config) or SimpleNamespace(delta={}))
    job = bare_job(name, request_)
    if name in NO_LINEAR:
        with pytest.raises(UnseeError, match="the projector of .* has no linear layer"):
            ours.projector_only(job, CONFIG)
        return
    ours.projector_only(job, CONFIG)
    trained = chosen(trace(job.visual, job.pixels(job.material.forget)[0]), asked[0])
    towers = (job.visual.family.encoder or "vision_tower").split(", ")
    assert trained
    assert all(job.visual.family.in_projector(n) for n in trained)
    assert name in WITHIN or not any(f".{tower}." in n for n in trained for tower in towers)
    kinds = {id(p) for p in job.parameters("language").values()}
    assert not any(id(job.model.get_submodule(n).weight) in kinds for n in trained)


def bare_job(name: str, request: Request) -> Job:
    """Without words: the families have no tokenizer here."""
    model, image_processor = families.build(name)
    tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=0, bos_token=None)
    example = Example(request.forget[0].id, request.forget[0].images[0], ())
    material = Material(request, (example,), (), (), (), ())
    return Job(model, SimpleNamespace(image_processor=image_processor, tokenizer=tokenizer), material)


def test_the_list_of_families_is_tested(family):
    kind = json.loads((family[1] / "config.json").read_text())["model_type"]
    assert (family[0] in families.SUPPORTED) <= any(kind in f.types for f in FAMILIES)
