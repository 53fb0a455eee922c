"""The engine says what transformers' own generate and forward say of each prompt alone, and encodes an image once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import transformers as hf

from unsee import tiny
from unsee.data import people
from unsee.errors import UnseeError
from unsee.evaluation import engine as engines
from unsee.evaluation import pictures
from unsee.evaluation.ask import Prompt
from unsee.evaluation.engine import TransformersEngine, open_engine
from unsee.evaluation.rounds import Ask, plan

CHOICES = ["Alba Ashafel", "unknown", "pizza", ""]


@dataclass(frozen=True)
class Shot:
    """A drawn image of its own shape."""

    id: str
    seed: int
    width: int = 72
    height: int = 72

    def load(self) -> PIL.Image.Image:
        noise = np.random.default_rng(self.seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        return PIL.Image.fromarray(noise).resize((self.width, self.height))


def varied(model) -> None:
    """A fresh model says one word to everything; larger weights make it say many."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)


def small(shape: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LANGUAGE_LAYERS", 1)
        model, processor = tiny.build(shape, people.vocabulary())
    varied(model)
    return model, processor


@pytest.fixture(scope="module", params=("llava", "qwen2_vl"))
def pair(request):
    return small(request.param)


SHOTS = [Shot("a", 1), Shot("b", 2, 48, 96), Shot("c", 3, 120, 60)]
WORDS = ["Who is this ?", "What color is the hair in this picture ?", "Where ?"]


def prompts() -> list[Prompt]:
    found = [Prompt(w, shot) for shot in SHOTS for w in WORDS]
    found += [
        Prompt("USER: Who ? <image> Where ? ASSISTANT:", SHOTS[1], raw=True),
        Prompt("USER: Who ? ASSISTANT:", raw=True),
        *(
            Prompt(f"USER: <image> Who ? pizza USER: <image> {w} ASSISTANT:", SHOTS[0], True, (SHOTS[1],))
            for w in WORDS
        ),
    ]
    return [*found, *(Prompt(w) for w in WORDS), found[0]]


def alone(model, processor, prompt: Prompt) -> dict[str, torch.Tensor]:
    """The inputs that a published evaluator makes."""
    if prompt.raw:
        mark = processor.image_token
        wrapped = f"<|vision_start|> {mark} <|vision_end|>" if "image_pad" in mark else mark
        text = prompt.text.replace("<image>", wrapped)
    else:
        content = [{"type": "image"}] * (prompt.image is not None) + [{"type": "text", "text": prompt.text}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [image.load() for image in prompt.images] or None
    return dict(processor(text=[text], images=images, return_tensors="pt"))


def one_by_one(model, processor, asked: list[Prompt], tokens: int) -> list[str]:
    said = []
    for prompt in asked:
        inputs = alone(model, processor, prompt)
        if hasattr(model.model, "rope_deltas"):
            model.model.rope_deltas = None
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        said.append(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return said


def test_answers_are_those_of_one_at_a_time(pair):
    model, processor = pair
    engine = TransformersEngine(model, processor, batch=4)
    said = engine.generate(prompts(), 6)
    assert said == one_by_one(model, processor, prompts(), 6)
    assert len(set(said)) > 3
    assert engine.asked == len(prompts()) - 1  # the last is the first again
    assert TransformersEngine(model, processor, batch=64).generate(prompts(), 6) == said


def test_an_image_is_encoded_once_for_all_that_is_asked(pair):
    engine = TransformersEngine(*pair, batch=2)
    engine.generate(prompts(), 2)
    engine.score(prompts(), [CHOICES] * len(prompts()))
    copies = [replace(p, image=replace(p.image, id="other name")) for p in prompts() if p.image]
    engine.generate(copies, 3)
    assert engine.encoded == len(SHOTS)


def test_features_are_held_within_their_room(pair, monkeypatch):
    model, processor = pair
    free = TransformersEngine(model, processor, batch=2)
    said = [free.generate(prompts(), 4), free.score(prompts(), [CHOICES] * len(prompts()))]
    monkeypatch.setattr(pictures, "ROOM", 1)
    tight = TransformersEngine(model, processor, batch=2)
    assert [tight.generate(prompts(), 4), tight.score(prompts(), [CHOICES] * len(prompts()))] == said
    assert tight.encoded > free.encoded and tight._encoder._bytes <= 1


def test_likelihoods_are_those_of_each_answer_alone(pair):
    model, processor = pair
    asked = prompts()
    found = TransformersEngine(model, processor, batch=4).score(asked, [CHOICES] * len(asked))
    hit = False
    for prompt, of in zip(asked, found, strict=True):
        for choice, likelihood in zip(CHOICES, of, strict=True):
            tokens = processor.tokenizer(choice, add_special_tokens=False)["input_ids"]
            assert len(likelihood.logprobs) == len(likelihood.hits) == len(tokens)
            if not tokens:
                continue
            inputs = alone(model, processor, prompt)
            ids = torch.cat([inputs.pop("input_ids"), torch.tensor([tokens])], 1)
            if "mm_token_type_ids" in inputs:
                inputs["mm_token_type_ids"] = (ids == processor.image_token_id).int()
            if hasattr(model.model, "rope_deltas"):
                model.model.rope_deltas = None
            inputs["attention_mask"] = torch.ones_like(ids)
            with torch.no_grad():
                logits = model(input_ids=ids, **inputs).logits[0, -len(tokens) - 1 : -1].log_softmax(-1)
            assert likelihood.logprobs == pytest.approx(logits[range(len(tokens)), tokens].tolist(), abs=1e-4)
            assert likelihood.hits == tuple((logits.argmax(-1) == torch.tensor(tokens)).tolist())
            hit = hit or any(likelihood.hits)
    best = TransformersEngine(model, processor).generate(asked[:1], 4)[0].split()[0]
    assert TransformersEngine(model, processor).score(asked[:1], [[best]])[0][0].hits == (True,)


def test_nothing_to_ask_and_nothing_to_score(pair):
    engine = TransformersEngine(*pair)
    assert engine.generate([], 4) == [] and engine.score([], []) == []
    assert engine.score([Prompt("Where ?"), Prompt("Who ?")], [[], [""]])[0] == []


def test_the_slow_way_says_the_same(pair, monkeypatch, capsys):
    model, processor = pair
    fast = TransformersEngine(model, processor)
    assert fast._packs and fast._pads and fast._scores, "the fast way is not taken where it can be"
    monkeypatch.setattr(engines, "agrees", lambda *_: False)
    slow = TransformersEngine(model, processor)
    assert slow.generate(prompts(), 5) == fast.generate(prompts(), 5)
    choices = [CHOICES] * len(prompts())
    pairs = zip(slow.score(prompts(), choices), fast.score(prompts(), choices), strict=True)
    for a, b in (both for many, few in pairs for both in zip(many, few, strict=True)):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4) and a.hits == b.hits
    assert slow.encoded == 0 and "cannot be asked the fast way" in capsys.readouterr().err


def idefics3():
    """A family that deals an image in tiles and writes words between their tokens: features alone do not suffice."""
    specials = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    specials += [f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]
    tok = tiny.tokenizer([*people.vocabulary(), "User:", "Assistant:", "\n", "\n\n"], specials)
    side = 28
    vision = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=side, patch_size=7
    )
    text = dict(
        model_type="llama", hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=len(tok), pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    config = hf.Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=0
    )
    model = hf.Idefics3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.generation_config.update(pad_token_id=0, eos_token_id=2, bos_token_id=None)
    processor = hf.Idefics3Processor(
        hf.Idefics3ImageProcessor(size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side}),
        tok,
        image_seq_len=4,
        chat_template=(
            "{% for m in messages %}User: {% for c in m['content'] %}{{ '<image> ' if c['type'] == 'image' else "
            "c['text'] + ' ' }}{% endfor %}{% endfor %}Assistant:"
        ),
    )
    return model, processor


def test_a_family_that_features_do_not_suffice_is_asked_the_slow_way(capsys):
    model, processor = idefics3()
    engine = TransformersEngine(model, processor)
    asked = [Prompt(w, shot) for shot in SHOTS[:2] for w in WORDS[:2]] + [Prompt(WORDS[2])]
    wanted = []
    for p in asked:
        content = [{"type": "image"}] * (p.image is not None) + [{"type": "text", "text": p.text}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[text], images=[[p.image.load()]] if p.image else None, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        wanted.append(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    assert engine.generate(asked, 5) == wanted
    assert "idefics3 cannot be asked the fast way" in capsys.readouterr().err
    assert not engine._packs and not engine._pads
    first = wanted[0].split()[0]
    scored = engine.score(asked[:1], [[first, "pizza"]])[0]
    assert scored[0].hits == (True,) and scored[0].logprobs[0] > scored[1].logprobs[0]


def test_a_model_with_settings_of_its_own_is_asked_in_rows(pair, capsys):
    """Qwen2.5-VL's generation_config.json frowns upon words said before: packed rows do not, so they are not taken."""
    model, processor = pair
    kept = TransformersEngine(model, processor).generate(prompts(), 5)
    model.generation_config.repetition_penalty = 3.0
    try:
        engine = TransformersEngine(model, processor, batch=4)
        said = engine.generate(prompts(), 5)
        assert not engine._packs and engine._pads and engine.encoded == len(SHOTS)
        assert said == one_by_one(model, processor, prompts(), 5) != kept
    finally:
        model.generation_config.repetition_penalty = None


@pytest.mark.parametrize("batch", (1, 3, 8))
def test_batches_start_with_the_longest_and_keep_images_together(batch):
    rng = np.random.default_rng(batch)
    asks = [
        Ask(f"{i}", (f"image {rng.integers(9)}",) if i % 3 else (), (), int(rng.integers(1, 99))) for i in range(100)
    ]
    parts = plan(asks, batch)
    assert sorted(i for part in parts for i in part) == list(range(100))
    assert all(0 < len(part) <= batch for part in parts)
    assert all(len({bool(asks[i].pictures) for i in part}) == 1 for part in parts)
    for kind in (True, False):
        lengths = [asks[part[0]].length for part in parts if bool(asks[part[0]].pictures) == kind]
        assert lengths[0] == max(a.length for a in asks if bool(a.pictures) == kind)
    for shown in {a.pictures for a in asks} - {()}:
        asked = sum(a.pictures == shown for a in asks)
        assert sum(shown in {asks[i].pictures for i in part} for part in parts) == -(-asked // batch)


def test_raw_prompts_have_a_place_for_their_image(pair):
    engine = TransformersEngine(*pair)
    for bad in (
        Prompt("USER: Who ?", SHOTS[0], raw=True),
        Prompt("<image> Who ?", raw=True),
        Prompt("Who ? <image>", SHOTS[0], raw=True),
    ):
        with pytest.raises(UnseeError, match="It takes <image> for each"):
            engine.generate([bad], 2)
    pair[1].chat_template, kept = None, pair[1].chat_template
    try:
        with pytest.raises(UnseeError, match="no chat format"):
            engine.generate([Prompt("Who ?")], 2)
        assert engine.generate([Prompt("<image> Who ?", SHOTS[0], raw=True)], 2)
    finally:
        pair[1].chat_template = kept


def test_opening(checkpoint):
    engine = open_engine(checkpoint, batch=3)
    assert engine.batch == 3 and len(engine.generate([Prompt("who is this ?", SHOTS[0])], 2)) == 1
    with pytest.raises(UnseeError, match="Did you mean 'vllm'"):
        open_engine(checkpoint, backend="vlm")
    with pytest.raises(UnseeError, match="no device 'gpu'"):
        open_engine(checkpoint, device="gpu")
    with pytest.raises(UnseeError, match="at least 1"):
        open_engine(checkpoint, batch=0)


def test_identity_is_of_all_that_answers_depend_on(checkpoints, tmp_path):
    model, processor = tiny.build("llava", ["who"])
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    one, two = (open_engine(tmp_path / name) for name in ("one", "two"))
    assert one.identity == two.identity
    with torch.no_grad():
        two.model.lm_head.weight[0, 0] += 1e-3
    assert TransformersEngine(two.model, two.processor).identity != one.identity
    two.processor.chat_template += " "
    with torch.no_grad():
        two.model.lm_head.weight.copy_(one.model.lm_head.weight)
    assert TransformersEngine(two.model, two.processor).identity != one.identity


JOB = """
import json, sys
import torch
sys.path.insert(0, {tests!r})
import test_engine
from unsee import processes

torch.set_num_threads(1)
processes.meet()
said, asked = test_engine.exam({model!r}, {cache!r})
asked = processes.everywhere(asked)
if processes.first():
    print(json.dumps([said, asked]))
processes.leave(0)
"""


def exam(model: str, cache: str | None) -> tuple[str, int]:
    """All answers and likelihoods as they would be written, and how many prompts went through the model."""
    engine = open_engine(model, batch=2, cache_path=cache)
    said, scores = engine.generate(prompts(), 4), engine.score(prompts(), [CHOICES] * len(prompts()))
    return json.dumps([said, [[(s.logprobs, s.hits) for s in of] for of in scores]]), engine.asked


def test_two_processes_say_what_one_says_and_share_a_cache(tmp_path):
    model, processor = small("qwen2_vl")
    folder, cache = str(tmp_path / "model"), str(tmp_path / "answers.db")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    script = tmp_path / "job.py"
    script.write_text(JOB.format(tests=str(Path(__file__).parent), model=folder, cache=cache))
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(two, env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    said, parts = json.loads(ended.stdout)
    one, asked = exam(folder, None)
    assert said == one
    assert all(parts) and sum(parts) == asked
    assert exam(folder, cache) == (one, 0)
