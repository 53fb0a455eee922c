"""A folder is read completely and in order, or refused with the whole list of what is wrong."""

import json

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
    assert [path.name for path in source.ignored] == ["._1.png", "notes.txt"]


def test_names_may_be_unicode_but_not_control_characters(root):
    picture(root / "Zoë Straße" / "été.png")
    assert "Zoë Straße" in ids(read_folder(root))
    picture(root / "a\nb" / "1.png")
    assert r"'a\nb' has control characters" in refused(root)


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


def test_a_folder_of_splits_is_pointed_into(root):
    assert f"{root} holds folders: did you mean that one?" in refused(root.parent)


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


def test_a_linked_root_and_links_within_are_fine(root, tmp_path):
    (root / "ada" / "4.png").symlink_to(root / "bob" / "1.png")
    (tmp_path / "link").symlink_to(root)
    assert len(ids(read_folder(tmp_path / "link"))["ada"]) == 4


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_is_kept_by_file_name(root, name):
    csv = "\ufefffile_name,hair\nada/1.png,red\n./bob/2.png,\n"
    jsonl = '{"file_name": "ada/1.png", "hair": "red"}\n\n{"file_name": "./bob/2.png", "hair": ""}'
    (root / name).write_text(csv if name.endswith("csv") else jsonl, encoding="utf-8")
    assert read_folder(root).metadata == {"ada/1.png": {"hair": "red"}, "bob/2.png": {"hair": ""}}


def test_metadata_paths_must_be_files_of_the_folder_all_errors_at_once(root, tmp_path):
    picture(tmp_path / "x.png")
    names = ["../x.png", str(tmp_path / "x.png"), "ada/9.png", "ada/1.png", "ada/1.png", "ada", "bob/../../x.png"]
    (root / "metadata.csv").write_text("file_name\n" + "\n".join(names))
    message = refused(root)
    assert "6 error(s)" in message
    assert "line 2: ../x.png leaves the folder" in message
    assert "line 4: ada/9.png is not there" in message
    assert "line 6: ada/1.png is listed twice" in message
    assert "line 8: bob/../../x.png leaves the folder" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("filename\nada/1.png", "no column 'file_name'. The columns are: filename"),
        ("file_name,hair\nada/1.png", "line 2: 1 cells, the header has 2"),
        ("file_name,a,a\nada/1.png,1,2", "a column stands twice"),
        ('file_name\n"ada/1.png', "unexpected end"),
        (b"file_name\n\xff\xfe", "not UTF-8"),
    ],
)
def test_broken_metadata_is_refused(root, text, says):
    (root / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert says in refused(root)


def test_two_metadata_files_are_refused(root):
    for name in ("metadata.csv", "metadata.jsonl"):
        (root / name).touch()
    assert "Keep one of them" in refused(root)


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


def test_an_unknown_split_is_refused(root):
    with pytest.raises(UnseeError, match="Did you mean 'train'"):
        read_folder(root).questions("trian")
