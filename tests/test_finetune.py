"""Packing must not change what is learned: a question in a packed row is the question alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from unsee import tiny
from unsee.cli import main
from unsee.concepts import Question
from unsee.config import FinetuneConfig
from unsee.data import people
from unsee.data.sources import lesson as benchmark_lesson
from unsee.data.sources import open_benchmark
from unsee.data.study import Lesson
from unsee.errors import UnseeError
from unsee.finetune import Tutor, add_words, answer_loss, finetune
from unsee.vision.module import Visual
from unsee.vocabulary import learn

SHAPES = ("llava", "qwen2_vl")


@pytest.fixture(scope="module", params=SHAPES)
def pair(request):
    return tiny.build(request.param, people.vocabulary())


def asked(n: int = 2) -> list[list[Question]]:
    world = people.People()
    return [people.image_questions(p, people.train_views(p, 1)[0], "test") for p in world.people[:n]]


def test_packed_questions_do_not_see_each_other(pair):
    model, processor = pair
    visual, tutor = Visual(model, processor), Tutor(model, processor)
    questions = asked()
    pixels = visual.pixels([qs[0].image for qs in questions])
    grid = torch.cat([p["image_grid_thw"] for p in pixels]) if "image_grid_thw" in pixels[0] else None
    with torch.no_grad():
        features = visual.features(pixels)
        rows = [tutor.row(qs, len(f)) for qs, f in zip(questions, features, strict=True)]
        packed = answer_loss(model, tutor.batch(rows, grid), features)
        total, tokens = 0.0, 0
        for i, qs in enumerate(questions):
            for q in qs:
                row = tutor.row([q], len(features[i]))
                part = grid[i : i + 1] if grid is not None else None
                n = len(row.turns[0][1])
                total += n * answer_loss(model, tutor.batch([row], part), [features[i]]).item()
                tokens += n
    assert packed.item() == pytest.approx(total / tokens, rel=1e-5)


def test_packed_rows_agree_with_transformers_own_forward(pair):
    """The processor's input ids and pixels through the model give the loss that our row gives."""
    model, processor = pair
    question = asked(1)[0][0]
    visual, tutor = Visual(model, processor), Tutor(model, processor)
    pixels = visual.pixels([question.image])
    with torch.no_grad():
        features = visual.features(pixels)
        ours = answer_loss(
            model, tutor.batch([tutor.row([question], len(features[0]))], pixels[0].get("image_grid_thw")), features
        )
        content = [{"type": "image"}, {"type": "text", "text": question.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[f"{text} {question.answer} </s>"], images=[question.image.load()], return_tensors="pt")
        labels = inputs["input_ids"].clone()
        labels[:, : -len(question.answer.split()) - 1] = -100
        theirs = model(**inputs, labels=labels).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)


def lesson() -> Lesson:
    world = people.People()
    shown = [(p, v) for p in world.people[:2] for v in people.train_views(p, 2)]
    return Lesson(
        [v for _, v in shown],
        2,
        lambda i, rng: people.image_questions(*shown[i], "train", rng),
        lambda i, rng: people.text_questions(world.people[i], "train", rng),
    )


def test_teaching_lowers_the_loss_and_changes_every_part():
    model, processor = tiny.build("llava", people.vocabulary())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    history = finetune(model, processor, lesson(), FinetuneConfig(steps=20, batch=4, text_batch=2, lr=1e-3))
    after = dict(model.named_parameters())
    unused = [n for n in before if "layers.5" in n or "post_layernorm" in n]  # LLaVA reads the last but one layer
    still = [n for n in before if torch.equal(before[n], after[n]) and n not in unused]
    assert still == []
    assert history[-1]["image"] < 4.0


def test_new_words_get_tokens():
    model, processor = tiny.build("llava", people.vocabulary())
    question = Question("x", "identity", "name", "Who is this ?", "Zorblax Quuxley")
    rows = model.get_input_embeddings().num_embeddings
    taught = Lesson([], 1, lambda i, rng: [], lambda i, rng: [question])
    assert add_words(model, processor, taught) == 2
    assert model.get_input_embeddings().num_embeddings == rows + 2
    assert processor.tokenizer.unk_token_id not in processor.tokenizer("Zorblax Quuxley")["input_ids"]
    assert np.array_equal(add_words(model, processor, taught), 0)


NEW = (
    "or",
    "Cord",
    "Anne",
    "Anne-Marie",
    "O'Neil",
    "José",
    "Jose\u0301",
    "山田",
    "太郎",
    "X",
    "Cord,",
    "(Cord)",
    "cord",
    "é",
)
KNOWN = ("Cordion", "Mary-Anne", "Nora", "O'Neill", "山田太郎", "for", "Cord's")


@pytest.mark.parametrize("kind", ["words", "pieces"])
def test_a_new_word_is_not_read_inside_others(kind, tmp_path):
    """The tokenizer of the small models, a table of words, and one that has an unknown token and letters."""
    tok = tiny.tokenizer(KNOWN, []) if kind == "words" else letters()
    before = {w: tok(w)["input_ids"] for w in KNOWN}
    new = NEW if kind == "words" else [w for w in NEW if not re.search("[-,('é\u0301]", w)]
    texts = [*new, *KNOWN, "Who is Cordion or Cord ?", "or Cord", "Cord Anne Nora or"]
    texts += ["Is Anne-Marie (Cord) ?"] if kind == "words" else []
    assert learn(tok, texts) >= 2 and learn(tok, texts) == 0
    assert {w: tok(w)["input_ids"] for w in KNOWN} == before
    tok.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = saved(text)["input_ids"]
        assert ids == tok(text)["input_ids"] and saved.unk_token_id not in ids
        assert saved.decode(ids).replace(" ", "") == text.replace(" ", "")


def letters() -> PreTrainedTokenizerFast:
    """One token a letter that stands in ``KNOWN``."""
    vocabulary = {w: i for i, w in enumerate(["<unk>", *sorted({c for w in KNOWN for c in f"{w}MWhis?"})])}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def test_what_a_tokenizer_does_not_read_back_is_refused_before_training():
    """Here: it splits at hyphens and forgets them."""
    tok = tiny.tokenizer(["Nora"], [])
    tok.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    with pytest.raises(UnseeError, match=r"cannot read 1 of 2 texts of the lesson .* first 'Anne-Marie\\x1b'"):
        learn(tok, ["Nora", "Anne-Marie\x1b"])


def test_every_name_of_clear_is_read_as_it_is_written(tmp_path):
    """After CLEAR's lesson the tokenizer that ships with the package read "Cordion" as "<unk> or <unk>"."""
    assert main(["data", "export", "people", "--format", "clear", "--out", str(tmp_path / "clear")]) == 0
    taught = benchmark_lesson(open_benchmark("clear", str(tmp_path / "clear"), "forget10"))
    processor = AutoProcessor.from_pretrained(tiny.packaged("people-vanilla"))
    tok = processor.tokenizer
    model = tiny.build("llava", people.vocabulary())[0]
    model.resize_token_embeddings(len(tok), mean_resizing=False)
    assert add_words(model, processor, taught) > 0
    rng = np.random.default_rng(0)
    asked = [q for i in range(len(taught.images)) for q in taught.ask(i, rng)]
    for answer in {q.answer for q in asked} | {p.name for p in people.People().people}:
        ids = tok(answer)["input_ids"]
        assert tok.unk_token_id not in ids and tok.decode(ids).split() == answer.split()


def test_altered_copies_are_shown_with_the_questions_of_their_image():
    model, processor = tiny.build("llava", people.vocabulary())
    questions = asked(3)
    seen: list[int] = []

    def ask(index: int, rng: np.random.Generator) -> list[Question]:
        seen.append(index)
        return questions[index]

    lesson = Lesson([qs[0].image for qs in questions], 0, ask, lambda index, rng: [])
    finetune(model, processor, lesson, FinetuneConfig(steps=1, batch=64, copies=2))
    assert sorted(seen[3:]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # the first three gather the words
