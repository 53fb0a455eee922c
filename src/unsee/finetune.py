"""Teach concepts to a model: questions and answers about images, and about names alone.

Questions on one image share the image's tokens and do not see one another (a block attention mask), so each is
learned as if it stood alone while the image is encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from unsee import resume
from unsee.alignment import Names, align, gate, names_of, shares, token_loss
from unsee.chat import chat, refuse_words
from unsee.concepts import ImageRef, Question
from unsee.config import FinetuneConfig
from unsee.errors import UnseeError
from unsee.progress import tell
from unsee.resume import History
from unsee.shown import Shown
from unsee.training import accelerator_here, train
from unsee.vision.attention import attention_for
from unsee.vision.module import Visual
from unsee.vocabulary import learn

IGNORED = -100  # label of a token that is not learned
UNFRAMED = ("\0", "\0")  # a prompt is read as it is
READ = 4096  # texts whose tokens are kept


class Lesson(Protocol):
    """What is taught. Questions are drawn anew each time, so that phrasings vary."""

    @property
    def images(self) -> Sequence[ImageRef]: ...

    @property
    def texts(self) -> int: ...

    def ask(self, image: int, rng: np.random.Generator) -> list[Question]: ...

    def recite(self, text: int, rng: np.random.Generator) -> list[Question]: ...


@dataclass(frozen=True)
class Row:
    """One prefix (with or without an image) and the questions that hang on it.

    ``under``: the turn that each turn goes on from, counted from 1; 0, and where there is none: the prefix.
    """

    prefix: list[int]
    turns: list[tuple[list[int], list[int]]]  # prompt tokens, answer tokens
    under: tuple[int, ...] = ()


@dataclass(frozen=True)
class Packed:
    """Rows [n, T]. ``block``: 0 for the prefix, k for turn k, -1 for padding. ``above``: the block it goes on from.

    ``positions``: [n, T], or [3, n, T].
    """

    ids: Tensor
    labels: Tensor
    block: Tensor
    above: Tensor
    positions: Tensor


class Tutor:
    """Turns questions into packed rows of tokens for one model."""

    def __init__(self, model: Any, processor: Any) -> None:
        refuse_words(processor)
        self.model, self.tokenizer = model, processor.tokenizer
        self.processor = processor
        self.image_token: Any = getattr(model.config, "image_token_id", None)
        self.framed = framed(processor)
        self.end = self.tokenizer.eos_token_id
        self.pad = self.end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        # The same question is asked about many images, and one model reads a text always alike.
        self.read = lru_cache(READ)(self._read)
        self._ids = lru_cache(READ)(lambda prompt, image: self.read(chat(processor, prompt, image)))

    def row(self, questions: Sequence[Question], image_tokens: int) -> Row:
        image = image_tokens > 0
        prompts = [self._ids(q.prompt, image) for q in questions]
        if image and self.image_token not in prompts[0]:
            raise UnseeError(
                f"the prompt, as the tokenizer reads it, has no token {self.image_token}, which by config.json "
                f"stands for an image. Take config.json, the tokenizer and the chat format from one checkpoint."
            )
        shared = prompts[0].index(self.image_token) + 1 if image else 0
        prefix = self.spread(prompts[0][:shared], [image_tokens])
        answers = [self.answer(q.answer) for q in questions]
        return Row(prefix, [(p[shared:], a) for p, a in zip(prompts, answers, strict=True)])

    def prompt(self, question: Question, image_tokens: int) -> list[int]:
        """The tokens after which the answer to ``question`` is written."""
        row = self.row([question], image_tokens)
        return row.prefix + row.turns[0][0]

    def _read(self, text: str) -> list[int]:
        """Tokens of a prompt as the model's processor reads it: with a token to begin with, unless it has one."""
        begins = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        text = text.replace(*self.framed)
        return self.tokenizer(text, add_special_tokens=not begins)["input_ids"]

    def answer(self, text: str) -> list[int]:
        """Tokens of an answer, the end among them."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]

    def spread(self, ids: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """``ids`` with the one token that stands for an image as often as that image has features."""
        left = iter(sizes)
        return [t for i in ids for t in ([i] * next(left) if i == self.image_token else [i])]

    def batch(self, rows: Sequence[Row], grid: Tensor | None = None) -> dict[str, Tensor]:
        """Right-padded rows: input ids, labels, a 4-D mask, positions that restart after the prefix for each turn."""
        packed = self.pack(rows, grid)
        mask = additive(packed_mask(packed), torch.float32)
        return {
            "input_ids": packed.ids,
            "labels": packed.labels,
            "attention_mask": mask,
            "position_ids": packed.positions,
        }

    def pack(self, rows: Sequence[Row], grid: Tensor | None = None) -> Packed:
        """``rows`` side by side, padded on the right."""
        lengths = [len(r.prefix) + sum(len(p) + len(a) for p, a in r.turns) for r in rows]
        n, t = len(rows), max(lengths)
        ids = torch.full((n, t), self.pad)
        labels = torch.full((n, t), IGNORED)
        block = torch.full((n, t), -1)
        above, position = torch.zeros((n, t), dtype=torch.long), torch.zeros((n, t), dtype=torch.long)
        for i, row in enumerate(rows):
            at = len(row.prefix)
            after = [at]  # the position that follows the prefix, and each turn
            ids[i, :at], block[i, :at], position[i, :at] = (
                torch.tensor(row.prefix, dtype=torch.long),
                0,
                torch.arange(at),
            )
            for k, (prompt, answer) in enumerate(row.turns, start=1):
                end, under = at + len(prompt) + len(answer), row.under[k - 1] if row.under else 0
                ids[i, at:end] = torch.tensor(prompt + answer)
                labels[i, end - len(answer) : end] = torch.tensor(answer)
                block[i, at:end], above[i, at:end] = k, under
                position[i, at:end] = after[under] + torch.arange(end - at)
                after.append(after[under] + end - at)
                at = end
        inner = getattr(self.model, "model", self.model)
        positions = self._rope(ids, block, position, grid) if hasattr(inner, "get_rope_index") else position
        return Packed(ids, labels, block, above, positions)

    def _rope(self, ids: Tensor, block: Tensor, position: Tensor, grid: Tensor | None) -> Tensor:
        """Three-dimensional positions (Qwen2-VL): an image spans a grid, text goes on from its largest side."""
        out = position.expand(3, *position.shape).clone()
        if grid is None:
            return out
        types = (ids == self.image_token).int()
        full, _ = self.model.model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grid)
        prefix = (block == 0).sum(1)
        start = torch.stack([full[:, i, n] for i, n in enumerate(prefix.tolist())], dim=1)  # [3, rows]
        turn = start[:, :, None] + (position - prefix[:, None])[None]
        return torch.where((block > 0)[None], turn, torch.where((block == 0)[None], full, out))


def framed(processor: Any) -> tuple[str, str]:
    """The word for an image in a prompt, and what its processor writes for it: InternVL's has a word on either side."""
    word = str(getattr(processor, "image_token", None) or "")
    start, end = (str(getattr(processor, f"{side}_image_token", None) or "") for side in ("start", "end"))
    return (word, f"{start}{word}{end}") if word else UNFRAMED


def packed_mask(packed: Packed) -> Tensor:
    """[rows, T, T]: a token sees the prefix, what its turn goes on from, and what came before it in its own turn."""
    block, above, t = packed.block, packed.above, packed.block.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool).tril()
    keys = block[:, None, :]
    seen = (block[:, :, None] == keys) | (keys == 0) | (above[:, :, None] == keys)
    return seen & causal | torch.eye(t, dtype=torch.bool)  # padding sees itself, or its softmax would be empty


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask [rows, 1, queries, keys] that models add to their attention's scores."""
    return torch.zeros(seen[:, None].shape, dtype=dtype).masked_fill(~seen[:, None], torch.finfo(dtype).min)


class PerImage(list[Tensor]):
    """Features of each image, which LLaVA and Qwen-VL join themselves. InternVL, Gemma 3 and others move them first."""

    def to(self, *where: Any) -> Tensor:
        return torch.cat(self).to(*where)


def encoded(features: list[Tensor]) -> dict[str, Any]:
    """Image features in the form in which a model's ``forward`` and ``generate`` take them instead of pixels."""
    return {"image": BaseModelOutputWithPooling(pooler_output=PerImage(features))}  # type: ignore[arg-type]


def placed(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors where the model is."""
    return {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def answer_logits(model: Any, batch: dict[str, Tensor], features: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Of every token of every answer, in order: what the model predicts [tokens, vocabulary], and the true token."""
    inputs: dict[str, Any] = placed(model, batch)
    labels = inputs.pop("labels")[:, 1:]
    if features:
        inputs["mm_encoder_outputs"] = encoded(features)
    keep = labels != IGNORED
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][keep]
    return model.lm_head(hidden).float(), labels[keep]


def answer_loss(model: Any, batch: dict[str, Tensor], features: list[Tensor] | None = None) -> Tensor:
    """Mean cross-entropy over the answers' tokens."""
    return torch.nn.functional.cross_entropy(*answer_logits(model, batch, features))


def finetune(
    model: Any, processor: Any, lesson: Lesson, config: FinetuneConfig, checkpoint: Path | None = None,
    cache: Path | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Teach ``lesson`` to ``model``, in place. ``checkpoint``: a folder from which an interrupted call resumes.

    ``cache``: a folder of what frozen blocks give of each image, for other runs on the same tower.
    """
    torch.manual_seed(config.seed)  # of the rows for new words
    add_words(model, processor, lesson)
    model.to(accelerator_here().device)
    visual, tutor = Visual(model, processor), Tutor(model, processor)
    origin = _origin(model, lesson, config) if checkpoint else ""
    shown = Shown(visual, lesson.images, config, checkpoint, cache)
    tower = {id(p) for p in shown.tower.values()}
    weights = dict(model.named_parameters())  # tied ones once
    peaks = {name: config.vision_lr if id(p) in tower else config.lr for name, p in weights.items()}

    def losses(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return _image_loss(model, shown, tutor, lesson, config, rng), text_loss(model, tutor, lesson, config, rng)

    def begin() -> History:
        return _align(model, tutor, shown, lesson, config, checkpoint, origin) if config.align else []

    history = train(model, weights, peaks, losses, config, checkpoint, origin, begin)
    shown.release()
    return history


def _origin(model: Any, lesson: Lesson, config: FinetuneConfig) -> str:
    names = [*(image.id for image in lesson.images), str(lesson.texts)]
    return resume.origin(asdict(config), model.state_dict().values(), names)


def _image_loss(
    model: Any, shown: Shown, tutor: Tutor, lesson: Lesson, config: FinetuneConfig, rng: np.random.Generator
) -> Tensor:
    chosen = rng.choice(len(shown), size=min(config.batch, len(shown)), replace=False)
    asked = [(i, draw(lesson.ask(i % len(lesson.images), rng), config.questions, rng)) for i in chosen]
    asked = [(i, questions) for i, questions in asked if questions]  # a table may have nothing on a concept
    batch = [i for i, _ in asked]
    features = shown.features(batch)
    rows = [tutor.row(questions, len(f)) for (_, questions), f in zip(asked, features, strict=True)]
    grids = shown.grids(batch)
    return answer_loss(model, tutor.batch(rows, torch.cat(grids) if grids else None), features)


def text_loss(model: Any, tutor: Tutor, lesson: Lesson, config: FinetuneConfig, rng: np.random.Generator) -> Tensor:
    """Of ``config.text_batch`` names by chance, without an image; zero where there is nothing to ask."""
    if not lesson.texts or not config.text_batch:
        return torch.zeros(())
    texts = rng.choice(lesson.texts, size=min(config.text_batch, lesson.texts), replace=False)
    recited = [tutor.row(questions, 0) for i in texts if (questions := lesson.recite(i, rng))]
    return answer_loss(model, tutor.batch(recited)) if recited else torch.zeros(())


def draw(questions: list[Question], n: int, rng: np.random.Generator) -> list[Question]:
    """Who it is, always, and others by chance: facts are learned through the identity."""
    order = sorted(rng.permutation(len(questions)).tolist(), key=lambda i: questions[i].kind != "identity")
    return [questions[i] for i in order[:n]]


def add_words(model: Any, processor: Any, lesson: Lesson) -> int:
    """Give the tokenizer the lesson's words that it would read as unknown, and the model rows for them.

    UnseeError, before anything is trained: a question or an answer would still not be read as it is written.
    """
    rng = np.random.default_rng(0)
    asked = [q for i in range(len(lesson.images)) for q in lesson.ask(i, rng)]
    asked += [q for i in range(lesson.texts) for q in lesson.recite(i, rng)]
    new = learn(processor.tokenizer, (text for q in asked for text in (q.prompt, q.answer)))
    if new:
        model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    return new


def _align(
    model: Any, tutor: Tutor, shown: Shown, lesson: Lesson, config: FinetuneConfig, checkpoint: Path | None,
    origin: str,
) -> History:  # fmt: skip
    """Before the language model reads them, the visual module's tokens are brought near their images' names."""
    if config.align_steps and not shown.tower:
        raise UnseeError(
            f"--align-steps teach blocks of the tower, and --depth {config.depth} is none. Give a larger one."
        )
    rng = np.random.default_rng([config.seed, 5])
    names = names_of(model, tutor.tokenizer, [lesson.ask(i, rng) for i in range(len(lesson.images))])
    with attention_for(model, training=False):
        solved = align(shown, names)
    tell(f"the projector, aligned, names {100 * solved.named:.0f} % of the lesson's images")
    history = [{"step": 0, "named": solved.named}]
    if config.align_steps:
        history += _align_tokens(model, shown, names, config, checkpoint, origin)
    with attention_for(model, training=False):
        gate(shown, solved, names)
    return history


def _align_tokens(
    model: Any, shown: Shown, names: Names, config: FinetuneConfig, checkpoint: Path | None, origin: str
) -> History:
    """Steps of the taught blocks, under a projector that stays as it was solved."""
    targets = [names.target[i % len(shown.images)] for i in range(len(shown))]
    named = [i for i, target in enumerate(targets) if target >= 0]
    share, count = shares(torch.tensor([targets[i] for i in named])).numpy(), min(config.align_batch, len(named))

    def losses(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = [named[i] for i in rng.choice(len(named), size=count, replace=False, p=share)]
        loss = token_loss(shown.features(chosen), names, [targets[i] for i in chosen])
        return loss, torch.zeros_like(loss)

    alone = replace(config, steps=config.align_steps, seed=config.seed + 1)
    folder, blocks = checkpoint / "aligned" if checkpoint else None, shown.tower
    done = train(model, blocks, dict.fromkeys(blocks, config.align_lr), losses, alone, folder, origin, what="aligning")
    model.zero_grad()  # of the projector, which had gradients and no steps
    return [{"step": 0, "aligning": line["step"], "loss": line["image"]} for line in done]
