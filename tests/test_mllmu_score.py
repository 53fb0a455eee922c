"""MLLMU-Bench's rules, on answers written and scored by hand."""

import pytest

from unsee.evaluation.mllmu_score import cloze_right, letter, letter_right, reply

WHOLE = [
    # what was read and written, what is scored of a classification, what of the other two
    ("USER: <image>\nWho?\nASSISTANT: B", "B", "B"),
    ("USER:\nWho?\nASSISTANT:B", "B", "B"),
    ("USER:\nWho?\nASSISTANT:  Alba  \n", "Alba", "Alba"),
    ("USER: a ASSISTANT: b USER: c ASSISTANT: d", "b USER: c", "b USER: c"),
    ("ASSISTANT: A ASSISTANT: B", "A", "A"),
    ("ASSISTANT:", "", ""),
    ("ASSISTANT:   \n\t", "", ""),
    ("assistant: B", "assistant: B", "assistant: B"),
    ("B", "B", "B"),
    ("  B. Paris ", "B. Paris", "B. Paris"),
    ("", "", ""),
    ("Answer: C", "Answer: C", "C"),
    ("The Answer: C or Answer: D", "The Answer: C or Answer: D", "C or"),
    ("Correct Answer: A\nASSISTANT: B", "B", "B"),
    ("ASSISTANT: Answer: C", "Answer: C", "Answer: C"),
    ("答え Answer: 東京", "答え Answer: 東京", "東京"),
]


@pytest.mark.parametrize(("text", "choice", "words"), WHOLE)
def test_what_is_scored_stands_after_the_first_mark(text: str, choice: str, words: str) -> None:
    assert reply(text, "classification") == choice
    assert reply(text, "cloze") == reply(text, "generation") == words


LETTERS = [
    ("A", "A"), ("b", "B"), ("C.", "C"), ("D: Rome", "D"), ("B) Rome", "B"), ("B because", "B"), ("A dog", "A"),
    ("Because of it", "B"), ("Answer: C", "A"), ("answer: C", "A"), ("Correct Answer: D", "C"), ("did not see", "D"),
    ("(b)", ""), ("[C]", ""), ("*A*", ""), ('"A"', ""), ("'A'", ""), ("\nA", ""), (" A", ""), ("1", ""),
    ("E", ""), ("Rome", ""), ("The answer is B", ""), ("Option B", ""), ("US US US", ""), ("", ""),
    ("   ", ""), (".", ""),
    ("Ａ", ""), ("А", ""), ("Β", ""), ("é", ""), ("ß", ""), ("東京", ""), ("ABCD", "A"), ("A, B or C", "A"),
    ("B\nA", "B"),
    ("d", "D"), ("\u200bA", ""),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), LETTERS)
def test_letter(given: str, expected: str) -> None:
    assert letter(given) == expected
    for truth in "ABCD":
        assert letter_right(truth, given) is (truth == expected)


def test_more_and_fewer_options() -> None:
    assert letter("E. Oslo", options=5) == "E"
    assert letter("C", options=2) == ""
    assert letter("ﬆ", options=26) == ""  # one sign whose capital is two: S and T


def test_a_question_without_a_right_letter_is_never_right() -> None:
    assert not letter_right("", "")


CLOZE = [
    ("Paris", "Paris", True), ("Paris", "paris", True), ("PARIS", "I think it is Paris.", True),
    ("Paris", "Par is", False),
    ("art", "He parted", True), ("Rome", "Jerome lives there", True), ("1990", "born in 1990-05-01", True),
    ("1990", "born in 90", False), ("New York", "New  York", False), ("New York", "new york city", True),
    ("New York City", "New York", False), ("doctor", "a doctorate", True), ("a doctor", "doctor", False),
    ("São Paulo", "são paulo", True), ("São Paulo", "Sao Paulo", False), ("É", "é", True),
    ("ΑΘΗΝΑ", "στην αθηνα", True),
    ("東京", "東京です", True), ("東京", "京都", False), ("Москва", "москва", True), ("Straße", "STRASSE", False),
    ("İstanbul", "istanbul", False), ("O'Neil", "o'neil", True), ("O'Neil", "o’neil", False),
    ("3.5", "3.5 metres", True),
    ("Paris", "", False), ("Paris", "   ", False), ("Paris", "not Paris", True), ("Paris", "London, Paris, Rome", True),
    ("Paris.", "Paris", False), ("Paris", "Paris.", True), ("piano", "<s>piano</s>", True), ("__", "a __ b", True),
    ("", "anything", True), ("مرحبا", "قال مرحبا", True),
]  # fmt: skip


@pytest.mark.parametrize(("truth", "given", "right"), CLOZE)
def test_cloze(truth: str, given: str, right: bool) -> None:
    assert cloze_right(truth, given) is right
