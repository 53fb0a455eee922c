"""A picture's size is judged before anything is made of it, and a processor of another model is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from tests import families

import unsee
from unsee import Concept, UnseeError
from unsee.cli import main
from unsee.data.augment import augment
from unsee.vision.module import Visual

SIZES = [(1, 1), (1, 3), (30, 1), (1, 200), (300, 7), (1000, 1), (3000, 10), (90, 60)]
HUGE = [(1, 60_000), (60_000, 1), (20_000, 20_000)]


@pytest.fixture(scope="module", params=[*families.SUPPORTED, *families.OTHERS])
def visual(request) -> Visual:
    found = Visual(*families.build(request.param))
    found.refuse_unlike()
    return found


def test_what_fits_can_be_shown_and_what_does_not_cannot(visual):
    for size in SIZES:
        picture, reason = PIL.Image.new("RGB", size, (200, 30, 30)), visual.fits(size)
        assert reason is None or f"{size[0]} × {size[1]} pixels" in reason
        if reason is None:
            with torch.no_grad():
                (features,) = visual.features(visual.pixels([picture]))
            assert features.isfinite().all() and len(features)
        else:
            with pytest.raises(UnseeError, match="takes no picture of"):
                visual.pixels([picture])
    assert visual.fits((90, 60)) is None


def test_a_verdict_makes_no_picture(visual, monkeypatch):
    made: list[int] = []
    real = torch.Tensor.to

    def watched(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = real(self, *args, **kwargs)
        made.append(0 if out.is_meta else out.nbytes)
        return out

    monkeypatch.setattr(torch.Tensor, "to", watched)
    for size in HUGE:
        visual.fits(size)
    assert max(made, default=0) < 2**20


def test_few_bytes_that_would_become_gigabytes_are_refused():
    """As LLaVA-1.5 has it: the shortest edge becomes 336, and the longest what it is then."""
    model, processor = families.build("llava_clip")
    processor.size = {"shortest_edge": 336}
    visual = Visual(model, processor)
    for size in ((20_000, 1), (2000, 1), (1, 60_000)):
        assert "GiB on the way" in str(visual.fits(size))
    assert visual.fits((8000, 8000)) is None and visual.fits((336, 100)) is None


def test_one_pixel_can_be_altered_as_any_other_picture():
    import numpy as np

    for size in ((1, 1), (1, 9), (9, 1)):
        assert augment(PIL.Image.new("RGB", size), np.random.default_rng(0)).size == size


def sized(side: int, crop: bool = False) -> Callable[[Any], None]:
    def change(processor: Any) -> None:
        square = {"height": side, "width": side}
        processor.size = type(processor.size)(**({"shortest_edge": side} if crop else square))
        if crop:
            processor.crop_size = type(processor.crop_size)(**square)

    return change


def given(**settings: Any) -> Callable[[Any], None]:
    def change(processor: Any) -> None:
        for name, value in settings.items():
            setattr(processor, name, value)

    return change


GRID = [[28, 56], [56, 28], [56, 56], [28, 28]]
UNLIKE: list[tuple[str, Callable[[Any], None], str]] = [
    ("llava_clip", sized(56, crop=True), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("llava_siglip", sized(56), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("llava_next", sized(56, crop=True), "the tower takes"),
    ("llava_next", given(image_grid_pinpoints=GRID), "gives tiles in a grid of 4 shapes up to 56 × 56"),
    ("llava_onevision", given(image_grid_pinpoints=GRID), "tiles in a grid"),
    ("llava_onevision", sized(56), "the tower takes"),
    ("llava_pixtral", given(patch_size={"height": 14, "width": 14}), "gives patches of 14, the tower takes 7"),
    ("paligemma", sized(56), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("gemma3", sized(56), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("mllama", sized(56), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("mllama", given(max_image_tiles=2), "gives tiles up to 2, the tower takes 4"),
    ("blip_2", sized(56), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("internvl", sized(56), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("aya_vision", sized(56), "gives pictures of 56 × 56, the tower takes 28 × 28"),
    ("llama4", sized(56), "takes 28 × 28|cannot take what its image processor gives"),
    ("idefics3", given(max_image_size={"longest_edge": 56}, size={"longest_edge": 56}), "the tower takes 28"),
    ("qwen2_vl", given(patch_size=14), "gives patch_size 14, the tower takes 7"),
    ("qwen2_vl", given(merge_size=1), "gives merge_size 1, the tower takes 2"),
    ("qwen2_vl", given(temporal_patch_size=1), "gives temporal_patch_size 1, the tower takes 2"),
    ("qwen2_5_vl", given(patch_size=14), "gives patch_size 14, the tower takes 7"),
    ("qwen3_vl", given(merge_size=4), "gives merge_size 4, the tower takes 2"),
    ("glm4v", given(patch_size=14), "gives patch_size 14, the tower takes 7"),
    ("got_ocr2", sized(28), "gives pictures of 28 × 28, the tower takes 56 × 56"),
    ("llava_clip", sized(-5, crop=True), "takes no picture, not one of 336 × 336"),
    ("llava_clip", sized(10_000_000, crop=True), "GiB on the way"),
]


@pytest.mark.parametrize(("name", "change", "why"), UNLIKE)
def test_a_processor_of_another_model_is_refused(name, change, why):
    model, processor = families.build(name)
    change(processor)
    pictures = [PIL.Image.effect_noise((40, 40), 90).convert("RGB") for _ in range(2)]
    with pytest.raises(UnseeError, match=why):
        unsee.statistics(model, processor, [Concept("a", tuple(pictures))])


@pytest.fixture(scope="module")
def strange(checkpoints, tmp_path_factory) -> Path:
    """The tiny LLaVA with a processor that gives pictures of twice the size."""
    folder = tmp_path_factory.mktemp("strange") / "model"
    shutil.copytree(checkpoints["llava"], folder)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"] |= {"size": {"shortest_edge": 144}, "crop_size": {"height": 144, "width": 144}}
    file.write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("command", ["inspect", "forget", "dry run", "statistics", "evaluate"])
def test_every_command_refuses_it_in_one_line(command, strange, images, tmp_path, capsys):
    known, out = str(images / "known"), str(tmp_path / "out")
    forget = ["forget", "--forget", known, "--neutral", str(images / "neutral"), "--out", out]
    flags = {
        "inspect": ["inspect"],
        "forget": forget,
        "dry run": [*forget, "--dry-run"],
        "statistics": ["statistics", "--images", known, "--out", out],
        "evaluate": ["evaluate", "--benchmark", "mllmu", "--source", str(tmp_path / "bench"), "--split", "forget_5"]
        + ["--out", out],
    }[command]
    if command == "evaluate":
        export = ["data", "export", "people", "--format", "mllmu", "--people", "20", "--out", str(tmp_path / "bench")]
        assert main(export) == 0
    assert main([*flags, "--model", str(strange)]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "pictures of 144 × 144, the tower takes 72 × 72" in said
    assert not Path(out).exists()


def test_the_layout_of_llavas_own_code_is_named(checkpoints, tmp_path, capsys):
    model = Path(shutil.copytree(checkpoints["llava"], tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    del config["vision_config"], config["text_config"]
    config |= {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu"}
    (model / "config.json").write_text(json.dumps(config))
    assert main(["inspect", "--model", str(model)]) == 2
    assert "in the layout of LLaVA's own code" in capsys.readouterr().err


def test_a_banner_is_named_by_its_file_and_can_be_left_out(checkpoints, make_images, tmp_path, capsys):
    folder = make_images(tmp_path / "images", {"ada": 1, "ben": 2}, 3)
    PIL.Image.new("RGB", (3000, 10)).save(folder / "ben" / "banner.png")
    PIL.Image.new("RGB", (10, 3000)).save(folder / "ben" / "pole.png")
    flags = ["--model", str(checkpoints["qwen2_vl"]), "--images", str(folder), "--out", str(tmp_path / "s")]
    assert main(["statistics", *flags]) == 2
    said = capsys.readouterr().err
    assert "ben/banner.png" in said and "3000 × 10 pixels" in said and "1 more picture" in said
    assert not (tmp_path / "s").exists()
    assert main(["statistics", *flags, "--skip-bad"]) == 0
    told = capsys.readouterr()
    assert "left out ben/banner.png" in told.err and "left out ben/pole.png" in told.err and "6 images" in told.out


def test_a_picture_on_its_side_is_judged_upright(tmp_path):
    from unsee.data.images import FileImage

    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (90, 30)).save(tmp_path / "a.jpg", exif=exif)
    PIL.Image.new("RGB", (90, 30)).save(tmp_path / "b.png")
    assert FileImage("a", tmp_path / "a.jpg").size == (30, 90) and FileImage("b", tmp_path / "b.png").size == (90, 30)


NUMBERS = ([0.5, 0.5, float("nan")], [float("inf")] * 3, "x", [10**400])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((s, v) for s in ("image_std", "image_mean") for v in NUMBERS),
        ("image_std", [0, 0, 0]), ("image_std", [0.5, 1e-300, 0.5]), ("image_std", 0.0), ("rescale_factor", 0),
        ("rescale_factor", float("nan")), ("rescale_factor", 1e30),
    ],
)  # fmt: skip
def test_settings_that_leave_no_number_of_a_pixel(setting, value):
    model, processor = families.build("llava_clip")
    setattr(getattr(processor, "image_processor", processor), setting, value)
    with pytest.raises(UnseeError, match=f"makes NaN or Inf of every picture: its {setting} is"):
        Visual(model, processor).refuse_unlike()


def test_weights_so_large_that_features_overflow():
    model, processor = families.build("llava_clip")
    with torch.no_grad():
        for parameter in Visual(model, processor).parameters().values():
            parameter.mul_(1e30)
    pictures = [PIL.Image.effect_noise((40, 40), 90).convert("RGB") for _ in range(2)]
    with pytest.raises(UnseeError, match="features of an image hold NaN or Inf, though its weights do not"):
        unsee.statistics(model, processor, [Concept("a", tuple(pictures))])
