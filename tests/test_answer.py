"""Answers do not depend on the batch, and sharing an image's features changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unsee import tiny
from unsee.data import people
from unsee.evaluation import answer
from unsee.vision.module import Visual


@pytest.fixture(scope="module", params=("llava", "qwen2_vl"))
def pair(request):
    model, processor = tiny.build(request.param, people.vocabulary())
    with torch.no_grad():  # a fresh model says one word to everything; larger weights make it say many
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model, processor


def questions():
    world = people.People()
    found = []
    for person in world.people[:3]:
        found += people.image_questions(person, people.test_views(person, 1)[0], "test")[:4]
        found += people.text_questions(person, "test")[:2]
    return found


def test_batching_does_not_change_answers(pair):
    model, processor = pair
    asked = questions()
    seen = answer.look(model, processor, answer.open_images(Visual(model, processor), asked))
    together = answer.answers(model, processor, asked, seen)
    alone = [answer.answers(model, processor, [q], seen)[0] for q in asked]
    assert together == alone
    assert len(set(together)) > 1


def test_shared_features_give_what_the_processor_gives(pair):
    model, processor = pair
    question = questions()[0]
    seen = answer.look(model, processor, answer.open_images(Visual(model, processor), [question]))
    content = [{"type": "image"}, {"type": "text", "text": question.prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[question.image.load()], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=answer.NEW_TOKENS, do_sample=False)
    theirs = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert answer.answers(model, processor, [question], seen) == [theirs]


def test_an_answer_has_room_for_the_longest_true_one(pair, monkeypatch):
    model, processor = pair
    short, rooms, real = questions()[0], list[int](), answer.greedy
    monkeypatch.setattr(answer, "greedy", lambda *given: rooms.append(given[-1]) or real(*given))
    seen = answer.look(model, processor, answer.open_images(Visual(model, processor), [short]))
    for question in (short, replace(short, answer=" ".join(["pizza"] * 11))):
        answer.answers(model, processor, [question], seen)
    assert rooms == [answer.NEW_TOKENS, 12]  # the end is one of them


def test_probability_is_the_geometric_mean_over_tokens(pair):
    model, processor = pair
    question = questions()[0]
    seen = answer.look(model, processor, answer.open_images(Visual(model, processor), [question]))
    candidates = [["Alba Ashafel", "unknown", "pizza"]]
    found = answer.probabilities(model, processor, [question], candidates, seen)[0]
    assert len(found) == 3 and all(0 < p < 1 for p in found)
    one = [answer.probabilities(model, processor, [question], [[c]], seen)[0][0] for c in candidates[0]]
    assert found == pytest.approx(one, rel=1e-4)
