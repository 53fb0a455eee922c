"""What was asked once is not asked again, and what comes from the cache is what the model says, to the byte."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
import torch

from unsee import tiny
from unsee.data import people
from unsee.errors import UnseeError
from unsee.evaluation.ask import Prompt
from unsee.evaluation.cache import Cache
from unsee.evaluation.engine import TransformersEngine
from unsee.evaluation.plain import Drawn

OPTIONS = ["unknown", "Alba Ashafel"]


@pytest.fixture(autouse=True, scope="module")
def shallow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LANGUAGE_LAYERS", 1)
        yield


@pytest.fixture(scope="module")
def pair(shallow):
    return tiny.build("llava", people.vocabulary())


def image(seed: int) -> Drawn:
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Drawn(f"{seed}", PIL.Image.fromarray(noise))


def prompts() -> list[Prompt]:
    return [Prompt(f"{w} ?", image(i)) for i in range(6) for w in ("Who", "Where", "What")] + [Prompt("Who ?")]


def sit(engine) -> str:
    said = engine.generate(prompts(), 3)
    scores = engine.score(prompts(), [OPTIONS] * len(prompts()))
    return json.dumps([said, [[(s.logprobs, s.hits) for s in of] for of in scores]])


def test_with_and_without_a_cache_and_from_it_the_same(pair, tmp_path):
    plain = TransformersEngine(*pair, batch=4)
    wanted = sit(plain)
    filling = TransformersEngine(*pair, Cache(tmp_path / "a.db"), batch=4)
    assert sit(filling) == wanted and filling.asked == plain.asked
    full = TransformersEngine(*pair, Cache(tmp_path / "a.db"), batch=4)
    assert sit(full) == wanted and full.asked == full.encoded == 0


def test_a_run_that_was_killed_goes_on(pair, tmp_path, monkeypatch):
    """Stopped in the midst of a batch: what was answered before is not asked again."""
    whole = TransformersEngine(*pair, batch=4)
    wanted = sit(whole)
    first = TransformersEngine(*pair, Cache(tmp_path / "a.db"), batch=4)
    packed, done = first._packed, []

    def stopping(tokens, part):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(len(part))
        return packed(tokens, part)

    monkeypatch.setattr(first, "_packed", stopping)
    with pytest.raises(KeyboardInterrupt):
        sit(first)
    then = TransformersEngine(*pair, Cache(tmp_path / "a.db"), batch=4)
    assert sit(then) == wanted
    assert then.asked == whole.asked - sum(done) and sum(done) >= 9


@pytest.mark.parametrize("what", ("weights", "image", "prompt", "tokens", "answers", "batch"))
def test_what_answers_depend_on_is_asked_anew(what, tmp_path):
    model, processor = tiny.build("llava", people.vocabulary())
    cache = Cache(tmp_path / "a.db")
    asked, options, batch, tokens = [Prompt("Who ?", image(1)), Prompt("Who ?")], [OPTIONS] * 2, 4, 3

    def sat() -> int:
        engine = TransformersEngine(model, processor, cache, batch)
        engine.generate(asked, tokens)
        engine.score(asked, options)
        return engine.asked

    assert (sat(), sat()) == (4, 0)
    if what == "weights":
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-3
    elif what == "image":
        other = image(1)
        other.image.putpixel((0, 0), (1, 2, 3))
        asked[0] = Prompt("Who ?", other)
    elif what == "prompt":
        asked[0] = Prompt("What ?", image(1))
    elif what == "tokens":
        tokens = 2
    elif what == "answers":
        options = [OPTIONS[:1], OPTIONS]
    else:
        asked, options = [*asked, Prompt("Where ?")], [OPTIONS] * 3  # the last bits of its neighbour may be others
    assert sat() > 0


FILL = """
from unsee.evaluation.cache import Cache
cache = Cache({path!r})
for i in range(50):
    cache.put(f"{who} {{i}}", [{who}, i])
    cache.put("shared", {who})
"""


def test_several_processes_write_one_file(tmp_path):
    path = str(tmp_path / "new folder" / "a.db")
    writers = [subprocess.Popen([sys.executable, "-c", FILL.format(path=path, who=who)]) for who in range(3)]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    cache = Cache(path)
    assert len(cache) == 151 and cache.get("1 49") == [1, 49] and cache.get("shared") in (0, 1, 2)
    assert cache.get("nothing") is None


def test_a_file_that_many_make_at_once_is_made(tmp_path):
    """SQLite does not wait there, whatever its timeout."""
    together = threading.Barrier(6)

    def make(path):
        together.wait()
        Cache(path).close()

    with ThreadPoolExecutor(6) as pool:
        for k in range(60):
            list(pool.map(make, [tmp_path / f"{k}.db"] * 6))


def test_a_killed_writer_leaves_the_file_whole(tmp_path):
    path = tmp_path / "a.db"
    code = (
        f"import os; from unsee.evaluation.cache import Cache; c = Cache({str(path)!r}); c.put('a', 'é'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 9
    assert Cache(path).get("a") == "é"


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / "text").write_text("no database " * 200)
    (tmp_path / "folder").mkdir()
    for name in ("text", "folder"):
        with pytest.raises(UnseeError, match=f"{name}' cannot be used: .* Name another file"):
            Cache(tmp_path / name)
    broken = Cache(tmp_path / "b.db")
    with sqlite3.connect(tmp_path / "b.db") as file:
        file.execute("INSERT INTO answers VALUES ('k', 'no json')")
    with pytest.raises(UnseeError, match="cannot be used"):
        broken.get("k")
