"""A table and a recipe become questions; the phrasing of the test is never trained on."""

import random
import shutil
from pathlib import Path

import pytest
from PIL import Image

from unsee.concepts import UNKNOWN
from unsee.data.facts import fact_questions, load_recipe, questions_from_table, text_questions
from unsee.data.folder import read_folder
from unsee.data.questions import write_questions
from unsee.data.study import FolderStudy
from unsee.errors import UnseeError

FLAGS = Path(__file__).parents[1] / "recipes" / "flags.yaml"
RECIPE = """
id: id
topics:
  name: {kind: identity, column: name, image: ["Who is this ?", "Name this one .", "This is who ?"]}
  city:
    kind: fact
    column: city
    image: ["Where does this one live ?", "Name the city of this one .", "Where is this one ?"]
    text: ["Where does {name} live ?", "Name the city of {name} .", "Where is {name} ?"]
"""
TABLE = "id,name,city\nada,Ada,Bath\nbob,Bob,\ncy,Cy,York\n"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return load_recipe(tmp_path / "recipe.yaml")


@pytest.fixture
def source(tmp_path):
    for name in ("ada/1.png", "ada/2.png", "bob/1.png"):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "faces" / name)
    return read_folder(tmp_path / "faces")


@pytest.fixture
def table(tmp_path):
    (tmp_path / "facts.csv").write_text(TABLE)
    return tmp_path / "facts.csv"


def test_each_topic_is_asked_about_each_image_and_once_as_text(recipe, source, table):
    questions = questions_from_table(table, recipe, source.concepts, "test")
    assert [(q.concept, q.topic, q.answer, q.image and q.image.id) for q in questions] == [
        ("ada", "name", "Ada", "ada/1.png"),
        ("ada", "city", "Bath", "ada/1.png"),
        ("ada", "name", "Ada", "ada/2.png"),
        ("ada", "city", "Bath", "ada/2.png"),
        ("ada", "city", "Bath", None),
        ("bob", "name", "Bob", "bob/1.png"),  # Bob's city is empty in the table: it is not asked
    ]
    assert [q.kind for q in questions[:2]] == ["identity", "fact"]
    assert questions[4].prompt == "Where is Ada ?"


def test_training_never_uses_the_last_phrasing(recipe, source):
    row = {"id": "ada", "name": "Ada", "city": "Bath"}
    rng = random.Random(0)
    drawn = [q.prompt for _ in range(50) for q in fact_questions(recipe, row, source.concepts[0], "train", rng)]
    drawn += [q.prompt for _ in range(50) for q in text_questions(recipe, row, "ada", "train", rng)]
    assert set(drawn) == {
        *("Who is this ?", "Name this one .", "Where does this one live ?"),
        *("Name the city of this one .", "Where does Ada live ?", "Name the city of Ada ."),
    }


def test_without_a_generator_the_draw_is_the_same_each_time(recipe, source, table):
    assert questions_from_table(table, recipe, source.concepts, "train") == questions_from_table(
        table, recipe, source.concepts, "train"
    )


def test_without_a_table_every_answer_is_unknown_and_no_text_is_asked(recipe, source):
    questions = questions_from_table(None, recipe, source.concepts, "train")
    assert len(questions) == 6
    assert {q.answer for q in questions} == {UNKNOWN}
    assert {q.modality for q in questions} == {"image"}


def test_written_questions_are_read_back_the_same(recipe, source, table):
    train, test = (questions_from_table(table, recipe, source.concepts, split) for split in ("train", "test"))
    write_questions(source.root / "questions.jsonl", {"train": train, "test": test})
    again = read_folder(source.root)
    assert again.questions("train") == tuple(train)
    assert again.questions("test") == tuple(test)
    assert [path.name for path in source.root.iterdir() if "tmp" in path.name] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,name\nada,Ada\n", "no column 'city'"),
        (TABLE.replace("bob", "ada"), "line 3: 'ada' has a row already"),
        (TABLE.replace("bob", "rob"), "no row for concept 'bob'"),
        ("id,name,city\n", "has no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(recipe, source, table, text, says):
    table.write_text(text)
    with pytest.raises(UnseeError, match=says):
        questions_from_table(table, recipe, source.concepts, "train")


def test_values_are_filled_in_as_they_are(recipe, source, table):
    table.write_text(TABLE.replace("Ada", "{city} {0} \\1"))
    assert questions_from_table(table, recipe, source.concepts, "test")[4].prompt == "Where is {city} {0} \\1 ?"


def test_all_errors_of_a_recipe_are_told_at_once(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("""
idd: id
topics:
  name: {kind: identiy, colum: name, image: ["Who is this ?"]}
  city: {kind: fact, column: city, image: ["Where is {name} ?", "Where does {name} live ?"], text: "Where ?"}
  job: {kind: fact, column: job}
""")
    with pytest.raises(UnseeError) as error:
        load_recipe(path)
    for says in (
        "idd: unknown key. Did you mean 'id'?",
        "id: the name of the column",
        "topics.name.colum: unknown key. Did you mean 'column'?",
        "topics.name.kind: 'identiy'. Did you mean 'identity'?",
        "topics.name.image: at least 2 different phrasings",
        "topics.city.image: '{name}' cannot stand in an image phrasing",
        "topics.city.text: a list of sentences is needed",
        "topics.job: no phrasings",
    ):
        assert says in str(error.value)


@pytest.mark.parametrize("text", ["", "- 1", "id: id\ntopics: []", "id: id\ntopics: {1: 2}", "{", "id: id"])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UnseeError):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("text", ["a: &a [1]\nb: *a", "[" * 5000, "a: !!python/object/apply:os.system [ls]", "\x01"])
def test_a_recipe_runs_nothing_and_is_plain(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UnseeError, match="is not YAML"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_table_with_other_signs_than_commas_is_called_so_once(recipe, source, table, sign):
    table.write_text(TABLE.replace(",", sign))
    with pytest.raises(UnseeError, match="the cells are not parted by commas") as error:
        questions_from_table(table, recipe, source.concepts, "train")
    assert "\n" not in str(error.value)


def test_a_study_is_refused_where_its_tables_do_not_fit(recipe, source, table, tmp_path):
    for part in ("train", "test", "neutral"):
        shutil.copytree(source.root, tmp_path / "study" / part)
    shutil.rmtree(tmp_path / "study" / "test" / "bob")
    study = FolderStudy(tmp_path / "study", table, tmp_path / "recipe.yaml", held_out=0)
    with pytest.raises(UnseeError, match="no images of 1 concept"):
        study.questions(["ada", "bob"], 2)
    table.write_text(TABLE.replace("id,", "name_of,"))
    with pytest.raises(UnseeError, match="no column 'id'"):
        FolderStudy(tmp_path / "study", table, tmp_path / "recipe.yaml")


def test_near_twins_share_columns_and_an_empty_cell_is_like_no_other(recipe, source, table, tmp_path):
    for part in ("train", "test", "neutral"):
        shutil.copytree(source.root, tmp_path / "study" / part)
        Image.new("RGB", (8, 8)).save(tmp_path / "study" / part / "ada" / "3.png")
    table.write_text("id,name,city,sign\nada,Ada,Bath,\nbob,Bob,Bath,\n")
    city, both, none = (
        FolderStudy(tmp_path / "study", table, tmp_path / "recipe.yaml", held_out=0, alike=alike)
        for alike in (["city"], ["city", "sign"], [])
    )
    assert city.twins(["ada"]) == {"bob"}
    assert both.twins(["ada"]) == none.twins(["ada"]) == city.twins(["ada", "bob"]) == set()


@pytest.mark.parametrize("form", ["image", "text"])
def test_the_flags_recipe_tests_with_the_words_it_trains_with(form):
    for name, topic in load_recipe(FLAGS).topics.items():
        phrasings = getattr(topic, form)
        if name == "name" and form == "text":
            assert phrasings == ()
            continue
        assert len(phrasings) >= 5
        assert set(phrasings[-1].split()) <= {word for text in phrasings[:-1] for word in text.split()}
