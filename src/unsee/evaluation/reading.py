"""Greedy answers to many questions in one row: what they share, an image above all, is read once.

A row is a prefix and the questions that hang on it, which do not see one another (``Tutor.pack``). Each step appends
one token of every question that is not answered yet.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from unsee.finetune import Row, Tutor, additive, encoded, packed_mask, placed


class Reader:
    """Has read ``rows``, whose turns have no answers yet. ``logits``: [turns, vocabulary], of the next token of each.

    ``features``: of each row's image, or none. Turns are counted through all rows.
    """

    def __init__(
        self, model: Any, tutor: Tutor, rows: Sequence[Row], features: list[Tensor], grids: list[Tensor]
    ) -> None:
        self.model, self.pad = model, tutor.pad
        packed = tutor.pack(rows, torch.cat(grids) if grids else None)
        self.block = packed.block
        # Older transformers call it past_key_values.
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        self.held = {name: DynamicCache(config=model.config.get_text_config(decoder=True))}
        self.home = [(i, k) for i, row in enumerate(rows) for k in range(1, len(row.turns) + 1)]
        last = [int((packed.block[i] == k).nonzero()[-1]) for i, k in self.home]
        self.next = [
            int(packed.positions[..., i, column].flatten()[0]) + 1
            for (i, _), column in zip(self.home, last, strict=True)
        ]
        self.axes = packed.positions.shape[:-2]  # three where positions are of time, height and width
        columns = sorted(set(last))
        images = {"mm_encoder_outputs": encoded(features)} if features else {}
        logits = self._forward(
            packed.ids, packed_mask(packed), packed.positions, logits_to_keep=torch.tensor(columns), **images
        )
        places = {column: j for j, column in enumerate(columns)}
        self.logits = logits[[i for i, _ in self.home], [places[column] for column in last]].float()

    def step(self, turns: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Append a token to each of ``turns``; logits [turns, vocabulary] of what comes next."""
        places: list[tuple[int, int]] = []
        used = [0] * len(self.block)
        for turn in turns:
            row = self.home[turn][0]
            places.append((row, used[row]))
            used[row] += 1
        shape = (len(self.block), max(used))
        ids, block, position = torch.full(shape, self.pad), torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
        for turn, token, (row, column) in zip(turns, tokens, places, strict=True):
            ids[row, column], block[row, column], position[row, column] = token, self.home[turn][1], self.next[turn]
            self.next[turn] += 1
        self.block = torch.cat([self.block, block], dim=1)
        # Its own turn and the prefix; padding sees padding, which does no harm.
        seen = (block[:, :, None] == self.block[:, None, :]) | (self.block[:, None, :] == 0)
        logits = self._forward(ids, seen, position.expand(*self.axes, *shape))
        rows, columns = zip(*places, strict=True)
        return logits[list(rows), list(columns)].float()

    def _forward(self, ids: Tensor, seen: Tensor, positions: Tensor, **more: Any) -> Tensor:
        mask = additive(seen, self.model.dtype)
        inputs = placed(self.model, {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **more})
        logits: Tensor = self.model(**inputs, **self.held, use_cache=True).logits
        return logits


def shared_rows(
    prompts: Sequence[tuple[str, list[int], int]], answers: Sequence[Sequence[list[int]]] | None = None
) -> tuple[list[Row], list[int]]:
    """Prompts as few rows, and the prompt of each turn of them; -1 where a turn is but the beginning of others.

    Of each prompt: its image's name, or none; its tokens; how many of them end with the image. What prompts on an image
    begin with alike is the prefix of their row; a prompt without an image has a row to itself. With ``answers``, tokens
    of some to each prompt, each is a turn that goes on from its prompt's.
    """
    groups: dict[tuple[str | int, ...], list[int]] = {}
    for i, (image, ids, shown) in enumerate(prompts):
        groups.setdefault((image, *ids[:shown]) if image else (i,), []).append(i)
    rows, order = [], []
    for group in groups.values():
        tokens = [prompts[i][1] for i in group]
        most = min(map(len, tokens)) - 1
        alike = next((n for n in range(most) if len({ids[n] for ids in tokens}) > 1), most)
        row, of = Row(tokens[0][:alike], [(ids[alike:], []) for ids in tokens]), group
        if answers is not None:
            row, of = _branches(row, [answers[i] for i in group], group)
        rows.append(row)
        order += of
    return rows, order


def _branches(row: Row, answers: Sequence[Sequence[list[int]]], group: Sequence[int]) -> tuple[Row, list[int]]:
    """Each turn but its last token, with a turn for each answer, which begins with that token, under it."""
    turns: list[tuple[list[int], list[int]]] = []
    under: list[int] = []
    order: list[int] = []
    for i, (rest, _), some in zip(group, row.turns, answers, strict=True):
        parent = len(turns) + 1 if len(rest) > 1 else 0
        turns += [(rest[:-1], [])] if parent else []
        under += [0] if parent else []
        order += [-1] if parent else []
        for answer in some:
            turns.append((rest[-1:], answer))
            under.append(parent)
            order.append(i)
    return Row(row.prefix, turns, tuple(under)), order


@torch.no_grad()
def read(
    model: Any, tutor: Tutor, rows: Sequence[Row], features: list[Tensor], grids: list[Tensor], tokens: int
) -> list[str]:
    """The greedy answer to each turn of each row, of at most ``tokens`` tokens."""
    reader = Reader(model, tutor, rows, features, grids)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    said: list[list[int]] = [[] for _ in reader.home]
    turns, logits = list(range(len(said))), reader.logits
    for left in range(tokens - 1, -1, -1):
        best: list[int] = logits.argmax(-1).tolist()
        for turn, token in zip(turns, best, strict=True):
            said[turn].append(token)
        going = [(turn, token) for turn, token in zip(turns, best, strict=True) if token not in ends]
        if not going or not left:
            break
        turns = [turn for turn, _ in going]
        logits = reader.step(turns, [token for _, token in going])
    return [text.strip() for text in tutor.tokenizer.batch_decode(said, skip_special_tokens=True)]
