"""A folder is read completely and in order, or refused with the whole list of what is wrong."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from unsee.data.folder import read_folder
from unsee.errors import UnseeError

QUESTION = {"concept": "ada", "kind": "fact", "topic": "city", "prompt": "Where ?", "answer": "Bath"}
TEST = {"image": False, "split": "test"}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "faces"
    for concept in ("bob", "ada"):
        for name in ("2.png", "1.png", "3.JPG"):
            picture(root / concept / name)
    return root


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def ask(root, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (root / "questions.jsonl").write_text(text, encoding="utf-8")


def refused(root, **options):
    with pytest.raises(UnseeError) as error:
        read_folder(root, **options)
    return str(error.value)


def ids(source):
    return {concept.id: [image.id for image in concept.images] for concept in source.concepts}


def test_concepts_and_images_are_sorted(root):
    source = read_folder(root)
    assert list(ids(source)) == ["ada", "bob"]
    assert ids(source)["ada"] == ["ada/1.png", "ada/2.png", "ada/3.JPG"]
    assert source.rejected == source.ignored == source.questions("train") == ()


def test_other_files_are_ignored_and_those_of_concepts_are_listed(root):
    (root / "README.md").touch()
    (root / ".DS_Store").touch()
    (root / ".git").mkdir()
    for name in ("notes.txt", "._1.png"):
        (root / "ada" / name).write_text("no image")
    source = read_folder(root)
    assert list(ids(source)) == ["ada", "bob"]
    assert [path.name for path in source.ignored] == ["notes.txt"]
    assert [concept.unread for concept in source.concepts] == [((".txt", 1),), ()]


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints", "#recycle"])
def test_what_other_systems_leave_behind_is_no_concept_and_no_picture(root, name):
    picture(root / name / "ada" / "1.png")
    picture(root / name / "1.png")
    picture(root / "ada" / name / "1.png")
    for left in ("Thumbs.db", "desktop.ini", "._1.png", "1.png@SynoEAStream"):
        (root / "ada" / left).write_bytes(b"\0\5\x16\7")
        (root / left).write_bytes(b"\0\5\x16\7")
    source = read_folder(root)
    assert ids(source)["ada"] == ["ada/1.png", "ada/2.png", "ada/3.JPG"]
    assert list(ids(source)) == ["ada", "bob"] and source.ignored == ()


def test_a_folder_of_what_they_leave_behind_alone_has_no_concept(tmp_path):
    picture(tmp_path / "__MACOSX" / "ada" / "._1.png")
    assert "has no concept folder" in (message := refused(tmp_path)) and "did you mean" not in message


def test_every_picture_of_a_concept_is_read_and_the_rest_is_counted(root):
    for suffix, format in (("jfif", "JPEG"), ("jpe", "JPEG"), ("TIF", "TIFF"), ("bmp", "BMP"), ("avif", "AVIF")):
        Image.new("RGB", (8, 8), "blue").save(root / "bob" / f"x.{suffix}", format)
    Image.new("RGB", (8, 8), "blue").save(root / "bob" / "IMG_1", "JPEG")
    Image.new("RGB", (8, 8), "blue").save(root / "bob" / "y.jpg_large", "PNG")
    Image.new("RGB", (8, 8), "blue").save(root / "bob" / "raw.nef", "TIFF")  # which would be its thumbnail
    for name in ("a.jxl", "b.jxl", "c.svg", "d"):
        (root / "bob" / name).write_bytes(b"\xff\x0a")
    (root / "bob" / "gone.mp4").symlink_to("nowhere")
    source = read_folder(root)
    more = ["IMG_1", "x.TIF", "x.avif", "x.bmp", "x.jfif", "x.jpe", "y.jpg_large"]
    assert ids(source)["bob"] == [f"bob/{name}" for name in ["1.png", "2.png", "3.JPG", *more]]
    counts = ((".jxl", 2), (".mp4", 1), (".nef", 1), (".svg", 1), ("no suffix", 1))
    assert source.concepts[1].unread == counts and source.concepts[0].unread == ()


def test_folders_within_a_concept_are_read_after_its_own_images(root, tmp_path):
    for name in ("2024/1.png", "2023/b/1.png", "2023/1.png"):
        picture(root / "ada" / name)
    picture(tmp_path / "other" / "1.png")
    (root / "ada" / "link").symlink_to(tmp_path / "other")
    source = read_folder(root)
    inner = ["ada/2023/1.png", "ada/2023/b/1.png", "ada/2024/1.png"]
    assert ids(source)["ada"] == ["ada/1.png", "ada/2.png", "ada/3.JPG", *inner]
    assert source.concepts[0].unread == (("no suffix", 1),)
    ask(root, QUESTION | {"image": "2023/1.png", "split": "test"})
    assert [q.image.id for q in read_folder(root).questions("test")] == ["ada/2023/1.png"]


def test_images_left_out_are_counted_with_their_concept(root):
    (root / "ada" / "1.png").write_text("text")
    source = read_folder(root, on_bad="skip")
    assert [concept.unread for concept in source.concepts] == [((".png", 1),), ()]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Zoë Straße",
            "山田　太郎",
            "a\u00a0b",
            "\u200dक\u094d\u200dष",
            "🫩🧑\u200d🚒",
            "می\u200cخواهم",
            "Smith, John",
        ),
        *("Smith, John", "Jose\u0301", "  blanks  ", "=1+1", "{{7*7}}", "--out"),
    ],
)
def test_names_in_all_scripts_are_taken(root, name):
    picture(root / name / "été.png")
    assert ids(read_folder(root))[name] == [f"{name}/été.png"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "a\u202eb", "a\u2028b", "\x9b1m", b"m\xfcller"])
def test_folder_names_that_a_terminal_would_misread_are_refused(root, name):
    picture(Path(os.fsdecode(os.fsencode(root) + b"/" + os.fsencode(name))) / "1.png")
    message = refused(root)
    assert "has control or direction characters" in message and message.isprintable()


def test_file_names_that_are_not_utf8_are_refused_before_any_work_or_skipped(root):
    picture(Path(os.fsdecode(os.fsencode(root / "ada") + b"/Jos\xe9.jpg")))
    (root / "ada" / os.fsdecode(b"m\xfcller.txt")).touch()
    message = refused(root)
    assert r"ada/Jos\udce9.jpg: its name is not UTF-8; rename it" in message and "1 unreadable" in message
    source = read_folder(root, on_bad="skip")
    assert len(ids(source)["ada"]) == 3 and len(source.rejected) == 1
    assert dict(source.concepts[0].unread) == {".jpg": 1, ".txt": 1}


def test_control_characters_of_file_names_stay_out_of_ids_and_messages(root):
    picture(root / "ada" / "x\x1b[2J\nerror: all is well.png")
    assert r"ada/x\x1b[2J\nerror: all is well.png" in ids(read_folder(root))["ada"]
    (root / "ada" / "y\x1b[2J\r.png").write_text("text")
    assert r"ada/y\x1b[2J\r.png: not a JPEG" in refused(root) and "\x1b" not in refused(root)


def test_pictures_know_whether_they_are_the_same(root):
    one, two, three = read_folder(root).concepts[0].images
    assert one.digest == two.digest != "" and three.digest != one.digest


def test_no_such_folder_a_file_and_an_empty_folder(tmp_path):
    assert "does not exist. Images lie in one folder per concept" in refused(tmp_path / "none")
    (tmp_path / "file").touch()
    assert "is a file, not a folder" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "has no concept folder" in refused(tmp_path / "empty")


def test_images_at_the_top_are_refused_with_a_hint(root):
    picture(root / "lost.png")
    assert "1 image(s) directly in it, lost.png first" in refused(root)


def test_empty_concept_folders_are_refused(root):
    (root / "cy").mkdir()
    (root / "di").mkdir()
    assert "no image in 2 concept folder(s): cy, di. Fill or delete it." in refused(root)
    (root / "cy" / "1.jxl").touch()
    assert "There are only files that are not read: .jxl (1). Fill or delete it." in refused(root)


def test_a_folder_of_splits_is_pointed_into(root):
    assert f"{root} holds folders of images: did you mean that one?" in refused(root.parent)


def test_all_bad_images_are_listed_or_skipped(root):
    (root / "ada" / "1.png").write_text("text")
    (root / "bob" / "2.png").write_bytes((root / "bob" / "2.png").read_bytes()[:40])
    message = refused(root)
    assert "2 unreadable image(s)" in message and "--skip-bad" in message
    assert "ada/1.png: not a JPEG" in message and "bob/2.png: " in message
    source = read_folder(root, on_bad="skip")
    assert [bad.path.name for bad in source.rejected] == ["1.png", "2.png"]
    assert ids(source) == {"ada": ["ada/2.png", "ada/3.JPG"], "bob": ["bob/1.png", "bob/3.JPG"]}


def test_a_concept_is_not_lost_by_skipping(root):
    for path in (root / "ada").iterdir():
        path.write_text("text")
    assert "no readable image is left of 1 concept(s): ada" in refused(root, on_bad="skip")


def test_on_bad_is_checked(root):
    assert "Did you mean 'skip'?" in refused(root, on_bad="skpi")


def test_links_may_not_leave_the_folder(root, tmp_path):
    picture(tmp_path / "secret.png")
    (root / "ada" / "4.png").symlink_to(tmp_path / "secret.png")
    assert "ada/4.png: a link that leaves the folder" in refused(root)
    assert "ada/4.png" not in ids(read_folder(root, on_bad="skip"))["ada"]


def test_a_concept_folder_may_not_be_a_link_that_leaves(root, tmp_path):
    picture(tmp_path / "other" / "1.png")
    (root / "zed").symlink_to(tmp_path / "other")
    assert "zed is a link that leaves" in refused(root)
    assert "zed is a link that leaves" in refused(root, on_bad="skip")
    (root / "zed").unlink()
    (root / "zed").symlink_to(root)
    assert "no image in 1 concept folder(s): zed" in refused(root)


def test_a_linked_root_and_links_within_are_fine(root, tmp_path):
    (root / "ada" / "4.png").symlink_to(root / "bob" / "1.png")
    (tmp_path / "link").symlink_to(root)
    assert len(ids(read_folder(tmp_path / "link"))["ada"]) == 4


@pytest.mark.parametrize("text", [b"file_name;text\nada/1.png;a\n", b"file_name\nnot/there.png\n", b"\xff\xfe\0", b"{"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_tables_that_nothing_reads_stop_nothing(root, name, text):
    (root / name).write_bytes(text)
    assert list(ids(read_folder(root))) == ["ada", "bob"]


def test_questions_for_every_image_one_image_and_none(root):
    every = QUESTION | {"kind": "identity", "image": True, "split": "train"}
    one = QUESTION | {"image": "2.png", "split": "test", "form": "classification", "options": ["Bath", "York"]}
    none = QUESTION | {"concept": "somebody else"} | TEST
    ask(root, every, "", one, none)
    source = read_folder(root)
    assert [q.image.id for q in source.questions("train")] == ["ada/1.png", "ada/2.png", "ada/3.JPG"]
    first, second = source.questions("test")
    assert (first.image.id, first.form, first.options) == ("ada/2.png", "classification", ("Bath", "York"))
    assert (second.concept, second.modality) == ("somebody else", "text")


def test_all_wrong_questions_are_one_error_with_line_numbers(root):
    good = QUESTION | TEST
    ask(
        root,
        good,
        good,
        good | {"anwser": "x"},
        {"concept": "ada", "image": False},
        good | {"concept": "adda", "image": True},
        good | {"image": "1.jpg"},
        good | {"image": 1},
        good | {"split": "tset"},
        good | {"kind": "facts"},
        good | {"form": "cloze", "options": "Bath"},
        good | {"form": "classification", "options": ["York"]},
        good | {"answer": ""},
        "{not json",
    )
    assert "1 error(s)" in (broken := refused(root)) and "line 13: Expecting property name" in broken
    ask(root, *(root / "questions.jsonl").read_text().splitlines()[:-1])
    lines = refused(root).splitlines()
    assert "11 error(s)" in lines[0]
    expected = ["same question as line 1", "Did you mean 'answer'", "no kind, topic, prompt, answer, split", "'ada'"]
    expected += ["no image '1.jpg'. Did you mean '1.png'", "'image' is 1", "'test'", "'fact'", "list of texts"]
    expected += ["not one of its options", "'answer' is ''"]
    for number, (line, says) in enumerate(zip(lines[1:], expected, strict=True), start=2):
        assert f"line {number}: " in line and says in line


def test_a_question_about_a_skipped_image_is_listed_not_lost(root):
    (root / "ada" / "1.png").write_text("text")
    ask(root, QUESTION | {"image": "1.png", "split": "test"}, QUESTION | {"image": True, "split": "test"})
    source = read_folder(root, on_bad="skip")
    assert [q.image.id for q in source.questions("test")] == ["ada/2.png", "ada/3.JPG"]
    assert source.rejected[1].reason == "line 1: its image 1.png was rejected"


def test_many_errors_are_cut_short(root):
    ask(root, *["[]"] * 50)
    assert "has 50 error(s)" in refused(root) and "… and 30 more" in refused(root)


@pytest.mark.parametrize(
    "line",
    [
        *("[" * 200_000, '{"concept":' + "[" * 900 + "]" * 900 + "}", '{"' + "k" * 2_000_000 + '": 1}', "\0" * 1000),
        *(json.dumps(QUESTION | TEST | {"split": "y" * 200_000}), json.dumps(QUESTION | TEST | {"concept": "\ud800"})),
        *('{"concept": NaN}', '{"concept": ' + "9" * 6000 + "}", json.dumps(QUESTION | TEST | {"kind": "\x1b[2J"})),
    ],
    ids=["open", "deep", "key", "nul", "word", "half a character", "nan", "digits", "escape"],
)
def test_lines_that_ask_for_much_are_refused_in_one_short_line(root, line):
    ask(root, line)
    message = refused(root)
    assert "1 error(s)" in message and "line 1: " in message
    assert len(message) < 1500 and message.replace("\n", "").isprintable()


def test_questions_that_are_no_file_are_refused(root):
    os.mkfifo(root / "questions.jsonl")
    assert "not a regular file" in refused(root)


def test_an_unknown_split_is_refused(root):
    with pytest.raises(UnseeError, match="Did you mean 'train'"):
        read_folder(root).questions("trian")
