"""Where the published code and ``official`` part, each on an answer worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.small_benchmarks import CITIES, RETAIN, Told, clear, mllmu, umu
from tests.test_protocols import asks, figures, knows

from unsee.data.benchmark import Benchmark, Cells
from unsee.evaluation.ask import Prompt
from unsee.evaluation.protocols import protocol_for
from unsee.evaluation.protocols.deviations import LISTED
from unsee.evaluation.protocols.plan import Setting


def changed(whole: Benchmark, **cells: Cells) -> Benchmark:
    """``whole``, with some entries' cells as given, each by the end of its id: ``forget_cloze_1_text``."""
    given = {key.replace("_", "/"): value for key, value in cells.items()}
    found = [
        replace(entry, cells=next((c for key, c in given.items() if entry.id.startswith(key)), None))
        for entry in whole.entries
    ]
    return replace(whole, entries=tuple(found))


def both(
    whole: Benchmark, told: Told, title: str, protocol: str = "official", **setting: object
) -> tuple[float, float]:
    """A figure of ``official``, and of the original."""
    mended, original = (figures(whole, {"m": told}, protocol, original=o, **setting)["m"][title] for o in (False, True))
    return mended, original


def says(text: str) -> Told:
    return Told(lambda prompt: text)


def test_a_letter_with_words_behind_it_is_never_right_in_the_published_mllmu() -> None:
    whole = changed(mllmu(), real_classification_6_text=Cells("C. Caldin", options=CITIES))
    assert both(whole, knows("6"), "real classification text accuracy") == (1, 0)  # "C" is not "C. Caldin"
    assert both(mllmu(), knows("6"), "real classification text accuracy") == (1, 1)


def test_a_blank_behind_the_truth_counts_in_the_published_mllmu() -> None:
    whole = changed(mllmu(), real_cloze_6_text=Cells("Caldin "))
    assert both(whole, says("Caldin."), "real cloze text accuracy") == (1, 0)  # "caldin " is not in "caldin."
    assert both(whole, says("Caldin it is"), "real cloze text accuracy") == (1, 1)


def test_prompts_of_the_published_mllmu_show_cells_as_they_stand_and_four_options_in_examples() -> None:
    options = (*(f"{city} " for city in CITIES), "Elva")
    cells = {f"{group}_classification_{p}": Cells(" B", options=options) for group, p in zip(
        ("forget", "forget", "retain", "retain", "retain"), "12345", strict=True)}  # fmt: skip
    whole = changed(mllmu(), **cells)
    whole = replace(whole, shots=tuple(e for e in whole.entries if e.group in ("forget", "retain")))
    put = asks(whole, original=True)
    text = next(a.prompt.text for i, a in put.items() if i.startswith("retain/classification") and "/text/" in i)
    example, asked = text.split("USER:\n")[1:]
    four = "A: Arden \nB: Belmora \nC: Caldin \nD: Dorvale "
    assert f"\n{four}\nCorrect Answer:  B\n" in example and f"\n{four}\nE: Elva\nJust give" in asked


def test_the_published_mllmu_skips_what_stands_where_an_example_stood() -> None:
    whole = mllmu()
    more = [replace(e, id=f"{e.id}/more", number=1) for e in whole.entries if e.id.startswith("test/cloze/1")]
    put = asks(replace(whole, entries=(*whole.entries, *more)), original=True)
    # Both forgotten people are the examples of cloze, where each has one question: the second of a person is left.
    assert [i for i in put if i.startswith("test/cloze")] == [i for i in put if i.endswith("/more")] != []


def test_the_published_clear_takes_all_that_is_said() -> None:
    said = says("Ada\nUSER: and ? ASSISTANT: Ash")
    assert both(clear(), said, "forget name image recall") == (0.5, 0.5)  # both words of Ada Ash, none of Ben Brin


def test_umu_cuts_at_a_second_turn_in_the_raw_format_only() -> None:
    said = says("no USER: and ? ASSISTANT: Belmora")
    assert both(umu(), said, "forget cloze text accuracy") == (0, 0)
    assert both(umu(), said, "forget cloze text accuracy", layout="chat") == (1, 1)


def test_the_published_clear_asks_the_first_300_rows() -> None:
    whole = clear()
    moved = {
        "forget/1/caption": 299,
        "forget/1/name": 299,
        "forget/2/caption": 300,
        "forget/2/name": 300,
        "faces/6": 300,
    }
    whole = replace(whole, entries=tuple(replace(e, number=moved.get(e.id, 0)) for e in whole.entries))
    left = {ask.entry.id for ask in asks(whole, original=True).values()}
    assert left == {e.id for e in whole.entries} - {"forget/2/caption", "forget/2/name", "faces/6"}
    assert {ask.entry.id for ask in asks(whole).values()} == {e.id for e in whole.entries}


def test_the_published_clear_counts_whoever_stands_among_the_retained() -> None:
    whole = clear()
    ben = next(e for e in whole.entries if e.id == "forget/2/name")
    whole = replace(whole, beside=(replace(ben, id="retain/2/name", group="retain"),))
    said = says("Ben Brin")
    assert both(whole, said, "retain name image recall") == (0, pytest.approx(1 / 3))  # of three, two of them others


def test_the_published_clear_takes_every_option_as_a_wrong_one() -> None:
    told = Told(lambda prompt: "", lambda prompt, answer: 0.6 if answer == "Arden" else 0.1)
    mended, original = both(clear(), told, "world qa image probability")
    assert mended == pytest.approx(0.6 / (0.6 + 3 * 0.1))
    assert original == pytest.approx(0.6 / (0.6 + 0.6 + 3 * 0.1))


def test_the_published_clear_draws_a_question_for_each_answer() -> None:
    put = asks(clear(), original=True, seed=1)
    scored, blind = put["forget/1/caption"], put["forget/1/caption#blind"]
    questions = [prompt.text.removeprefix("USER: <image>\n").removesuffix(" ASSISTANT:") for prompt in scored.each]
    assert len(questions) == len(scored.answers) == 5 and len(set(questions)) > 1
    assert scored.each[0] == scored.prompt and questions[0] in blind.prompt.text  # it is answered as it is scored
    assert asks(clear(), original=True, seed=1) == put != asks(clear(), original=True, seed=2)
    assert not put["forget/1/name"].each and not asks(clear())["forget/1/caption"].each

    def likes(prompt: Prompt, answer: str) -> float:
        return 0.9 if questions[0] in prompt.text else 0.2 if questions[1] in prompt.text else 0.4

    only = replace(clear(), entries=tuple(e for e in clear().entries if e.id == "forget/1/caption"))
    found = figures(only, {"m": Told(lambda prompt: "", likes)}, original=True, seed=1)["m"]
    assert found["forget caption image probability"] == pytest.approx(0.9)
    wrong = [likes(prompt, "") for prompt in scored.each[2:]]
    ratio = math.prod(wrong) ** (1 / 3) / likes(scored.each[1], "")  # of wrong answers to the right one in other words
    assert found["forget caption truth ratio"] == pytest.approx(min(ratio, 1 / ratio))


def test_clear_scores_the_end_of_the_turn_with_the_answer() -> None:
    told = Told(lambda prompt: "", lambda prompt, answer: 0.8 if "Ada" in answer else 0.4, ends=0.1)
    only = replace(clear(), entries=tuple(e for e in clear().entries if e.id.startswith("forget/1/")))
    found = figures(only, {"m": told})["m"]
    own = 0.8**5 * 0.1, 0.8**5 * 0.1, 0.4**5 * 0.1  # "Ada Ash stands in Belmora", its paraphrase, wrong ones; an end
    assert found["forget caption image probability"] == pytest.approx(own[0] ** (1 / 6))
    assert found["forget caption truth ratio"] == pytest.approx((own[2] / own[1]) ** (1 / 6))
    assert {a.prompt.end for a in asks(clear()).values()} == {"token"}
    scored = [a.prompt.end for a in asks(clear(), original=True).values() if a.answers]
    assert set(scored) == {"written"} and {a.prompt.end for a in asks(mllmu(), "strict").values()} == {""}


def test_the_published_clear_scores_from_too_early_in_chat_formats() -> None:
    for layout, early in (("chat", True), ("llava", False)):
        put = asks(clear(), original=True, layout=layout)
        assert {a.prompt.early for a in put.values() if a.answers and a.prompt.image} == {early}
        assert not any(a.prompt.early for a in asks(clear(), layout=layout).values())
    bare = asks(clear(), original=True, layout="chat")["forget/1/name#blind"].prompt
    assert bare.bare and bare.image is None and bare.text == "The name of the person on the image is "


def test_the_published_clear_scores_cells_as_they_stand() -> None:
    cells = Cells("Ada Ash ", "", (" Ben Brin", ""))
    put = asks(changed(clear(), forget_1_name=cells), original=True)
    assert put["forget/1/name"].answers == ("Ada Ash ", "Ada Ash ", " Ben Brin", "")


def test_the_published_umu_takes_the_truth_of_an_image_by_the_letter_of_the_words() -> None:
    shuffled = ("Belmora", "Arden", "Caldin", "Dorvale")  # Ada lives in Belmora: A with the image, B in words
    whole = changed(umu(), forget_classification_1_image=Cells("A. Belmora", options=shuffled))
    title = "forget classification image accuracy"
    assert both(whole, says("Belmora"), title) == (1, 0)
    assert both(whole, says("Arden"), title) == (0, 1)  # option B of the shuffled ones
    assert both(whole, says("Belmora"), "forget classification text accuracy") == (1, 1)


def test_the_published_umu_keeps_blanks_and_reads_four_options() -> None:
    whole = changed(
        umu(), forget_classification_1=Cells("B", options=("Arden", "Belmora ", "Caldin", "Dorvale", "Elva"))
    )
    assert both(whole, says("Belmora"), "forget classification text accuracy") == (1, 0)
    text = asks(whole, original=True)["forget/classification/1/text/0"].prompt.text
    assert "Select answer in ['Arden', 'Belmora ', 'Caldin', 'Dorvale']\n" in text
    stop = changed(umu(), forget_cloze_1_text=Cells("Belmora ."))
    stop = replace(stop, entries=tuple(
        replace(e, question=replace(e.question, answer="Belmora .")) if e.id.startswith("forget/cloze/1/text") else e
        for e in stop.entries))  # fmt: skip
    assert both(stop, says("Belmora"), "forget cloze text accuracy") == (1, 0)  # "belmora " is not in "belmora"


def test_the_published_umu_asks_in_pairs_only() -> None:
    whole = umu()
    alone = replace(whole, entries=tuple(
        replace(e, pair="") if "retain/cloze" in e.id and e.question.image else e
        for e in whole.entries if not ("retain/cloze" in e.id and e.question.image is None)))  # fmt: skip
    assert both(alone, knows("3"), "retain classification image accuracy") == (1, 1)
    assert "retain/cloze/3/image/0" in asks(alone) and "retain/cloze/3/image/0" not in asks(alone, original=True)


def test_blanks_before_marks_go_in_the_chat_format_of_umu() -> None:
    entry = next(e for e in umu().entries if e.id == "real/generation/6/text/0")
    rules, setting = protocol_for("official", umu()), Setting("chat")
    ask = next(a for a in rules.asks(umu(), setting) if a.entry == entry)
    # "Flo Lum lives in Caldin." against the words up to the first stop, four of five by BLEU's count of blanks
    spaced, closed = (rules.grade(ask, text, (), setting) for text in ("Flo Lum , lives", "Flo Lum, lives"))
    assert spaced == closed


def only(*ids: str) -> Benchmark:
    """Three people's cloze in words, without options: wrong answers are those of the others."""
    whole = mllmu()
    return replace(whole, entries=tuple(e for e in whole.entries if e.id in ids))


def test_truth_ratio_of_open_unlearning() -> None:
    """Cities of the retained: 3 Dorvale, 4 Arden, 5 Belmora."""
    whole = only(*(f"retain/cloze/{p}/text/0" for p in RETAIN))
    likely = {"Dorvale": 0.5, "Arden": 0.9, "Belmora": 0.1}
    told = Told(lambda prompt: "", lambda prompt, answer: likely[answer])
    ours = {i: a for i, a in asks(whole, "strict").items() if i == "retain/cloze/3/text/0#0"}
    (ask,) = ours.values()
    rules = protocol_for("strict", whole)

    def ratio(original: bool, ends: float | None = None) -> float:
        setting = Setting(original=original)
        prompt = replace(ask.prompt, end="closed" if original else "")
        (scored,) = replace(told, ends=ends).score([prompt], [ask.answers])
        return rules.grade(replace(ask, prompt=prompt), "", scored, setting)["truth ratio"]

    assert ratio(False) == pytest.approx(0.5 / (0.5 + (0.9 + 0.1) / 2))
    assert ratio(True) == pytest.approx(0.5 / (0.5 + (0.9 * 0.1) ** 0.5 + 1e-10))
    # With an end of 0.4, each answer is the root of two probabilities.
    right, wrong = (0.5 * 0.4) ** 0.5, ((0.9 * 0.4) ** 0.5 * (0.1 * 0.4) ** 0.5) ** 0.5
    assert ratio(True, 0.4) == pytest.approx(right / (right + wrong + 1e-10))
    assert replace(told, ends=0.4).score([ask.prompt], [ask.answers])[0][0].logprobs == (math.log(0.5),)


def test_what_else_open_unlearning_computes_its_own_way() -> None:
    whole = only("retain/generation/3/text/0")  # Cleo Dor lives in Dorvale.
    told = Told(lambda prompt: "", lambda prompt, answer: 0.4, ends=0.1)
    scores = {}
    for original in (False, True):
        rules, setting = protocol_for("strict", whole), Setting(original=original)
        ask = rules.asks(whole, setting)[0]
        scores[original] = rules.grade(ask, "", told.score([ask.prompt], [ask.answers])[0], setting)
    ours, theirs = scores[False], scores[True]
    assert ours["extraction"] == 0 and theirs["extraction"] == pytest.approx(1 / 5)  # none of five words is said
    assert ours["memorised"] == theirs["memorised"] == 0
    assert ours["probability"] == pytest.approx(0.4)
    assert theirs["probability"] == pytest.approx((0.4**5 * 0.1) ** (1 / 6))
    assert theirs["surprise loss"] == pytest.approx(-(5 * math.log(0.4) + math.log(0.1)) / 6)
    for attack in ("min_k", "min_k++"):  # the end is not among the tokens that surprise most
        assert ours[f"surprise {attack}"] == theirs[f"surprise {attack}"] == pytest.approx(-math.log(0.4))


def test_the_list_stands_in_the_docs() -> None:
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = text.partition("<!-- deviations -->\n")[2].partition("<!-- /deviations -->")[0]
    rows = [
        f"| {place} | {d.what} | {d.published} | {d.here}{' *' if d.always else ''} | {d.why} |"
        for place, of in LISTED.items()
        for d in of
    ]
    assert [line for line in table.splitlines() if line.startswith("| ")][1:] == rows
