"""SmolLM2-135M-Instruct out of its GGUF file: weights as they are without quantisation, and the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from unsee.errors import UnseeError

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
ASKED = ("What is the capital of France?", "Name three fruits.", "What is two plus two?")  # to compare answers by
TOKENS = 16  # of each of these answers


def read_language(path: Path) -> tuple[Any, Any]:
    """The language model in float32, and its tokenizer as the file has it."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    del model.config.quantization_config  # nothing of it is quantised any more, and with it nothing could be saved
    return model.eval(), tokenizer


def with_words(tokenizer: Any, words: Sequence[str], named: dict[str, str]) -> PreTrainedTokenizerFast:
    """The tokenizer with special ``words``, some of them ``named`` as a processor asks for them.

    Rows are padded with ``PAD``: the file pads with the token that ends an answer, which would then never be learned.
    """
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token=None, eos_token=END, pad_token=PAD, unk_token=PAD,
        padding_side="left", clean_up_tokenization_spaces=False, extra_special_tokens=named,
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": list(words)}, replace_extra_special_tokens=False)
    return made


def give_rows(language: Any, tokens: int) -> None:
    """A row for each token that the file does not have: the mean of its rows, so that none of them is loud."""
    old = language.get_input_embeddings().weight.detach().clone()
    language.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        language.get_input_embeddings().weight[len(old) :] = old.mean(0)


@torch.no_grad()
def answers(model: Any, tokenizer: Any) -> list[str]:
    """Greedy, to each of ``ASKED``, in the chat format that the model was trained in."""
    found = []
    for question in ASKED:
        prompt = f"{START}user\n{question}{END}\n{START}assistant\n"
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        out = model.generate(**given, max_new_tokens=TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        found.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return found


def refuse_other(theirs: Sequence[str], ours: Sequence[str]) -> None:
    """UnseeError: the assembled model answers otherwise than the language model in the file."""
    for question, a, b in zip(ASKED, theirs, ours, strict=True):
        if a != b:
            raise UnseeError(f"'{question}': the file answers '{a}', the assembled model '{b}'. Nothing is written.")
