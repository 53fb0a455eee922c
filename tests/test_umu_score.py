"""UMU-Bench's rules, on answers written and scored by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.evaluation.umu_score import (
    before_stop,
    cloze_right,
    forgotten,
    forgotten_overlap,
    nearest,
    option_right,
    retained,
    retained_overlap,
)

CITIES = ("Paris", "Rome", "New York", "Oslo")
NEAREST = [
    ("Paris", "Paris"), ("Rome.", "Rome"), ("paris", "Paris"), ("The answer is New York", "New York"), ("Oslo", "Oslo"),
    ("York", "New York"), ("Lima", "Rome"), ("Cairo", "Paris"), ("os", "Rome"), ("Romeo", "Rome"), ("rom", "Rome"),
    ("", "Paris"), ("   ", "New York"), ("東京", "Paris"), ("B", "Paris"), ("New", "New York"), ("Pa ris", "Paris"),
    ("ROME", "Rome"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), NEAREST)
def test_nearest_option(given: str, expected: str) -> None:
    assert nearest(given, CITIES) == expected


@pytest.mark.parametrize(
    ("truth", "given", "right"),
    [
        ("Paris", "Paris", True), ("Paris", "paris", False), ("Paris", "Paris.", False), ("Paris", "'Paris'", False),
        ("Paris", "A", False), ("Paris", "(A) Paris", False), ("Paris", "answer: Paris", False), ("Paris", "", False),
        ("Paris", " ", False), ("São Paulo", "São Paulo", True), ("São Paulo", "Sa\u0303o Paulo", False),
        ("東京", "東京", True), ("Paris", "Paris Rome", False), ("Paris", "Rome", False),
    ],
)  # fmt: skip
def test_option(truth: str, given: str, right: bool) -> None:
    assert option_right(truth, given) is right


@pytest.mark.parametrize(
    ("truth", "given", "right"),
    [
        ("Paris.", "Paris", True), ("Paris. In France.", "paris", True), ("Dr. Ash", "drum", True),
        ("Dr. Ash", "Ash", False), ("3.5", "13", True), (".5", "anything", True), ("Paris", "Par. is", False),
        ("Paris", "", False), ("東京。", "東京", False), ("東京.", "東京です", True), ("São Paulo.", "são paulo", True),
        ("Paris", "(Paris)", True), ("a baker.", "A BAKER", True), ("No. 5", "nothing", True),
    ],
)  # fmt: skip
def test_cloze_counts_up_to_the_first_stop(truth: str, given: str, right: bool) -> None:
    assert cloze_right(truth, given) is right


def test_before_stop() -> None:
    assert [before_stop(t) for t in ("A. B. C", "A", "", ".A", "3.5", "A。B")] == ["A", "A", "", "", "3", "A。B"]


@pytest.mark.parametrize(
    ("image", "text", "kept", "gone"),
    [(True, True, True, False), (True, False, False, False), (False, True, False, False), (False, False, False, True)],
)
def test_both_modalities_count(image: bool, text: bool, kept: bool, gone: bool) -> None:
    assert retained(image, text) is kept
    assert forgotten(image, text) is gone


@pytest.mark.parametrize(
    ("image", "text", "kept", "left"),
    [
        (1, 1, 1, 1), (0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 0, 1), (0.5, 0.5, 0.5, 0.5), (0.25, 0.75, 0.375, 0.625),
        (0.2, 0.8, 0.32, 0.68), (0.6, 0.3, 0.4, 0.5), (1, 0.5, 2 / 3, 5 / 6), (0.1, 0, 0, 0.1), (1, 1 / 3, 0.5, 5 / 6),
    ],
)  # fmt: skip
def test_overlaps_of_a_pair(image: float, text: float, kept: float, left: float) -> None:
    assert retained_overlap(image, text) == pytest.approx(kept)
    assert forgotten_overlap(image, text) == pytest.approx(left)


@given(st.floats(0, 1), st.floats(0, 1))
def test_overlaps_are_symmetric_and_lie_between_the_two(a: float, b: float) -> None:
    kept, left = retained_overlap(a, b), forgotten_overlap(a, b)
    assert kept == retained_overlap(b, a) and left == forgotten_overlap(b, a)
    slack = 1e-12
    assert kept <= left + slack <= max(a, b) + 2 * slack
    assert a + b < 1e-300 or kept + left == pytest.approx(a + b)
