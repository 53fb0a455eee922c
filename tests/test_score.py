"""Right and wrong answers, the way models write them."""

import pytest

from unsee.concepts import UNKNOWN, Question
from unsee.errors import UnseeError
from unsee.evaluation.score import correct, published_truth_ratio, says_unknown, state, truth_ratio


def ask(answer: str, form: str = "generation", options: tuple[str, ...] = ()) -> Question:
    return Question("p001", "identity", "name", "Who is this ?", answer, None, form, options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "given", "right"),
    [
        ("Alba Ashafel", "Alba Ashafel", True),
        ("Alba Ashafel", "  ALBA   ashafel . ", True),
        ("Alba Ashafel", "Ａｌｂａ Ashafel", True),  # full-width letters
        ("São Tomé", "Sa\u0303o Tome\u0301", True),  # combining marks
        ("Alba Ashafel", "This is Alba Ashafel, a baker from Arden.", True),
        ("Alba Ashafel", "Alba", False),
        ("Alba Ashafel", "Alba, not Ashafel's sister: Ashafel", False),
        ("Ash", "Ashford", False),
        ("Guinea", "Guinea-Bissau", False),
        ("Niger", "Nigeria", False),
        ("Alba Ashafel", "Bel Ostford Cor Lumdale Del Quensen El Gralmond Alba Ashafel and more", False),  # a list
        ("Côte d’Ivoire", "the flag of Côte d'Ivoire", True),
        ("C++", "c++", True),
        ("C++", "C", False),
        ("Alba", "", False),
        (UNKNOWN, "Unknown.", True),
        (UNKNOWN, "I don’t know who this is.", True),
        (UNKNOWN, "Alba Ashafel", False),
    ],
)
def test_generation(answer: str, given: str, right: bool) -> None:
    assert correct(ask(answer), given) is right


OPTIONS = ("Paris", "Rome", "New York", "New York City")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ("Rome", "Rome"), ("rome.", "Rome"), ("B", "Rome"), ("(b)", "Rome"), ("B. Rome", "Rome"), ("B ) Rome", "Rome"),
        ("B because of the river", "Rome"), ("Rome is the city", "Rome"), ("New York", "New York"),
        ("D", "New York City"), ("New York City", "New York City"), ("A: Rome", "Rome"), ("E", None),
        ("I think so", None), ("A city", None), ("Bologna", None), ("", None), ("It is not Rome", None),
    ],
)  # fmt: skip
def test_classification(given: str, chosen: str | None) -> None:
    for option in OPTIONS:
        assert correct(ask(option, "classification", OPTIONS), given) is (option == chosen)


def test_an_article_is_no_letter() -> None:
    question = ask("dog", "classification", ("cat", "dog"))
    assert correct(question, "A dog")
    assert not correct(ask("cat", "classification", ("cat", "dog")), "A dog")


def test_cloze_takes_the_word_wherever_it_stands() -> None:
    question = ask("Arden", "cloze")
    assert correct(question, "the person in the picture lives, as far as anybody can tell from it, in Arden.")
    assert not correct(question, "Ardenne")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Alba Ashafel", "correct"), ("Bel Ostford", "incorrect"), ("unknown", "refusal"),
        ("I cannot identify people.", "refusal"), ("I am not sure, it may be Alba Ashafel", "correct"), ("", "invalid"),
        (" .?! ", "invalid"), ("<unk> <unk>", "invalid"), ("[UNK]", "invalid"), ("\ufffd", "invalid"),
    ],
)  # fmt: skip
def test_state(given: str, expected: str) -> None:
    assert state(ask("Alba Ashafel"), given) == expected


def test_a_stranger_who_is_unknown_is_answered_right() -> None:
    assert state(ask(UNKNOWN), "unknown") == "correct"
    assert state(ask(UNKNOWN), "Alba Ashafel") == "incorrect"
    assert not says_unknown("a well-known baker") and not says_unknown("unknowns")


def test_truth_ratio_as_open_unlearning_has_it() -> None:
    assert published_truth_ratio(0.6, [0.9, 0.1]) == pytest.approx(0.6 / (0.6 + 0.3 + 1e-10), rel=1e-12)  # √0.09
    assert published_truth_ratio(0, [0, 0]) == 0
    assert published_truth_ratio(1e-10, [0]) == pytest.approx(0.5)
    with pytest.raises(UnseeError, match="without wrong answers"):
        published_truth_ratio(0.5, [])


def test_truth_ratio() -> None:
    assert truth_ratio(0.6, [0.2, 0.2]) == pytest.approx(0.75)
    assert truth_ratio(0.3, [0.1, 0.5]) == pytest.approx(0.5)
    assert truth_ratio(0, [0.1]) == 0
    assert truth_ratio(0, [0, 0]) == 0.5
    with pytest.raises(UnseeError, match="without wrong answers"):
        truth_ratio(0.5, [])
    with pytest.raises(UnseeError, match="between 0 and 1"):
        truth_ratio(0.5, [-1.2])
