"""A model's own chat format, which a stranger wrote: a Jinja template, rendered in a process that can be killed.

transformers renders in Jinja's sandbox, which keeps a template from our objects but not from time and memory:
``9**9**9`` is one instruction that no thread, timer or exception can break into, and ``'x' * 10**10`` one allocation.
So templates are rendered in a child, which the system ends at SECONDS and holds to MEMORY. It is started once a process
and imports no torch.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from unsee.errors import UnseeError
from unsee.untrusted import shown

SECONDS = 5  # for one conversation, which takes a millisecond
MEMORY = 512 * 2**20  # bytes beyond what the imports take
TEXT = 2**20  # characters of a rendered conversation
TEMPLATE = 4 * 2**20  # characters of a template; the longest of the hub take 20,000
START = "from unsee.chat import serve; serve()"
NONE = (
    "the model has no chat format: neither chat_template.jinja nor its tokenizer_config.json has one. Copy "
    "chat_template.jinja from the checkpoint that the model was made from into its folder."
)


def chat(processor: Any, question: str, image: bool, answer: str = "") -> str:
    """The question in the model's own chat format, ready for its answer, or with ``answer`` behind it.

    UnseeError: it has none that serves.
    """
    content: list[dict[str, str]] = [{"type": "image"}] if image else []
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    if answer:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    template = template_of(processor)
    if template is None:
        raise UnseeError(NONE)
    words = {k: _plain(v) for k, v in processor.tokenizer.special_tokens_map.items()}
    return _renderer(os.getpid()).render(template, messages, words)


def _plain(words: Any) -> Any:
    return [str(w) for w in words] if isinstance(words, list | tuple) else str(words)


def refuse_words(processor: Any) -> None:
    """UnseeError: the text side lacks what a question or an answer is made of."""
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise UnseeError(
            f"a {type(processor).__name__} has no tokenizer, so that the model cannot be asked. Its folder lacks "
            f"tokenizer.json, tokenizer_config.json or processor_config.json: download them again."
        )
    if tokenizer.eos_token_id is None:
        raise UnseeError(
            "the tokenizer has no eos_token, so that no answer has an end. Set eos_token in tokenizer_config.json as "
            "the checkpoint that the model was made from has it."
        )
    word = getattr(processor, "image_token", None)
    if word and tokenizer.convert_tokens_to_ids(str(word)) in (None, tokenizer.unk_token_id):
        raise UnseeError(
            f"the tokenizer does not know '{shown(word)}', the word that stands for an image in a prompt. Take "
            f"tokenizer.json and tokenizer_config.json from the checkpoint that the model was made from."
        )


def template_of(processor: Any) -> str | None:
    """The processor's, or where older versions of transformers put it, its tokenizer's."""
    for owner in (processor, getattr(processor, "tokenizer", None)):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    return None


@cache
def _renderer(process: int) -> Renderer:
    """Of this process: one that was forked must not share its parent's."""
    return Renderer()


class Renderer:
    """A child that renders templates, started when it is first needed and again where one ended it."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        atexit.register(self.stop)

    def render(self, template: str, messages: list[dict[str, Any]], words: dict[str, Any]) -> str:
        """The conversation as text. UnseeError: the template raises, does not end, or takes too much."""
        if len(template) > TEMPLATE:
            raise UnseeError(f"the model's chat format has {len(template):,} characters, more than {TEMPLATE:,}.")
        asked = json.dumps({"template": template, "messages": messages, "words": words}).encode() + b"\n"
        with self.lock:
            child = self._running()
            try:
                child.stdin.write(asked)  # type: ignore[union-attr]
                child.stdin.flush()  # type: ignore[union-attr]
                line = child.stdout.readline()  # type: ignore[union-attr]
            except OSError:
                line = b""
            if not line:
                raise UnseeError(_bad(self._ended(child)))
        answer = json.loads(line)
        if "text" not in answer:
            raise UnseeError(_bad(shown(answer["error"])))
        return str(answer["text"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self.child is None:
            # -P: what lies in the working folder, which may be a stranger's, is not imported.
            path = os.pathsep.join(p for p in sys.path if p)
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
            )  # fmt: skip
        return self.child

    def _ended(self, child: subprocess.Popen[bytes]) -> str:
        self.stop()
        late = child.returncode == -signal.SIGALRM
        return f"it does not end within {SECONDS} seconds" if late else "it ended the process that renders it"

    def stop(self) -> None:
        if self.child is not None:
            for pipe in (self.child.stdin, self.child.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(1)
            self.child.kill()
            self.child.wait()
            self.child = None


def _bad(why: str) -> str:
    return (
        f"the model's chat format cannot be used: {why}. Take chat_template.jinja from the checkpoint that the model "
        f"was made from."
    )


def serve() -> None:
    """What the child does: a JSON line in, a JSON line out, until nobody asks any more."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.alarm(SECONDS)  # nothing handles it, so that it ends the process, whatever that is busy with
        try:
            rendered: Any = render_jinja_template(
                conversations=[asked["messages"]], chat_template=asked["template"],
                add_generation_prompt=asked["messages"][-1]["role"] == "user", **asked["words"],
            )  # fmt: skip
            text = rendered[0][0]
            answer = {"text": text} if len(text) <= TEXT else {"error": f"it gives {len(text):,} characters"}
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        except Exception as error:  # a stranger's template can raise anything
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        data = json.dumps(answer).encode() + b"\n"
        signal.alarm(0)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    """On Linux. Elsewhere a process does not know what it takes, and time alone is bounded."""
    import resource

    with suppress(ValueError, OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
