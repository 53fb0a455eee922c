"""What is to be forgotten is not kept too, whatever its files and folders are called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.conftest import folder

import unsee
from unsee.cli import main
from unsee.commands.shared import pick
from unsee.concepts import Concept, Request, once
from unsee.data.folder import read_folder
from unsee.data.given import with_images
from unsee.errors import UnseeError
from unsee.forgetting.moments import Moments


@pytest.fixture
def known(tmp_path) -> Path:
    return folder(tmp_path / "known", {"ada": 1, "ben": 2, "cleo": 3})


@pytest.fixture
def neutral(tmp_path) -> Path:
    return folder(tmp_path / "neutral", {"x": 11, "y": 12})


def asked(forget, retain=None, neutral=None) -> Request:
    return Request(*(read_folder(f).concepts if f else () for f in (forget, retain, neutral)))


def refused(*folders) -> str:
    with pytest.raises(UnseeError) as error:
        asked(*folders)
    return str(error.value)


def press(root: Path, source: Path, save=shutil.copy) -> None:
    """Copies of somebody's pictures under another name, beside other concepts."""
    (root / "press photos").mkdir(parents=True)
    for file in sorted(source.iterdir()):
        save(file, root / "press photos" / f"copy-{file.name}")


def resaved(source: Path, target: Path) -> None:
    with PIL.Image.open(source) as image:
        image.save(target, "PNG", compress_level=1, dpi=(72, 72))


@pytest.mark.parametrize("save", [shutil.copy, resaved])
@pytest.mark.parametrize("place", ["retain", "neutral"])
def test_a_picture_to_forget_that_is_kept_too_is_refused_by_name(tmp_path, known, neutral, save, place) -> None:
    forget, keep = tmp_path / "forget", tmp_path / "keep"
    shutil.move(known / "ada", forget / "ada")
    press(known if place == "retain" else neutral, forget / "ada", save)
    message = refused(forget, known, neutral)
    assert f"4 of the 4 images to forget are the same pictures as some of the {place} images" in message
    assert "ada/0.png (as press photos/copy-0.png)" in message and f"take them out of --{place}" in message
    assert not keep.exists()


@pytest.mark.parametrize(("one", "other"), [("Jose\u0301", "Jos\u00e9"), ("Anna", "anna"), ("STRASSE", "straße")])
def test_one_name_in_two_spellings_is_one_concept(tmp_path, one, other) -> None:
    forget, keep = (folder(tmp_path / part, {name: n}) for part, name, n in (("f", one, 4), ("k", other, 5)))
    assert "1 concept(s) stand in both forget and retain" in refused(forget, keep)
    assert "1 concept(s) stand in both forget and neutral" in refused(forget, None, keep)


def test_names_and_pictures_that_differ_are_taken(known, neutral) -> None:
    ada, *others = read_folder(known).concepts
    assert Request([ada], others, read_folder(neutral).concepts).forget == [ada]


def test_a_picture_that_is_there_twice_counts_once(known) -> None:
    shutil.copy(known / "ada" / "0.png", known / "ada" / "9.png")
    concepts, twice = once(read_folder(known).concepts)
    assert twice == ["ada/9.png"] and [len(c.images) for c in concepts] == [4, 4, 4]
    shutil.copy(known / "ada" / "0.png", known / "ben" / "9.png")  # of two people it may be
    assert once(read_folder(known).concepts)[1] == ["ada/9.png"]


def test_pictures_in_memory_are_known_by_their_pixels_too() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    ada = with_images(Concept("ada", tuple(noise)))
    ben = with_images(Concept("ben", tuple(PIL.Image.fromarray(one) for one in noise[2:])))
    with pytest.raises(UnseeError, match=r"2 of the 4 images .* ada/2 \(as ben/0\), ada/3 \(as ben/1\)"):
        Request([ada], [ben])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, checkpoints) -> Path:
    """Statistics of all three people, and of one of them."""
    root = tmp_path_factory.mktemp("recorded")
    known = folder(root / "known", {"ada": 1, "ben": 2, "cleo": 3})
    statistics = ["statistics", "--model", str(checkpoints["llava"]), "--images", str(known)]
    assert main([*statistics, "--out", str(root / "all.safetensors")]) == 0
    assert main([*statistics, "--concepts", "ada", "--out", str(root / "ada.safetensors")]) == 0
    return root


def test_statistics_know_of_which_pictures_they_are(recorded, checkpoints, neutral, tmp_path, capsys) -> None:
    flags = ["forget", "--model", str(checkpoints["llava"]), "--forget", str(recorded / "known"), "--concepts", "ada"]
    flags += ["--neutral", str(neutral), "--steps", "1", "--dry-run", "--out", str(tmp_path / "run")]
    assert main([*flags, "--statistics", str(recorded / "all.safetensors")]) == 2
    assert "the same pictures as some of the images that the statistics are of: ada/0.png" in capsys.readouterr().err
    rest = Moments.load(recorded / "all.safetensors") - Moments.load(recorded / "ada.safetensors")
    rest.save(tmp_path / "rest.safetensors")
    assert main([*flags, "--statistics", str(tmp_path / "rest.safetensors")]) == 0


def test_hashes_of_pictures_add_and_subtract_with_the_moments(recorded) -> None:
    everybody, ada = (Moments.load(recorded / f"{name}.safetensors") for name in ("all", "ada"))
    digests = [i.digest for c in read_folder(recorded / "known").concepts for i in c.images]
    assert everybody.pictures == tuple(sorted(digests)) and len(ada.pictures) == 4
    assert (everybody - ada).pictures == tuple(sorted(digests[4:]))
    twice = everybody + ada
    assert len(twice.pictures) == 16 and (twice - ada).pictures == everybody.pictures


def test_what_is_not_read_is_said_once_and_kept_in_the_manifest(
    known, neutral, tmp_path, checkpoints, capsys, defaults
) -> None:
    shutil.copy(known / "ada" / "0.png", known / "ada" / "again.png")
    for name in ("a.jxl", "b.jxl", "c.txt"):
        (known / "ada" / name).touch()
    (known / "ada" / "broken.png").touch()
    defaults(steps=1, batch=4)
    flags = ["forget", "--model", str(checkpoints["llava"]), "--forget", str(known), "--retain", str(known)]
    flags += ["--neutral", str(neutral), "--concepts", "ada", "--skip-bad", "--out", str(tmp_path / "run")]
    assert main(flags) in (0, 3)
    said = capsys.readouterr().err
    assert said.count("3 file(s) are not read: .jxl (2), .txt (1)") == 1
    assert "left out 1 image(s) to forget that are there twice, first ada/again.png" in said
    inputs = json.loads((tmp_path / "run" / "manifest.json").read_text())["inputs"]
    assert inputs["forget"]["images"] == 4
    assert inputs["forget"]["unread"] == {".jxl": 2, ".png": 1, ".txt": 1}
    assert inputs["retain"]["unread"] == inputs["neutral"]["unread"] == {}


def test_the_library_refuses_the_same(known, checkpoints) -> None:
    model, processor = unsee.load_full(checkpoints["llava"])
    press(known, known / "ada")
    ada, *others = read_folder(known).concepts
    with pytest.raises(UnseeError, match="What is kept cannot be forgotten"):
        unsee.forget(model, processor, forget=[ada], retain=others)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("ada,ben", ["ada", "ben"]),
        (" ben , ada,", ["ben", "ada"]),
        ("Smith, John", ["Smith, John"]),
        ("ada,Smith, John,ben", ["ada", "Smith, John", "ben"]),
        ("Smith", ["Smith"]),
        ("Jos\u00e9", ["Jose\u0301"]),
        (" padded ", [" padded "]),
        ("", ["ada", "ben", "Smith", "Smith, John", "Jose\u0301", " padded "]),
    ],
)
def test_names_are_picked_as_they_stand(names, found) -> None:
    there = [Concept(name, ()) for name in ("ada", "ben", "Smith", "Smith, John", "Jose\u0301", " padded ")]
    assert [c.id for c in pick(there, names, "--concepts")] == found


def test_a_name_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(UnseeError, match="there is no folder 'anna'. Did you mean 'Anna'"):
        pick([Concept("Anna", ()), Concept("ben", ())], "ben,anna", "--concepts")
