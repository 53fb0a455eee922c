"""The same engine on vLLM (the extra ``unsee[vllm]``), which batches and shares images and prefixes by itself.

Written from the code of vLLM's offline API (``LLM.generate``, ``TokensPrompt``, ``prompt_logprobs``) and tested against
a stand-in with its signatures. Nothing was run on vLLM itself. Unlike the other engine's, its answers may differ in
their last bits from one run to the next, so that only those from the cache are the same to the byte.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from unsee import processes
from unsee.errors import UnseeError
from unsee.evaluation.cache import Cache, key
from unsee.evaluation.engine import Batched, Scored, processor_text
from unsee.evaluation.pictures import Album
from unsee.evaluation.rounds import Ask
from unsee.files import sha256
from unsee.finetune import UNFRAMED, Tutor
from unsee.vision.checkpoint import Checkpoint, readable
from unsee.vision.folder import INDEX, SINGLE

BATCH = 256  # prompts handed over at once, and kept in the cache together
IMAGES = 16  # of one prompt: examples of MLLMU-Bench have eight or so


def vllm_module() -> Any:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        import vllm
    except ImportError as error:
        raise UnseeError(
            "the backend vllm needs vLLM, which is not installed. Install it on a machine with a GPU: "
            "pip install 'unsee[vllm]'. Or take the backend transformers."
        ) from error
    return vllm


class VllmEngine(Batched):
    """Asks the checkpoint that ``llm`` has loaded, which reads a prompt anew for each answer that is scored.

    ``asked``: prompts that were handed to it.
    """

    batch = BATCH

    def __init__(self, llm: Any, checkpoint: Checkpoint, processor: Any, cache: Cache | None = None) -> None:
        self.vllm, self.llm, self.checkpoint, self.cache = vllm_module(), llm, checkpoint, cache
        self.tutor, self.album = Tutor(checkpoint, processor), Album()
        self.tutor.framed = UNFRAMED  # vLLM writes what stands around an image
        self.asked = 0

    @classmethod
    def open(cls, model: str | Path, revision: str | None, trust: bool, cache: Cache | None) -> VllmEngine:
        """UnseeError: no vLLM, no such checkpoint, or several processes."""
        vllm = vllm_module()
        if processes.asked() > 1:
            raise UnseeError("vLLM shares its work out by itself. Run the command without torchrun.")
        checkpoint = Checkpoint.open(model, revision, trust)
        checkpoint.complete()
        if not checkpoint.index and (checkpoint.folder / INDEX).is_file():
            raise UnseeError(
                f"'{model}' holds two sets of weights: transformers loads {SINGLE}, and vLLM what {INDEX} names. Move "
                f"the one away that is not to be asked."
            )
        folder = str(checkpoint.folder)
        with readable(model):
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
            llm = vllm.LLM(model=folder, trust_remote_code=trust, seed=0, limit_mm_per_prompt={"image": IMAGES})
        return cls(llm, checkpoint, processor, cache)

    @cached_property
    def identity(self) -> str:
        """Hash of the checkpoint's files, its configuration and vLLM's version."""
        files = sorted(set(self.checkpoint.shards.values()))
        weights = [[file, sha256(self.checkpoint.folder / file)] for file in files]
        settings = [self.checkpoint.config.to_json_string(), self._penalty, processor_text(self.tutor.processor)]
        return key("vllm", self.vllm.__version__, weights, settings)

    @property
    def _penalty(self) -> float:
        """For words said before, where the checkpoint asks for one: as transformers has it in greedy answers too."""
        return float(self.llm.get_default_sampling_params().repetition_penalty)

    def _generate(self, tokens: int, part: list[Ask]) -> list[str]:
        params = self.vllm.SamplingParams(temperature=0.0, max_tokens=tokens, repetition_penalty=self._penalty)
        return [out.outputs[0].text.strip() for out in self._run([self._prompt(ask) for ask in part], params)]

    def _score(self, part: list[Ask]) -> list[list[Scored]]:
        if any(ask.early for ask in part):
            raise UnseeError(
                "CLEAR's own code scores the image's tokens too in this chat format, which vLLM does not tell. "
                "Take --backend transformers, or leave --original out."
            )
        pairs = [(ask, self.tutor.answer(answer)[:-1]) for ask in part for answer in ask.scored]
        params = self.vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
        outs = iter(self._run([self._prompt(ask, tokens) for ask, tokens in pairs if tokens], params))
        turns = iter([_likelihood(next(outs), tokens) if tokens else ([], [], []) for _, tokens in pairs])
        return [[next(turns) for _ in ask.answers] for ask in part]

    def _prompt(self, ask: Ask, answer: Sequence[int] = ()) -> dict[str, Any]:
        """vLLM's TokensPrompt: one token for the image, which vLLM repeats as often as the model wants it."""
        prompt: dict[str, Any] = {"prompt_token_ids": [*self.tutor.read(ask.text), *answer]}
        if ask.pictures:
            prompt["multi_modal_data"] = {"image": self.album.open(ask.pictures)}
        return prompt

    def _run(self, prompts: list[dict[str, Any]], params: Any) -> list[Any]:
        self.asked += len(prompts)
        return list(self.llm.generate(prompts, params, use_tqdm=False)) if prompts else []


def _likelihood(out: Any, tokens: Sequence[int]) -> Scored:
    """Of the prompt's last tokens, which are the answer's. vLLM tells each token's rank, from 1, but not the spread."""
    told = [place[token] for place, token in zip(out.prompt_logprobs[-len(tokens) :], tokens, strict=True)]
    return [one.logprob for one in told], [one.rank == 1 for one in told], []
