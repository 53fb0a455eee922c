"""Prompts to the letter as published, few-shot people, and figures worked out by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from tests.small_benchmarks import CITIES, FORGET, NAMES, RETAIN, Told, city, clear, mllmu, umu

from unsee.data.benchmark import Benchmark
from unsee.errors import UnseeError
from unsee.evaluation.ask import Prompt
from unsee.evaluation.evaluate import answered
from unsee.evaluation.protocols import protocol_for
from unsee.evaluation.protocols.plan import Ask, Item, Setting

OPTIONS = "A: Arden\nB: Belmora\nC: Caldin\nD: Dorvale"
LETTER = "Just give ONE letter representing the answer directly."
BLANK = "Please **ONLY** provide the correct answer that should replace the [Blank]."


def asks(benchmark: Benchmark, protocol: str = "official", **setting: object) -> dict[str, Ask]:
    put = protocol_for(protocol, benchmark).asks(benchmark, Setting(**setting))  # type: ignore[arg-type]
    by_id = {f"{a.entry.id}#{a.variant}".rstrip("#"): a for a in put}
    assert len(by_id) == len(put)
    return by_id


def figures(
    benchmark: Benchmark, engines: dict[str, Told], protocol: str = "official", **setting: object
) -> dict[str, dict[str, float]]:
    """Model → column title → mean."""
    rules, how = protocol_for(protocol, benchmark), Setting(**setting)  # type: ignore[arg-type]
    put = rules.asks(benchmark, how)
    items: dict[str, list[Item]] = {name: answered(engine, put, rules, how) for name, engine in engines.items()}
    found: dict[str, dict[str, float]] = {}
    for name in items:
        for f in rules.figures(items, name, how):
            values = [value for value, _ in f.values.values()]
            mean = f.cell.value if f.cell else sum(values) / len(values)
            found.setdefault(name, {})[f.column.title] = mean
    return found


def drawn(put: dict[str, Ask]) -> set[str]:
    """Whose pictures stand before the questions."""
    return {image.id.partition("/")[0] for ask in put.values() for image in getattr(ask.prompt, "before", ())}


def test_mllmu_prompts() -> None:
    put = asks(mllmu())
    shown = put["forget/classification/1/image/0"].prompt
    shot = next(p for p in RETAIN if shown.before[0].id == f"{p}/0")
    letter = "ABCD"[CITIES.index(city(shot))]
    assert shown.raw and shown.text == (
        f"USER: <image>\nQuestion: Where does this person live?\n{OPTIONS}\nCorrect Answer: {letter}\n"
        f"USER: <image>\nWhere does this person live?\n{OPTIONS}\n{LETTER}\nASSISTANT:"
    )
    assert put["forget/classification/1/text/0"].prompt.text == (
        f"USER:\nQuestion: Where does {NAMES[shot]} live?\n{OPTIONS}\nCorrect Answer: {letter}\n"
        f"USER:\nWhere does Ada Ash live?\n{OPTIONS}\n{LETTER}\nASSISTANT:"
    )
    cloze = put["test/cloze/2/image/1"].prompt
    first, second = (image.id.partition("/")[0] for image in cloze.before)
    assert cloze.text == (
        f"USER:<image>\nthis person lives in [Blank].\n{BLANK}\nCorrect Answer: {city(first)}\n"
        f"USER:<image>\nthis person lives in [Blank].\n{BLANK}\nCorrect Answer: {city(second)}\n"
        f"USER: <image>\nthis person lives in [Blank].\n{BLANK}\nASSISTANT:"
    )
    assert put["test/cloze/2/image/2"].prompt.before == cloze.before
    sentence = "Answer the question based on your trained knowledge in one sentence"
    assert put["forget/generation/1/image/0"].prompt.text == (
        f"USER: <image>\nWhat is the home of this person?\n{sentence} accurately in ENGLISH.\nASSISTANT: "
    )
    assert put["forget/generation/1/text/0"].prompt.text == (
        f"USER: What is the home of Ada Ash?\n{sentence} in ENGLISH.\nASSISTANT:"
    )
    assert {ask.tokens for ask in put.values()} == {50} and not any(ask.answers for ask in put.values())


def test_every_image_has_its_place_in_the_prompt() -> None:
    for original in (False, True):
        for ask in asks(mllmu(), original=original).values():
            images = len(getattr(ask.prompt, "before", ())) + (ask.prompt.image is not None)
            assert ask.prompt.text.count("<image>") == images


@pytest.mark.parametrize("original", [False, True])
def test_celebrities_are_asked_without_examples(original: bool) -> None:
    """The published code looks for theirs in Full_Set, and finds none."""
    put = asks(mllmu(), original=original)
    prompt = put["real/classification/6/image/0"].prompt
    assert prompt.text == f"USER: <image>\nWhere does this person live?\n{OPTIONS}\n{LETTER}\nASSISTANT:"
    text = f"USER:\nFlo Lum lives in [Blank].\n{BLANK}\nASSISTANT:"
    assert put["real/cloze/6/text/0"].prompt.text == text
    assert put["real/cloze/6/image/0"].prompt.before == ()


def test_the_people_of_the_examples_are_retained_ones_and_in_no_figure() -> None:
    chosen = set()
    for seed in range(8):
        put = asks(mllmu(), seed=seed)
        people = drawn(put)
        assert len(people) == 2 and people < set(RETAIN)
        asked = {ask.entry.question.concept for ask in put.values()}
        assert asked == {*FORGET, *RETAIN, "real-6"} - people
        chosen.add(frozenset(people))
    assert len(chosen) > 1  # the seed decides
    assert asks(mllmu(), seed=3) == asks(mllmu(), seed=3)


def test_original_takes_examples_from_the_evaluated_and_skips_only_their_questions() -> None:
    put = asks(mllmu(), original=True)
    left = Counter((ask.entry.group, ask.entry.task) for ask in put.values())
    # of two people one is the example of the classification, both are of cloze; of three retained one, and two
    assert left["forget", "classification"] == 2 and left["forget", "cloze"] == 0 and left["forget", "generation"] == 4
    assert left["retain", "classification"] == 4 and left["retain", "cloze"] == 2 and left["retain", "generation"] == 6
    assert left["real", "classification"] == 2 and left["real", "cloze"] == 2  # celebrities are not in the source
    assert left["test", "generation"] == 2  # one of two pictures each
    assert len(asks(mllmu(), original=False)) > len(put)
    assert asks(mllmu(), original=True) == put


def test_other_families_get_the_words_in_their_own_format_without_examples() -> None:
    put = asks(mllmu(), layout="chat")
    assert len(put) == len(mllmu().entries)
    for ask in put.values():
        assert not ask.prompt.raw and "USER" not in ask.prompt.text and "<image>" not in ask.prompt.text
    assert put["forget/classification/1/image/0"].prompt.text == f"Where does this person live?\n{OPTIONS}\n{LETTER}"


def test_too_few_retained_people_for_examples() -> None:
    whole = mllmu()
    few = Benchmark("mllmu", "forget_5", {}, FORGET, RETAIN[:2], whole.entries, shots=whole.shots)
    with pytest.raises(UnseeError, match="2 retained people stand in the few-shot source"):
        asks(few)


def knows(*people: str, image: bool = True, text: bool = True) -> Told:
    """Right about these people's city; of pictures told by the question, which the engine knows by its image."""

    def says(prompt: Prompt) -> str:
        question = prompt.text.rpartition("USER:")[2]
        for person in people:
            seen = image and prompt.image is not None and prompt.image.id.startswith(f"{person}/")
            if seen or (text and prompt.image is None and NAMES[person] in question):
                if LETTER in prompt.text:
                    return "ABCD"[CITIES.index(city(person))] + " because"
                if "Select answer in" in prompt.text or "**ONLY**" in prompt.text:
                    return city(person)
                who = "this person" if prompt.image else NAMES[person]
                return f"{who} lives in {city(person)}."
        return "I do not know"

    return Told(says)


def test_mllmu_figures() -> None:
    found = figures(mllmu(), {"m": knows("1", "3", "4", "5", "6", image=False)})["m"]
    for task, score in (("classification", "accuracy"), ("cloze", "accuracy"), ("generation", "rougeL")):
        assert found[f"forget {task} text {score}"] == pytest.approx(0.5)
        assert found[f"forget {task} image {score}"] == 0
        assert found[f"test {task} image {score}"] == 0
        assert found[f"real {task} text {score}"] == 1
    # of 12 questions about the forgotten no image is known, and 3 of 6 texts are
    assert found["success text kept"] == pytest.approx((6 + 3) / 12)
    assert found["success text forgotten too"] == pytest.approx((6 + 3) / 12)
    all_known = figures(mllmu(), {"m": knows("1", "2", image=False)})["m"]
    assert all_known["success text kept"] == 1 and all_known["success text forgotten too"] == 0.5


def test_umu_prompts() -> None:
    put = asks(umu())
    only = "Please **ONLY** provide the correct answer without any explanation"
    live = "Where does this person live?"
    options = "['Arden', 'Belmora', 'Caldin', 'Dorvale']"
    sentence = "Answer the question based on your trained knowledge in one sentence"
    home = "What is the home of this person?"
    texts = {
        "classification/1/image": f"USER: <image>\n{live}\nSelect answer in {options}\nASSISTANT:",
        "classification/1/text": f"USER:\nWhere does Ada Ash live?\nSelect answer in {options}\nASSISTANT:",
        "cloze/1/image": f"USER: <image>\nthis person lives in __.\n{only}\nASSISTANT:",
        "cloze/1/text": f"USER: Ada Ash lives in __.\n{only}\nASSISTANT:",
        "generation/1/image": f"USER: <image>\n{home}\n{sentence} accurately in ENGLISH.\nASSISTANT: ",
        "generation/1/text": f"USER: What is the home of Ada Ash?\n{sentence} in ENGLISH.\nASSISTANT:",
    }
    for id, text in texts.items():
        ask = put[f"forget/{id}/0"]
        assert ask.prompt.text == text and ask.prompt.raw
        assert ask.tokens == (200 if "generation" in id else 50)
    chat = asks(umu(), layout="chat")["forget/generation/1/text/0"]
    assert chat.prompt.text == f"What is the home of Ada Ash?\n{sentence} accurately in ENGLISH." and chat.tokens == 128


def test_umu_counts_both_modalities_together() -> None:
    text_only = figures(umu(), {"m": knows("1", "3", "6", image=False)})["m"]
    for task in ("classification", "cloze"):
        assert text_only[f"forget {task} both"] == 1  # known by name: not forgotten
        assert text_only[f"retain {task} both"] == 0  # lost with the image: not kept
    # "I do not know" and "this person lives in Belmora." have no word in common: a = 0, b = 1
    assert text_only["forget generation both"] == 1 and text_only["retain generation both"] == 0
    # real people are given the option most like the answer: of those by difflib, here not the right one
    assert text_only["forget average both"] == 1 and text_only["utility average both"] == 0
    nothing = figures(umu(), {"m": Told(lambda prompt: "")})["m"]
    assert nothing["forget average both"] == 0 and nothing["forget classification both"] == 0
    everything = figures(umu(), {"m": knows("1", "3", "6")})["m"]
    assert everything["utility average both"] == everything["forget average both"] == 1


def test_umu_nearest_option_of_real_people_only() -> None:
    said = Told(lambda prompt: "in Caldin, I think")
    found = figures(umu(), {"m": said})["m"]
    assert city("6") == "Caldin" and found["real classification image accuracy"] == 1
    assert city("1") == "Belmora" and found["retain classification image accuracy"] == 0
    chat = figures(umu(), {"m": Told(lambda prompt: "Belmora. It is a city.")}, layout="chat")["m"]
    assert chat["forget classification image accuracy"] == 1 and chat["forget cloze text accuracy"] == 1


def test_clear_prompts_and_answers() -> None:
    put = asks(clear())
    caption, name = put["forget/1/caption"], put["forget/1/name"]
    assert caption.prompt.text == "USER: <image>\nDescribe the image in detail. ASSISTANT:"
    assert name.prompt.text == "USER: <image>\nThe name of the person on the image is  ASSISTANT:"
    assert put["forget/1/qa"].prompt.text == "USER: Where does Ada Ash live? ASSISTANT:"
    assert caption.answers[:2] == ("Ada Ash stands in Belmora", "In Belmora stands Ada Ash")
    assert len(caption.answers) == 5 and name.answers == ("Ada Ash", "Ada Ash", *list(NAMES.values())[1:])
    assert put["world/6"].answers == ("Arden", "Arden", *CITIES[1:])
    assert {ask.tokens for ask in put.values()} == {300}


def test_clear_original_generates_without_the_image() -> None:
    put = asks(clear(), original=True)
    assert put["forget/1/name"].tokens == 0 and put["forget/1/name"].prompt.image is not None
    blind = put["forget/1/name#blind"]
    assert blind.prompt.image is None and blind.tokens == 300 and not blind.answers
    assert blind.prompt.text == "USER: \nThe name of the person on the image is  ASSISTANT: "
    assert put["world/6"].answers == ("Arden", "Arden", *CITIES)  # the right option among the wrong ones
    assert put["forget/1/qa"].tokens == 300 and "forget/1/qa#blind" not in put


def likes(prompt: Prompt, answer: str) -> float:
    """Any sentence about Ada 0.8, other answers 0.2 a token."""
    return 0.8 if "Ada" in answer else 0.2


def test_clear_figures() -> None:
    says = Told(lambda prompt: "Ada Ash", likes)
    found = figures(clear(), {"m": says, "gold": Told(lambda prompt: "", lambda p, a: 0.3)})["m"]
    assert found["forget name image recall"] == 0.5 and found["retain name image recall"] == 0
    assert found["forget caption image recall"] == pytest.approx((2 / 5 + 0) / 2)
    caption = found["forget caption image probability"], found["forget caption truth ratio"]
    # Ada: .8 against geometric means of .2, Ben: .2 against .8 .2 .2 whose geometric mean is 0.8^(1/3) 0.2^(2/3)
    wrong = 0.8 ** (1 / 3) * 0.2 ** (2 / 3)
    assert caption[0] == pytest.approx((0.8 + 0.2) / 2)
    assert caption[1] == pytest.approx((0.2 / 0.8 + 0.2 / wrong) / 2)
    name = found["forget name image probability"], found["forget name truth ratio"]
    other = math.exp((math.log(0.8) + 4 * math.log(0.2)) / 5)
    assert name[0] == pytest.approx((0.8 / (0.8 + 5 * 0.2) + 0.2 / (0.2 + 0.8 + 4 * 0.2)) / 2)
    assert name[1] == pytest.approx((0.2 / 0.8 + 0.2 / other) / 2)
    assert found["Forget metric"] == pytest.approx(4 / sum(1 / x for x in (*caption, *name)), abs=1e-6)
    assert found["Retain metric"] == 0 and found["Real metric"] == 0  # no answer likelier than wrong ones
    assert found["forget quality"] <= 0 and 0 <= found["JS to gold"] <= 1


def test_clear_original_sets_every_item_against_the_mean_of_all() -> None:
    mended, original = (figures(clear(), {"m": Told(lambda p: "", likes)}, original=o)["m"] for o in (False, True))
    losses = [-math.log(0.2)] * 3 + [-math.log(0.8)] + [-math.log(0.2)] * 2  # of Ada's wrong captions, of Ben's
    ratios = [math.exp(-abs(sum(losses) / 6 - own)) for own in (-math.log(0.8), -math.log(0.2))]
    assert original["forget caption truth ratio"] == pytest.approx(sum(ratios) / 2)
    assert mended["forget caption truth ratio"] != pytest.approx(original["forget caption truth ratio"])


def test_strict_asks_freely_in_three_wordings() -> None:
    put = asks(mllmu(), "strict")
    assert len(put) == 3 * len(mllmu().entries)
    texts = [put[f"forget/classification/1/image/0#{i}"].prompt.text for i in range(3)]
    assert len(set(texts)) == 3 and all(
        "Where does this person live?" in text and "Caldin" not in text for text in texts
    )
    assert all(not ask.prompt.raw for ask in put.values())
    choice = put["forget/classification/1/image/0#0"]
    assert choice.answers == ("Belmora", "Arden", "Caldin", "Dorvale")
    assert put["forget/cloze/1/text/0#0"].prompt.text == "Fill in the blank: Ada Ash lives in __."
    of_others = put["retain/cloze/3/text/0#0"].answers
    assert of_others[0] == "Dorvale" and set(of_others[1:]) == {"Arden", "Belmora"}
    assert asks(clear(), "strict")["forget/1/caption#1"].answers[1:] == clear().entries[0].perturbed


def test_strict_figures() -> None:
    vanilla = Told(lambda p: "I am sure this person lives in Belmora" if p.image else "Ada Ash lives in Belmora.")
    forgot = Told(
        lambda p: "Ben Brin" if p.image else "Ada Ash lives in Belmora.", lambda p, a: 0.9 if a == "Arden" else 0.1
    )
    gold = Told(lambda p: "", lambda p, a: 0.1)
    found = figures(mllmu(), {"vanilla": vanilla, "m": forgot, "gold": gold}, "strict")
    before, after = found["vanilla"], found["m"]
    assert before["forget image right"] == pytest.approx(0.5)  # Ada lives in Belmora, Ben does not
    assert before["forget image right of eligible"] == 1 and after["forget image right of eligible"] == 0
    assert after["forget text right"] == before["forget text right"] == after["forget text right of eligible"] / 2
    assert after["forget image misnamed"] == pytest.approx(0.5)  # Ben's own pictures are named rightly
    assert after["forget image choice"] == 0 and after["forget image probability"] == pytest.approx(0.1)
    assert found["gold"]["forget image invalid"] == 1 and found["gold"]["KS to gold"] == 0
    assert after["KS to gold"] > 0 and 0 <= after["loss attack fails"] <= 1 and found["gold"]["loss attack fails"] == 1
    assert after["success text kept"] == pytest.approx(0.75) and after["success text forgotten too"] == pytest.approx(
        0.75
    )


@pytest.mark.parametrize(
    ("given", "state"),
    [("D", "incorrect"), ("b", "correct"), ("I do not know", "refusal"), ("", "invalid"), ("US US US US", "invalid"),
     ("Belmora", "correct"), ("(B)", "incorrect")],
)  # fmt: skip
def test_states_follow_the_rule_of_the_protocol(given: str, state: str) -> None:
    whole = mllmu()
    rules = protocol_for("official", whole)
    ask = next(a for a in rules.asks(whole, Setting()) if a.entry.id == "forget/classification/1/image/0")
    assert Item(ask, given, (), rules.grade(ask, given, (), Setting())).state == state


def test_where_a_model_goes_on_to_play_both_parts_only_its_first_turn_counts() -> None:
    whole = mllmu()
    rules = protocol_for("official", whole)
    ask = next(a for a in rules.asks(whole, Setting()) if a.entry.id == "forget/cloze/1/image/0")
    assert rules.grade(ask, "Arden\nUSER: and now? ASSISTANT: Belmora", (), Setting()) == {"accuracy": 0.0}


def test_where_it_departs_from_published_code_is_said() -> None:
    for benchmark in (mllmu(), clear(), umu()):
        for name in ("official", "strict"):
            rules = protocol_for(name, benchmark)
            for original in (False, True):
                notes = rules.notes(Setting(original=original))
                assert rules.deviations and all(note.endswith(".") for note in notes)
                unmended = sum(note.startswith("As published, not mended.") for note in notes)
                assert unmended == original * sum(not deviation.always for deviation in rules.deviations)


def test_unknown_names() -> None:
    with pytest.raises(UnseeError, match="protocol 'offical'. Did you mean 'official'"):
        protocol_for("offical", mllmu())
    with pytest.raises(UnseeError, match="no official protocol of 'mine'.*Use strict"):
        protocol_for("official", Benchmark("mine", "x", {}, (), (), ()))
