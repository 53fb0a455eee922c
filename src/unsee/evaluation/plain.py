"""The slow way to ask, which every model takes: the processor's own inputs, one prompt at a time.

It also says whether a model may be asked the fast way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from unsee.chat import chat, template_of
from unsee.errors import UnseeError
from unsee.evaluation.answer import likelihoods, padded, scaled
from unsee.evaluation.ask import End, Prompt
from unsee.evaluation.pictures import Encoded, Encoder, Picture
from unsee.evaluation.reading import Reader, shared_rows
from unsee.finetune import Row, Tutor, placed
from unsee.vision.families import family_of
from unsee.vision.processor import asked_of, first_line

ANSWER = "answered"  # a word that no chat format has
MARK = "<image>"  # where the image stands in a raw prompt, whatever the model's own word for it
GROWING = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")
CHECKED = ("What is this ?", "What can be seen in this picture ? Answer in one word .")
OPTIONS = ("a cat", "the house of a friend", "no")
# What families raise that do not take image features, or a mask of blocks, or whose processor cuts images its own way.
UNABLE = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


def worded(processor: Any, prompt: Prompt) -> str:
    """The text that the model reads for ``prompt``, with its own word where the image stands."""
    images = prompt.images
    if prompt.bare:
        return _bare(processor, prompt.text)
    if not prompt.raw:
        return chat(processor, prompt.text, bool(images))
    if prompt.text.count(MARK) != len(images) or prompt.text.rstrip().endswith(MARK):
        raise UnseeError(
            f"a raw prompt has {MARK} {prompt.text.count(MARK)} time(s) and {len(images)} image(s): "
            f"'{prompt.text[:80]}'. It takes {MARK} for each image, and words after the last."
        )
    return prompt.text.replace(MARK, _own_mark(processor)) if images else prompt.text


def _bare(processor: Any, text: str) -> str:
    """The chat format with an image, up to the answer, decoded without its special tokens."""
    tokenizer, (before, _) = processor.tokenizer, _around(processor)
    ids = tokenizer(chat(processor, text, True), add_special_tokens=False)["input_ids"]
    return f"{tokenizer.decode(ids, skip_special_tokens=True)}{before}"


def ending(processor: Any, end: End) -> str:
    """What is scored behind an answer; see ``Prompt.end``."""
    token: str = processor.tokenizer.eos_token
    written = _around(processor)[1] if end and template_of(processor) else token
    if end == "closed":
        return written if written.endswith(token) else written + token
    return {"": "", "token": written.strip() or token, "written": written}[end]


def _around(processor: Any) -> tuple[str, str]:
    """What the chat format writes between a prompt and its answer, and behind the answer."""
    before, _, after = chat(processor, "x", False, ANSWER).rpartition(ANSWER)
    start = chat(processor, "x", False)
    return before.removeprefix(start) if before.startswith(start) else "", after


def _own_mark(processor: Any) -> str:
    """What the chat format puts where an image is: Qwen2-VL's has a word before it and one behind."""
    word: str = processor.image_token
    if not template_of(processor):
        return word
    without, with_image = (chat(processor, "x", image) for image in (False, True))
    start = next(i for i, (a, b) in enumerate(zip(with_image, f"{without}\0", strict=False)) if a != b)
    found = with_image[start : start + len(with_image) - len(without)].strip()
    return found if word in found else word


@contextmanager
def _told() -> Iterator[None]:
    """Within: what a model or its processor raises where its files do not belong together, as one UnseeError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except UNABLE as error:
        raise UnseeError(
            f"the model cannot be asked with its own processor: {first_line(error)}. Take config.json, "
            f"processor_config.json, the tokenizer and the chat format from one checkpoint."
        ) from error


class Plain:
    """Prompts one at a time, each with its image's pixels."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.tutor = model, processor, Tutor(model, processor)
        self.nested = family_of(model.config.model_type).nested
        self.fits = cache(asked_of(model.config, processor).fits)
        if getattr(processor, "patch_size", 0) is None:
            raise UnseeError(
                "processor_config.json has no patch_size, so that it is not known how many tokens an image takes. Copy "
                "the file from the checkpoint that the model was made from, or set it to that of its vision_config."
            )

    def inputs(self, text: str, images: Sequence[PIL.Image.Image]) -> dict[str, Any]:
        bos = self.tutor.tokenizer.bos_token
        special = bos is None or not text.startswith(bos)
        if reason := next((why for image in images if (why := self.fits(image.size))), None):
            raise UnseeError(f"{reason}. Leave it out of the benchmark, or crop it.")
        shown = [list(images)] if self.nested else list(images)
        given = self.processor(
            text=[text], images=shown if images else None, return_tensors="pt", add_special_tokens=special
        )
        dtype = self.model.dtype
        return placed(self.model, {k: v.to(dtype) if _real(v) else v for k, v in given.items()})

    @torch.no_grad()
    @_told()
    def generate(self, text: str, images: Sequence[PIL.Image.Image], tokens: int) -> str:
        inputs = self.inputs(text, images)
        out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        said: str = self.tutor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return said.strip()

    @torch.no_grad()
    @_told()
    def score(
        self, text: str, images: Sequence[PIL.Image.Image], answer: str, early: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each token of ``answer``: log-probability, whether it is the likeliest, and ``answer.scaled``.

        ``early``: see ``Prompt``.
        """
        tokens = torch.tensor(self.tutor.answer(answer)[:-1], dtype=torch.long)
        inputs, n = self.inputs(text, images), len(tokens)
        if n == 0:
            return torch.empty(0), torch.empty(0, dtype=torch.bool), torch.empty(0)
        for name in GROWING:  # the answer's tokens are like the prompt's last, which is text
            if name in inputs:
                more = inputs[name][:, -1:].repeat_interleave(n, dim=1)
                inputs[name] = torch.cat([inputs[name], more], dim=1)
        inputs["input_ids"][0, -n:] = tokens
        if early:
            tokens = inputs["input_ids"][0, len(self.tutor.read(text)) :].cpu()
            n = len(tokens)
        logits = self.model(**inputs, use_cache=False).logits[0, -n - 1 : -1].float().log_softmax(-1).cpu()
        scores = logits[torch.arange(n), tokens]
        return scores, logits.argmax(-1) == tokens, scaled(logits, scores)


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@dataclass(frozen=True)
class Drawn:
    """An image that is there already."""

    id: str
    image: PIL.Image.Image

    def load(self) -> PIL.Image.Image:
        return self.image


def sketches() -> list[Drawn]:
    """Two images of different shape, the same on every machine."""
    rng = np.random.default_rng(0)
    found = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((8, 12), (14, 6))]
    return [
        Drawn(f"{i}", PIL.Image.fromarray(a).resize((a.shape[1] * 16, a.shape[0] * 16))) for i, a in enumerate(found)
    ]


@torch.no_grad()
def agrees(plain: Plain, encoder: Encoder | None, way: str) -> bool:
    """Whether a faster way gives what the plain one gives of two drawn images.

    ``way``: ``packed``, questions on an image in one row; ``padded``, each in its own row of a batch, its image's
    features computed apart; ``scores``, several answers to a question in one row.
    """
    if encoder is None or plain.tutor.image_token is None:
        return False
    drawn = sketches()
    raw = not plain.processor.chat_template
    asked = [Prompt(f"{MARK} {text}" if raw else text, d, raw) for d in drawn for text in CHECKED]
    texts, images = [worded(plain.processor, prompt) for prompt in asked], [[d.image] for d in drawn for _ in CHECKED]
    compare = {"packed": _same_packed, "padded": _same_padded, "scores": _same_scores}[way]
    try:
        seen = [encoder.encode([Picture(d.id, d.image.size, d)]) for d in drawn for _ in CHECKED]
        return compare(plain, texts, images, seen)
    except torch.OutOfMemoryError:  # a RuntimeError too
        raise
    except UNABLE:
        return False


def _same_packed(
    plain: Plain, texts: list[str], images: list[list[PIL.Image.Image]], seen: list[list[Encoded]]
) -> bool:
    """Of the first two tokens, the second after the one that the plain way gives."""
    theirs = [_steps(plain.model, plain.inputs(t, i)) for t, i in zip(texts, images, strict=True)]
    rows, order, first = packed_rows(plain.tutor, texts, [f"{id(e)}" for (e,) in seen], seen)
    reader = Reader(plain.model, plain.tutor, rows, *shown(plain.model, first))
    ours, turns = [reader.logits], [n for n, i in enumerate(order) if len(theirs[i]) > 1]
    if turns:
        ours.append(reader.step(turns, [int(theirs[order[n]][0].argmax()) for n in turns]))
    wanted = [theirs[i][0] for i in order] + [theirs[order[n]][1] for n in turns]
    return _near(torch.cat(ours).cpu(), torch.cat(wanted), plain.model.dtype)


def _same_padded(
    plain: Plain, texts: list[str], images: list[list[PIL.Image.Image]], seen: list[list[Encoded]]
) -> bool:
    """Of the first two tokens, the second only where both ways gave the same first."""
    tutor, model = plain.tutor, plain.model
    rows = [tutor.spread(tutor.read(t), sizes(of)) for t, of in zip(texts, seen, strict=True)]
    ours = _steps(model, padded(model, tutor, rows, *shown(model, seen)))
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        a, b = ours[:, row], _steps(model, plain.inputs(text, image))[:, 0]
        last = min(len(a), len(b)) if a[0].argmax() == b[0].argmax() else 1
        if not _near(a[:last], b[:last], model.dtype):
            return False
    return True


def _steps(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Scores [steps, rows, vocabulary] of at most two greedy steps, after all that the model's own settings change."""
    settings = {"max_new_tokens": 2, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    return torch.stack(model.generate(**inputs, **settings).scores).float().cpu()


def _same_scores(
    plain: Plain, texts: list[str], images: list[list[PIL.Image.Image]], seen: list[list[Encoded]]
) -> bool:
    tutor, model = plain.tutor, plain.model
    options = [[tutor.answer(option) for option in OPTIONS] for _ in texts]
    rows, order, first = packed_rows(tutor, texts, [f"{id(e)}" for (e,) in seen], seen, options)
    turns = [turn for of in likelihoods(model, tutor, rows, *shown(model, first)) for turn in of]
    ours = [scores[:-1] for i, (scores, *_) in zip(order, turns, strict=True) if i >= 0]
    theirs = [plain.score(t, i, option)[0] for t, i in zip(texts, images, strict=True) for option in OPTIONS]
    return _near(torch.cat(ours), torch.cat(theirs), model.dtype)


def _near(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """As far apart as other sums in another order are; a wrong place or a wrong image is much further."""
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
    return bool((a - b).norm() <= tolerance * b.norm())


def sizes(seen: Sequence[Encoded]) -> list[int]:
    """Of a prompt's images, in tokens."""
    return [len(e.features) for e in seen]


def shown(model: Any, seen: Sequence[Sequence[Encoded]]) -> tuple[list[Tensor], list[Tensor]]:
    """Features, and grids where there are any, of the images of each row, as the fast way takes them."""
    every = [e for of in seen for e in of]
    return [e.features.to(model.device) for e in every], [e.grid for e in every if e.grid is not None]


def packed_rows(
    tutor: Tutor,
    texts: Sequence[str],
    names: Sequence[str],
    seen: Sequence[Sequence[Encoded]],
    answers: Sequence[Sequence[list[int]]] | None = None,
) -> tuple[list[Row], list[int], list[Sequence[Encoded]]]:
    """``shared_rows`` of prompts, and the images of each row. ``names``, ``seen``: of each prompt's images, or none."""
    prompts = []
    for n, (text, name) in enumerate(zip(texts, names, strict=True)):
        ids = tutor.spread(tutor.read(text), sizes(seen[n]) if seen else ())
        prompts.append((name, ids, len(ids) - ids[::-1].index(tutor.image_token) if seen else 0))
    rows, order = shared_rows(prompts, answers)
    last = itertools.accumulate(len(row.turns) for row in rows)  # the last turn of a row has a prompt
    return rows, order, [seen[order[end - 1]] for end in last] if seen else []
