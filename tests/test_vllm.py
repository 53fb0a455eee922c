"""The engine on vLLM, against a stand-in: a module with the signatures of vLLM's offline API, answered by transformers.

It shows that prompts are put as vLLM takes them and that what it gives is read right, not that vLLM gives it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from unsee.errors import UnseeError
from unsee.evaluation.ask import Prompt
from unsee.evaluation.engine import TransformersEngine, open_engine
from unsee.evaluation.plain import Drawn
from unsee.vision.module import load_full

OPTIONS = ["unknown", "who is", "", "a"]


@dataclass
class SamplingParams:
    """vllm.SamplingParams: the fields that are used, with vLLM's defaults."""

    temperature: float = 1.0
    max_tokens: int | None = 16
    prompt_logprobs: int | None = None
    repetition_penalty: float = 1.0


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[Any] = field(default_factory=list)


class LLM:
    """vllm.LLM: takes one token for an image and repeats it, gives log-probabilities of the prompt from the second."""

    made: list[LLM] = []

    def __init__(self, model: str, *, trust_remote_code: bool = False, seed: int = 0, **settings: Any) -> None:
        assert settings == {"limit_mm_per_prompt": {"image": 16}}
        self.model, self.processor = load_full(model)
        self.prompts = 0
        LLM.made.append(self)

    def get_default_sampling_params(self) -> SamplingParams:
        return SamplingParams()

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None, priority=None):
        assert isinstance(sampling_params, SamplingParams) and sampling_params.temperature == 0 and use_tqdm is False
        self.prompts += len(prompts)
        return [self._one(prompt, sampling_params) for prompt in prompts]

    @torch.no_grad()
    def _one(self, prompt: dict[str, Any], params: SamplingParams) -> RequestOutput:
        assert set(prompt) <= {"prompt_token_ids", "multi_modal_data"}
        tok, images = self.processor.tokenizer, prompt.get("multi_modal_data", {}).get("image")
        text = tok.decode(prompt["prompt_token_ids"])
        if hasattr(self.model.model, "rope_deltas"):
            self.model.model.rope_deltas = None
        inputs = self.processor(text=[text], images=None if images is None else [images], return_tensors="pt")
        ids = inputs["input_ids"]
        out = self.model.generate(**inputs, max_new_tokens=params.max_tokens, do_sample=False)[0, ids.shape[1] :]
        told = None
        if params.prompt_logprobs is not None:
            logits = self.model(**inputs).logits[0].log_softmax(-1)
            told = [None, *(self._place(row, int(i)) for row, i in zip(logits[:-1], ids[0, 1:], strict=True))]
        said = SimpleNamespace(text=" " + tok.decode(out, skip_special_tokens=True))
        return RequestOutput(ids[0].tolist(), told, [said])

    def _place(self, row: torch.Tensor, token: int) -> dict[int, Logprob]:
        best = int(row.argmax())
        return {i: Logprob(row[i].item(), int((row > row[i]).sum()) + 1) for i in (best, token)}


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__version__ = LLM, SamplingParams, "0.0-stand-in"
    monkeypatch.setitem(sys.modules, "vllm", module)


def prompts() -> list[Prompt]:
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), dtype=np.uint8)
    shots = [Drawn(f"{i}", PIL.Image.fromarray(n)) for i, n in enumerate(noise)]
    found = [Prompt(w, shot) for shot in shots for w in ("who is this ?", "is this a b ?")]
    return [*found, Prompt("who ?"), Prompt("<image> who ?", shots[0], raw=True), found[0]]


def test_it_says_what_the_other_engine_says(stand_in, checkpoint, tmp_path):
    engine = open_engine(checkpoint, backend="vllm", cache_path=tmp_path / "a.db")
    other = TransformersEngine(*load_full(checkpoint))
    said, scores = engine.generate(prompts(), 3), engine.score(prompts(), [OPTIONS] * len(prompts()))
    assert said == other.generate(prompts(), 3)
    for ours, theirs in zip(scores, other.score(prompts(), [OPTIONS] * len(prompts())), strict=True):
        assert [a.hits for a in ours] == [b.hits for b in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    once = len(prompts()) - 1
    assert LLM.made[-1].prompts == engine.asked == once + once * 3
    again = open_engine(checkpoint, backend="vllm", cache_path=tmp_path / "a.db")
    assert again.generate(prompts(), 3) == said and again.score(prompts(), [OPTIONS] * len(prompts())) == scores
    assert again.asked == 0 and again.identity != other.identity


def test_without_vllm_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UnseeError, match=r"pip install 'unsee\[vllm\]'"):
        open_engine(checkpoint, backend="vllm")


def test_it_runs_in_one_process(stand_in, checkpoint, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnseeError, match="without torchrun"):
        open_engine(checkpoint, backend="vllm")
