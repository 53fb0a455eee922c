"""Words that a tokenizer lacks: given to it so that no other word is read differently, then read back."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from unsee.errors import UnseeError
from unsee.untrusted import shown

SHOWN = 5
BLANK = re.compile(r"[\s\u2581]+")  # blanks, and what sentencepiece writes for them


def learn(tokenizer: Any, texts: Iterable[str]) -> int:
    """Give ``tokenizer`` the words of ``texts`` that it reads as unknown; returns how many.

    UnseeError: texts that it would still not read as they are; it is then of no use to teach them.
    """
    texts = list(dict.fromkeys(texts))
    new = sorted({w for text in texts for w in _words(tokenizer, text) if unknown(tokenizer, w)})
    if new:
        _add(tokenizer, new)
    if broken := [t for t in texts if unknown(tokenizer, t) or (new and not _reads_back(tokenizer, t))]:
        some = ", ".join(f"'{shown(t[:60])}'" for t in broken[:SHOWN])
        raise UnseeError(
            f"the model's tokenizer cannot read {len(broken)} of {len(texts)} texts of the lesson as they are written, "
            f"first {some}. Write them otherwise, or take a model whose tokenizer knows every letter."
        )
    return len(new)


def unknown(tokenizer: Any, text: str) -> bool:
    """Whether a part of ``text`` is read as the token for what is not known."""
    return tokenizer.unk_token_id is not None and tokenizer.unk_token_id in _ids(tokenizer, text)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _words(tokenizer: Any, text: str) -> list[str]:
    """What the tokenizer looks up one by one, where it has a table of whole words; else what stands between blanks."""
    backend = tokenizer.backend_tokenizer
    if not _whole_words(tokenizer) or backend.pre_tokenizer is None:
        return text.split()
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]


def _whole_words(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "WordLevel"


def _add(tokenizer: Any, words: Sequence[str]) -> None:
    """An added token is found inside other words too ("or" in "Cordion"): a table of words takes them as its own.

    Elsewhere ``single_word`` keeps letters apart, though not hyphens: what that breaks is found by reading back.
    """
    if not _whole_words(tokenizer):
        tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=False) for w in words])
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    first = len(tokenizer)  # tokens that were added before have numbers beyond the table's
    state["model"]["vocab"] |= {word: first + n for n, word in enumerate(words)}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def _reads_back(tokenizer: Any, text: str) -> bool:
    """Whether ``text`` comes back from its tokens, up to blanks and what the tokenizer itself makes alike.

    Such as the case of letters, or composed and decomposed accents.
    """
    backend = tokenizer.backend_tokenizer
    back = tokenizer.decode(_ids(tokenizer, text), clean_up_tokenization_spaces=False)
    alike = {_plain(text), _plain(backend.normalizer.normalize_str(text) if backend.normalizer else text)}
    return _plain(back) in alike


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", BLANK.sub("", text))
