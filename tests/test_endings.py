"""What is scored with an answer: the end of its turn, or tokens before it, as published code has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.test_engine import SHOTS, WORDS, alone, pair

from unsee.evaluation.ask import Prompt
from unsee.evaluation.engine import TransformersEngine
from unsee.evaluation.plain import ending, worded

__all__ = ["pair"]  # a fixture


def test_the_end_of_a_turn_is_scored_as_the_chat_format_writes_it(pair):
    """CLEAR's labels are all that the format writes behind the question; here the processor's own text is read."""
    model, processor = pair
    asked, said = Prompt(WORDS[0], SHOTS[0]), "Alba Ashafel"
    talk = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked.text}]},
        {"role": "assistant", "content": [{"type": "text", "text": said}]},
    ]
    text = processor.apply_chat_template(talk)
    inputs = dict(processor(text=[text], images=[SHOTS[0].load()], return_tensors="pt"))
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None
    with torch.no_grad():
        logits = model(**inputs).logits[0, -4:-1].log_softmax(-1)
    wanted = logits[range(3), inputs["input_ids"][0, -3:]]
    assert processor.tokenizer.decode(inputs["input_ids"][0, -1]) == "</s>"
    mean, square = ((logits.exp() * of).sum(-1) for of in (logits, logits**2))
    for end in ("token", "written", "closed"):
        (found,) = TransformersEngine(model, processor).score([replace(asked, end=end)], [[said]])[0]
        assert found.logprobs == pytest.approx(wanted.tolist(), abs=1e-4)
        spread = (wanted - mean) / (square - mean**2).sqrt()
        assert found.scaled == pytest.approx(spread.tolist(), rel=1e-2, abs=1e-2)
    (found,) = TransformersEngine(model, processor).score([asked], [[said]])[0]
    assert found.logprobs == pytest.approx(wanted[:2].tolist(), abs=1e-4)


def test_answers_that_are_scored_too_early(pair):
    """Where the answer would begin if the image took one token: so many tokens of the prompt count with it."""
    model, processor = pair
    engine, prompt = TransformersEngine(model, processor), Prompt(WORDS[0], SHOTS[0])
    (late,), (early,) = (
        engine.score([replace(prompt, end="written", early=e)], [["Alba Ashafel"]])[0] for e in (False, True)
    )
    inputs = alone(model, processor, prompt)
    image = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert len(early.logprobs) == len(late.logprobs) + image - 1
    assert early.logprobs[-3:] == pytest.approx(late.logprobs, abs=1e-4)
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None
    with torch.no_grad():
        logits = model(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    before = [logits[i - 1, ids[i]].item() for i in range(len(ids) - image + 1, len(ids))]
    assert early.logprobs[:-3] == pytest.approx(before, abs=1e-4)


def test_endings_of_chat_formats(pair):
    processor, kept = pair[1], pair[1].chat_template
    written = {  # what LLaVA-1.5 writes; what Qwen2-VL writes; nothing
        "{{ m['content'][0]['text'] + ' ' }}": (" ", "</s>", " </s>"),
        "{{ m['content'][0]['text'] + '<|im_end|>\n' }}": ("<|im_end|>\n", "<|im_end|>", "<|im_end|>\n</s>"),
        "{{ m['content'][0]['text'] }}": ("", "</s>", "</s>"),
    }
    try:
        for how, endings in written.items():
            processor.chat_template = "{% for m in messages %}" + how + "{% endfor %}"
            assert tuple(ending(processor, end) for end in ("written", "token", "closed")) == endings
            assert ending(processor, "") == ""
        processor.chat_template = None
        assert ending(processor, "written") == "</s>"
    finally:
        processor.chat_template = kept


def test_a_bare_prompt_is_what_is_left_without_special_tokens(pair):
    """CLEAR's own code decodes the prompt without them and asks with what is left, up to the answer."""
    assert worded(pair[1], Prompt("Who is this ?", bare=True)) in (
        "USER: Who is this ? ASSISTANT: ",
        "user Who is this ? assistant ",
    )
