"""Errors say what was given, what is allowed and what is near."""

import pytest

from unsee.concepts import Concept, Question, Request
from unsee.data.images import BadImage
from unsee.errors import UnseeError, nearest


def test_nearest_names_the_close_word_first():
    assert nearest("sotf", ["soft", "hard"]) == "Did you mean 'soft'? Allowed: hard, soft."


def test_nearest_offers_nothing_when_nothing_is_close():
    assert nearest("zzz", ["soft", "hard"]) == "Allowed: hard, soft."


def test_bad_image_is_an_unsee_error():
    error = BadImage(None, "broken")
    assert isinstance(error, UnseeError)
    assert str(error) == "image bytes: broken"


@pytest.mark.parametrize(
    ("kind", "form", "says"), [("identitty", "generation", "Did you mean 'identity'"), ("fact", "close", "'cloze'")]
)
def test_a_question_refuses_unknown_words(kind, form, says):
    with pytest.raises(UnseeError, match=says):
        Question("ada", kind, "name", "Who is this ?", "Ada", form=form)


def test_a_classification_question_needs_its_answer_among_the_options():
    with pytest.raises(UnseeError, match="not one of its options"):
        Question("ada", "fact", "city", "Where ?", "Bath", form="classification", options=("York", "Leeds"))


def test_a_request_needs_something_to_forget():
    with pytest.raises(UnseeError, match="no concept to forget"):
        Request(forget=[])


def test_a_request_cannot_forget_and_keep_the_same():
    with pytest.raises(UnseeError, match="both forget and retain: ada"):
        Request(forget=[Concept("ada", ())], retain=[Concept("ada", ())])
