"""However a model lies on disk or on the hub, it is the same model: features, forgetting, apply and plain reload agree.

Names of tensors as transformers 4 and 5 and the hub have them, one file or shards, dtypes, tied embeddings, a hub name
of which only visual shards are downloaded, and a model that brings its own code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import families
from tests.faults import LANGUAGE, LOWER, UPPER, apply_flags, forget_flags, refused, tree, write_llava, write_shards
from tests.hub_server import commit, serve, use
from tests.test_families import equal, seen, text_logits, whole
from transformers import AutoProcessor, GenerationConfig

from unsee import api
from unsee.cli import main
from unsee.concepts import Request
from unsee.config import ForgetConfig
from unsee.data.folder import read_folder
from unsee.prepare import prepare
from unsee.vision.headers import read_header
from unsee.vision.module import Visual, load_visual
from unsee.vision.patch import Patch, apply_patch

# What two steps do is not judged.
CONFIG = ForgetConfig(steps=2, batch=4, bf16=False, projector_first=False, most_left=9.0, most_retained=9.0)
NAME = "ada/tiny-llava"
LLAVA, QWEN = "llava_clip", "qwen2_vl"

# Prefix of a name in the model → on disk; the first that fits counts.
LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "llava of the hub": (
        LLAVA,
        {
            "model.vision_tower.": "vision_tower.vision_model.",
            "model.language_model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
            "model.multi_modal_projector.": "multi_modal_projector.",
        },
    ),
    "llava as transformers 4.5x has it": (LLAVA, {"model.vision_tower.": "model.vision_tower.vision_model."}),
    "llava as its modules are named": (LLAVA, {}),
    "qwen2_vl of the hub": (QWEN, {"model.visual.": "visual.", "model.language_model.": "model."}),
    "qwen2_vl as its modules are named": (QWEN, {}),
}
OF_THE_HUB = {LLAVA: LAYOUTS["llava of the hub"][1], QWEN: LAYOUTS["qwen2_vl of the hub"][1]}


def renamed(name: str, prefixes: dict[str, str]) -> str:
    old = next((p for p in prefixes if name.startswith(p)), "")
    return prefixes.get(old, "") + name.removeprefix(old)


@pytest.fixture(scope="module")
def models():
    """Family → whole model and processor."""
    return {name: families.build(name) for name in (LLAVA, QWEN)}


@pytest.fixture(scope="module")
def request_(images) -> Request:
    first, *others = read_folder(images / "known").concepts
    return Request([first], others[:2], list(read_folder(images / "neutral").concepts)[:2])


def write(
    folder: Path,
    built,
    prefixes: dict[str, str],
    place: Callable[[str], str] | None = None,
    change: Callable[[dict[str, torch.Tensor]], object] = lambda tensors: None,
) -> Path:
    """The model in a layout of tensor names, in one file, or in those that ``place`` names."""
    model, processor = built
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    tensors = {renamed(n, prefixes): t.clone() for n, t in model.state_dict().items()}
    change(tensors)
    if place:
        write_shards(folder, tensors, place)
    else:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def alternately(name: str) -> str:
    """Three shards, each with visual and language tensors."""
    return f"model-0000{len(name) % 3 + 1}-of-00003.safetensors"


def forgotten(folder: Path, request: Request, out: Path) -> tuple[api.Result, Path]:
    """The run, and the checkpoint with its patch in it."""
    result = api.forget(load_visual(folder), **vars(request), config=CONFIG)
    result.patch.save(out / "patch")
    result.undo.save(out / "undo")
    apply_patch(folder, out / "patch", out / "new")
    return result, out / "new"


@pytest.fixture(scope="module")
def expected(models, request_, tmp_path_factory):
    """Family → the patch by names in the model, and features and text logits after it."""
    found = {}
    for name, built in models.items():
        root = tmp_path_factory.mktemp(name)
        folder = write(root / "model", built, OF_THE_HUB[name])
        visual = load_visual(folder)
        result, new = forgotten(folder, request_, root)
        patch = {visual.checkpoint.visual[n]: t for n, t in result.patch.tensors.items()}
        model = whole(new)
        found[name] = patch, seen(Visual(model, built[1]), request_), text_logits(name, model)
    return found


@pytest.mark.parametrize("place", [None, alternately], ids=["one file", "shards"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_model(layout, place, models, request_, expected, tmp_path):
    name, prefixes = LAYOUTS[layout]
    folder = write(tmp_path / "model", models[name], prefixes, place)
    visual = load_visual(folder)
    assert equal(seen(visual, request_), seen(Visual(*models[name]), request_))
    result, new = forgotten(folder, request_, tmp_path)
    patch, features, logits = expected[name]
    assert {visual.checkpoint.visual[n] for n in result.patch.tensors} == patch.keys()
    assert all(torch.equal(t, patch[visual.checkpoint.visual[n]]) for n, t in result.patch.tensors.items())
    assert equal(seen(load_visual(new), request_), features)
    model = whole(new)
    assert equal(seen(Visual(model, models[name][1]), request_), features)
    assert torch.equal(text_logits(name, model), logits)
    apply_patch(new, tmp_path / "undo", tmp_path / "old")
    assert all((tmp_path / "old" / f.name).read_bytes() == f.read_bytes() for f in folder.iterdir())


STRAY = {
    LLAVA: ["vision_tower.vision_model.embeddings.position_ids", "language_model.model.layers.0.rotary_emb.inv_freq"],
    QWEN: ["visual.rotary_pos_emb.inv_freq", "visual.position_ids", "model.layers.0.self_attn.rotary_emb.inv_freq"],
}


@pytest.mark.parametrize("name", STRAY)
def test_buffers_of_older_versions_stay_where_they_are(name, models, request_, expected, tmp_path):
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {stray: torch.arange(17)[None] for stray in STRAY[name]}

    folder = write(tmp_path / "model", models[name], OF_THE_HUB[name], change=add)
    result, new = forgotten(folder, request_, tmp_path)
    assert result.patch.tensors.keys() == {renamed(n, OF_THE_HUB[name]) for n in expected[name][0]}
    assert equal(seen(Visual(whole(new), models[name][1]), request_), expected[name][1])
    stored = load_file(new / "model.safetensors")
    assert all(torch.equal(stored[stray], torch.arange(17)[None]) for stray in STRAY[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", [LLAVA, QWEN])
def test_a_patch_has_the_dtype_of_the_disk_and_the_bytes_that_changed(name, dtype, models, request_, tmp_path):
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {n: t.to(dtype) for n, t in tensors.items()}

    folder = write(tmp_path / "model", models[name], OF_THE_HUB[name], change=halve)
    visual = load_visual(folder)
    assert api.make_patch(visual, prepare(visual, request_, None, CONFIG), CONFIG, ["ab"])[0].tensors == {}
    result, new = forgotten(folder, request_, tmp_path)
    assert result.patch.tensors and {t.dtype for t in result.patch.tensors.values()} == {dtype}
    old, changed = ((f / "model.safetensors").read_bytes() for f in (folder, new))
    rows = read_header(folder / "model.safetensors")
    assert old[: min(e.start for e in rows.values())] == changed[: min(e.start for e in rows.values())]
    assert {n for n, e in rows.items() if old[e.start : e.end] != changed[e.start : e.end]} == set(result.patch.tensors)
    loaded = load_visual(new).tensors()
    assert all(torch.equal(loaded[visual.checkpoint.visual[n]], t.float()) for n, t in result.patch.tensors.items())


def test_a_checkpoint_of_several_dtypes(models, request_, tmp_path):
    """As where the vision tower was kept in float32 when the rest was halved."""

    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {n: t.half() for n, t in tensors.items() if "fc1" in n or "projector" in n}

    folder = write(tmp_path / "model", models[LLAVA], OF_THE_HUB[LLAVA], change=halve)
    result, new = forgotten(folder, request_, tmp_path)
    before, after = (load_file(f / "model.safetensors") for f in (folder, new))
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    assert {t.dtype for t in result.patch.tensors.values()} == {torch.float16, torch.float32}


@pytest.mark.parametrize("name", [LLAVA, QWEN])
def test_tied_embeddings_have_no_output_layer_on_disk(name, models, request_, tmp_path):
    model, processor = models[name]
    config = type(model.config).from_dict(model.config.to_dict())
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    torch.manual_seed(0)
    tied = type(model)(config).eval()
    assert tied.lm_head.weight is tied.get_input_embeddings().weight

    def untold(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[renamed("lm_head.weight", OF_THE_HUB[name])]

    folder = write(tmp_path / "model", (tied, processor), OF_THE_HUB[name], change=untold)
    assert equal(seen(load_visual(folder), request_), seen(Visual(tied, processor), request_))
    _, new = forgotten(folder, request_, tmp_path)
    again = whole(new)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(text_logits(name, again), text_logits(name, tied))
    assert not equal(seen(Visual(again, processor), request_), seen(Visual(tied, processor), request_))


def test_processor_generation_config_and_chat_template_are_kept(checkpoints, images, tmp_path):
    """A folder that save_pretrained of a whole model and its processor wrote."""
    folder, new = checkpoints[QWEN], tmp_path / "new"
    assert main(forget_flags(folder, images, tmp_path / "run")) == 0
    assert main(apply_flags(folder, tmp_path / "run" / "patch", new)) == 0
    kept = {f.name for f in folder.iterdir()} - {"model.safetensors"}
    assert {"generation_config.json", "tokenizer.json", "chat_template.jinja"} <= kept
    assert {f.name for f in new.iterdir()} == kept | {"model.safetensors", "unsee.json"}
    assert all((new / f).read_bytes() == (folder / f).read_bytes() for f in kept)
    one, two = (AutoProcessor.from_pretrained(f) for f in (folder, new))
    assert one.chat_template == two.chat_template and one.tokenizer.get_vocab() == two.tokenizer.get_vocab()
    assert GenerationConfig.from_pretrained(new) == GenerationConfig.from_pretrained(folder)


# A name on the hub.


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub with the model in three shards, of which LANGUAGE holds nothing visual, and two other formats."""
    folder = write_llava(tmp_path / "repository")
    for other in ("pytorch_model.bin", "README.md"):
        (folder / other).write_text("of no use")
    with serve({NAME: folder}) as hub:
        use(monkeypatch, hub.endpoint, tmp_path / "cache")
        yield hub


SMALL = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors.index.json",
         "preprocessor_config.json", "tokenizer.json"]  # fmt: skip


def test_of_a_hub_name_only_visual_shards_are_downloaded(server, request_):
    visual = load_visual(NAME)
    assert server.downloaded() == sorted([*SMALL, LOWER, UPPER])
    assert equal(seen(visual, request_), seen(load_visual(server.repositories[NAME]), request_))


def test_a_hub_name_from_forget_to_apply_and_then_offline(server, images, tmp_path, monkeypatch):
    folder = server.repositories[NAME]
    assert main(forget_flags(NAME, images, tmp_path / "run")) == 0
    assert server.downloaded() == sorted([*SMALL, LOWER, UPPER])
    info = Patch.load(tmp_path / "run" / "patch").info
    assert (info["model"], info["revision"]) == (NAME, commit(folder))
    assert main(apply_flags(NAME, tmp_path / "run" / "patch", tmp_path / "new")) == 0
    assert server.downloaded() == sorted([*SMALL, LANGUAGE, LOWER, UPPER])
    assert main(apply_flags(folder, tmp_path / "run" / "patch", tmp_path / "same")) == 0
    new, same = tree(tmp_path / "new"), tree(tmp_path / "same")
    assert new == {f: h for f, h in same.items() if f != "README.md"}  # the hub's card is not downloaded

    server.requests.clear()
    use(monkeypatch, server.endpoint, tmp_path / "cache", offline=True)
    assert main(forget_flags(NAME, images, tmp_path / "again")) == 0
    assert tree(tmp_path / "again" / "patch") == tree(tmp_path / "run" / "patch")
    assert main(apply_flags(NAME, tmp_path / "again" / "patch", tmp_path / "third")) == 0
    assert tree(tmp_path / "third") == new and server.requests == []


def test_a_patch_is_applied_to_the_commit_it_was_made_from(server, images, tmp_path):
    """The repository moves on to other weights in between."""
    assert main(forget_flags(NAME, images, tmp_path / "run")) == 0
    old = server.repositories[NAME]
    server.repositories |= {f"{NAME}@old": old, NAME: write_llava(tmp_path / "moved", seed=1)}
    assert main(apply_flags(NAME, tmp_path / "run" / "patch", tmp_path / "new")) == 0
    assert (tmp_path / "new" / LANGUAGE).read_bytes() == (old / LANGUAGE).read_bytes()


# A model that brings its own code.

CODE = """
from pathlib import Path
from transformers import LlavaConfig, LlavaForConditionalGeneration

Path({marker!r}).write_text("ran")


class OwnConfig(LlavaConfig):
    model_type = "own_llava"


class OwnForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""
AUTO = {
    "AutoConfig": "modeling_own.OwnConfig",
    "AutoModelForImageTextToText": "modeling_own.OwnForConditionalGeneration",
}


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A model with a modeling file that leaves ran.txt when it is run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = write_llava(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own_llava", "auto_map": AUTO}))
    (folder / "modeling_own.py").write_text(CODE.format(marker=str(tmp_path / "ran.txt")))
    return folder


def test_code_of_a_checkpoint_is_not_run_unasked(own, images, tmp_path, capsys):
    for flags in (forget_flags(own, images, tmp_path / "run"), ["inspect", "--model", str(own)]):
        said = refused(capsys, flags, tmp_path)
        assert "brings its own code" in said and "give --trust-remote-code" in said
    assert not (tmp_path / "ran.txt").exists()


def test_code_of_a_checkpoint_is_run_where_it_is_trusted(own, images, request_, tmp_path):
    plain = write_llava(tmp_path / "plain")
    assert main([*forget_flags(own, images, tmp_path / "run"), "--trust-remote-code"]) == 0
    assert (tmp_path / "ran.txt").exists()
    visual = load_visual(own, trust=True)
    assert type(visual.model).__name__ == "OwnForConditionalGeneration"
    assert equal(seen(visual, request_), seen(load_visual(plain), request_))


def test_apply_runs_no_code_unasked(own, images, tmp_path, capsys):
    """Only the code tells which tensors are visual: it is trusted, or the patch is. The code goes along."""
    assert main([*forget_flags(own, images, tmp_path / "run"), "--trust-remote-code"]) == 0
    (tmp_path / "ran.txt").unlink()
    flags = apply_flags(own, tmp_path / "run" / "patch", tmp_path / "new")
    said = refused(capsys, flags, tmp_path)
    assert "brings its own code" in said and "--trust-remote-code, or --allow-language-tensors" in said
    assert main([*flags, "--allow-language-tensors"]) == 0
    assert not (tmp_path / "ran.txt").exists()
    assert (tmp_path / "new" / "modeling_own.py").read_bytes() == (own / "modeling_own.py").read_bytes()
    trusted = apply_flags(own, tmp_path / "run" / "patch", tmp_path / "same")
    assert main([*trusted, "--trust-remote-code"]) == 0
    assert tree(tmp_path / "same") == tree(tmp_path / "new")


def test_code_on_the_hub(own, images, tmp_path, capsys, monkeypatch):
    with serve({NAME: own}) as hub:
        use(monkeypatch, hub.endpoint, tmp_path / "cache")
        flags = forget_flags(NAME, images, tmp_path / "run")
        assert main(flags) == 2 and "brings its own code" in capsys.readouterr().err
        assert "modeling_own.py" not in hub.downloaded() and not (tmp_path / "ran.txt").exists()
        assert main([*flags, "--trust-remote-code"]) == 0
        patched = apply_flags(NAME, tmp_path / "run" / "patch", tmp_path / "new")
        assert main([*patched, "--trust-remote-code"]) == 0
        assert (tmp_path / "new" / "modeling_own.py").is_file()
