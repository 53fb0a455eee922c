"""The engine that answers with transformers: in batches, each image encoded once, all options of a question at once.

Where a model cannot be asked so (``plain.agrees``), it is asked one prompt at a time. On several processes (torchrun)
each does a part, and all have all answers: the same to the byte as one process has.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from torch import Tensor

from unsee.errors import UnseeError, nearest
from unsee.evaluation.answer import greedy, likelihoods
from unsee.evaluation.ask import Engine, Likelihood, Prompt
from unsee.evaluation.cache import Cache, key
from unsee.evaluation.pictures import Album, Encoded, Encoder
from unsee.evaluation.plain import Plain, agrees, ending, packed_rows, shown, sizes, worded
from unsee.evaluation.reading import read
from unsee.evaluation.rounds import Ask, answered
from unsee.finetune import Tutor
from unsee.progress import say
from unsee.vision.module import Visual, load_full
from unsee.vision.patch import fingerprint

Backend = Literal["transformers", "vllm"]
Scored = tuple[list[float], list[bool], list[float]]  # of one answer, as ``Likelihood`` has them
BATCH = 32


def open_engine(
    model: str | Path,
    revision: str | None = None,
    trust: bool = False,
    backend: str = "transformers",
    device: str = "cpu",
    cache_path: str | Path | None = None,
    batch: int = BATCH,
) -> Engine:
    """The engine of the checkpoint ``model``, a folder or a hub name.

    ``cache_path``: a file of answers, made where it is not there. On a GPU weights stay in the checkpoint's own dtype,
    elsewhere they are float32. UnseeError: no such model, backend, device.
    """
    if backend not in get_args(Backend):
        raise UnseeError(f"backend '{backend}'. {nearest(backend, get_args(Backend))}")
    if batch < 1:
        raise UnseeError(f"batch {batch}: it must be at least 1.")
    store = Cache(cache_path) if cache_path else None
    if backend == "vllm":
        from unsee.evaluation.vllm_engine import VllmEngine

        return VllmEngine.open(model, revision, trust, store)
    where = place(device)
    full, processor = load_full(model, "auto" if where.type == "cuda" else torch.float32, revision, trust)
    return TransformersEngine(full.to(where), processor, store, batch)


def place(device: str) -> torch.device:
    """``device``, which is there. UnseeError: it is not."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # Assertion: torch that was built without CUDA
        raise UnseeError(
            f"no device '{device}' here: {str(error).splitlines()[0]} Give cpu, cuda or cuda:1."
        ) from error
    return found


class Batched(ABC):
    """What engines share: prompts become asks, once each, in batches; answers come from the cache or from the model."""

    tutor: Tutor
    album: Album
    cache: Cache | None
    batch: int

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hash of all that the answers depend on, beside the prompts."""

    def generate(self, prompts: Sequence[Prompt], tokens: int) -> list[str]:
        """The greedy answer to each prompt, of at most so many tokens, stripped of blanks around it."""
        work = partial(self._generate, tokens)
        return self._ask(f"asking, {tokens} tokens", prompts, [()] * len(prompts), work)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]) -> list[list[Likelihood]]:
        """Of each prompt, how likely each of its ``answers`` is."""
        found = self._ask("scoring", prompts, [tuple(of) for of in answers], self._score)
        return [[Likelihood(*map(tuple, turn)) for turn in turns] for turns in found]

    def _ask(self, title: str, prompts: Sequence[Prompt], answers: Sequence[tuple[str, ...]], work: Any) -> list[Any]:
        asks = asks_of(self.tutor, self.album, prompts, answers)
        return answered(asks, self.batch, partial(self._work, work), self.cache, lambda: self.identity, title)

    def _work(self, work: Any, part: list[Ask]) -> list[Any]:
        return list(work(part))

    @abstractmethod
    def _generate(self, tokens: int, part: list[Ask]) -> list[str]: ...

    @abstractmethod
    def _score(self, part: list[Ask]) -> list[list[Scored]]: ...


class TransformersEngine(Batched):
    """Asks ``model``, which stays as it is meanwhile.

    ``asked``: prompts that went through the model. ``encoded``: images that went through its vision tower, once each
    as long as their features have room (``pictures.ROOM``). Both are of this process.
    All answers to a prompt are scored in one forward pass.
    """

    def __init__(self, model: Any, processor: Any, cache: Cache | None = None, batch: int = BATCH) -> None:
        self.model, self.processor = model.eval(), processor
        self.cache, self.batch = cache, batch
        self.plain, self.album = Plain(model, processor), Album()
        self.tutor = self.plain.tutor
        self.asked = 0

    @cached_property
    def identity(self) -> str:
        """Hash of weights, configurations, tokenizer, device and versions.

        The weights are those in memory, whatever file they came from and what was done to them since: hashed anew for
        each engine, because names, times and sizes of files say nothing sure of what is in them.
        """
        state = self.model.state_dict()
        return key(
            [fingerprint(state), sorted({f"{t.dtype}" for t in state.values()})],
            self.model.config.to_json_string(),
            self.model.generation_config.to_json_string(),
            processor_text(self.processor),
            [self.model.device.type, torch.__version__, transformers.__version__],
        )

    @property
    def encoded(self) -> int:
        return self._encoder.count if self._encoder else 0

    @torch.no_grad()
    def _work(self, work: Any, part: list[Ask]) -> list[Any]:
        self.asked += len(part)
        try:
            return list(work(part))
        except torch.OutOfMemoryError as error:
            raise UnseeError(f"no memory for {len(part)} prompts at once. Lower --batch (now {self.batch}).") from error

    def _generate(self, tokens: int, part: list[Ask]) -> list[str]:
        if self._packs:
            return self._packed(tokens, part)
        if part[0].pictures and not self._pads:
            return [self.plain.generate(ask.text, self.album.open(ask.pictures), tokens) for ask in part]
        seen = self._seen(part)
        spans = [sizes(of) for of in seen] or [[] for _ in part]
        rows = [self.tutor.spread(self.tutor.read(ask.text), of) for ask, of in zip(part, spans, strict=True)]
        return greedy(self.model, self.tutor, rows, *shown(self.model, seen), tokens)

    def _packed(self, tokens: int, part: list[Ask]) -> list[str]:
        texts, names = [ask.text for ask in part], [",".join(ask.pictures) for ask in part]
        rows, order, images = packed_rows(self.tutor, texts, names, self._seen(part))
        said = dict(zip(order, read(self.model, self.tutor, rows, *shown(self.model, images), tokens), strict=True))
        return [said[i] for i in range(len(part))]

    def _score(self, part: list[Ask]) -> list[list[Scored]]:
        if not self._scores:
            return [self._one_by_one(ask) for ask in part]
        full = [i for i, ask in enumerate(part) if ask.answers and not ask.early]
        asks = [part[i] for i in full]
        found = [self._one_by_one(ask) if ask.early else [] for ask in part]
        if not asks:
            return found
        texts, names = [ask.text for ask in asks], [",".join(ask.pictures) for ask in asks]
        answers = [[self.tutor.answer(answer) for answer in ask.scored] for ask in asks]
        rows, order, images = packed_rows(self.tutor, texts, names, self._seen(asks), answers)
        turns = [t for of in likelihoods(self.model, self.tutor, rows, *shown(self.model, images)) for t in of]
        for i, turn in zip(order, turns, strict=True):
            if i >= 0:
                found[full[i]].append(_listed(*(of[:-1] for of in turn)))
        return found

    def _one_by_one(self, ask: Ask) -> list[Scored]:
        images = self.album.open(ask.pictures)
        return [_listed(*self.plain.score(ask.text, images, answer, ask.early)) for answer in ask.scored]

    def _seen(self, part: list[Ask]) -> list[list[Encoded]]:
        """Of the images of each ask of a batch, in which all have them or none has."""
        pictures = [self.album[digest] for ask in part for digest in ask.pictures]
        if not self._encoder or not pictures:
            return []
        found = iter(self._encoder.encode(pictures))
        return [[next(found) for _ in ask.pictures] for ask in part]

    @cached_property
    def _encoder(self) -> Encoder | None:
        try:
            return Encoder(Visual(self.model, self.processor))
        except UnseeError:  # no get_image_features
            return None

    @cached_property
    def _packs(self) -> bool:
        """Whether questions side by side in one row are answered as each alone is."""
        return agrees(self.plain, self._other_encoder, "packed")

    @cached_property
    def _pads(self) -> bool:
        """Whether features computed apart give the answers that pixels give."""
        return self._told("padded", "each question is asked alone, with its image's pixels")

    @cached_property
    def _scores(self) -> bool:
        """Whether answers side by side in one row are scored as each alone is."""
        return self._told("scores", "each answer is scored alone, with its image's pixels")

    def _told(self, way: str, otherwise: str) -> bool:
        able = agrees(self.plain, self._other_encoder, way)
        if not able:
            say(f"a {self.model.config.model_type} cannot be asked the fast way: {otherwise}")
        return able

    @cached_property
    def _other_encoder(self) -> Encoder | None:
        """For what is drawn to check the model, which counts nowhere."""
        return Encoder(self._encoder.visual) if self._encoder else None


def asks_of(tutor: Tutor, album: Album, prompts: Sequence[Prompt], answers: Sequence[tuple[str, ...]]) -> list[Ask]:
    """``prompts`` as the model reads them; their images are opened, and known in ``album`` from now on."""
    pictures = iter(album.add([image for p in prompts for image in p.images]))
    size = cache(partial(image_tokens, tutor.processor))
    texts: dict[tuple[str, bool, bool, int], str] = {}  # many prompts differ by their image alone
    behind = cache(partial(ending, tutor.processor))
    asks = []
    for prompt, of in zip(prompts, answers, strict=True):
        shown = [next(pictures) for _ in prompt.images]
        words = (prompt.text, prompt.raw, prompt.bare, len(shown))
        text = texts[words] if words in texts else texts.setdefault(words, worded(tutor.processor, prompt))
        length = len(tutor.read(text)) + sum(len(tutor.answer(a)) for a in of) + sum(size(p.size) for p in shown)
        how = (behind(prompt.end), prompt.early) if of else ("", False)
        asks.append(Ask(text, tuple(p.digest for p in shown), of, length, *how))
    return asks


def _listed(scores: Tensor, hits: Tensor, scaled: Tensor) -> Scored:
    return scores.tolist(), hits.tolist(), scaled.tolist()


def image_tokens(processor: Any, size: tuple[int, int]) -> int:
    """How many tokens an image of this width and height takes, where the processor can tell; only to sort by."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)  # which vLLM asks too
    return int(count(image_sizes=[(size[1], size[0])])["num_image_tokens"][0]) if count else 0


def processor_text(processor: Any) -> list[Any]:
    """All that decides how text and images become numbers."""
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
    return [words, json.loads(processor.to_json_string()), processor.chat_template or tokenizer.chat_template]
