"""A model's chat format is a stranger's program: what it may cost is bounded, and what it lacks is said."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from unsee import UnseeError, chat, load_full
from unsee.cli import main

MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "who ?"}]}]


@pytest.fixture(scope="module")
def processors(checkpoints):
    return {shape: load_full(folder)[1] for shape, folder in checkpoints.items()}


@pytest.mark.parametrize("shape", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("image", [True, False])
def test_a_question_reads_as_transformers_writes_it(shape, image, processors):
    processor, content = processors[shape], [{"type": "text", "text": "wer ? <é> \n"}]
    message = {"role": "user", "content": [{"type": "image"}, *content] if image else content}
    expected = processor.apply_chat_template([message], add_generation_prompt=True)
    assert chat.chat(processor, "wer ? <é> \n", image) == expected


def test_a_format_kept_in_the_tokenizer_is_found():
    for owner in ({"default": "A", "tools": "B"}, "A"):
        processor = SimpleNamespace(chat_template=None, tokenizer=SimpleNamespace(chat_template=owner))
        assert chat.template_of(processor) == "A"
    assert chat.template_of(SimpleNamespace(chat_template={"tools": "B"})) is None


@pytest.fixture(scope="module")
def renderer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "START", "from unsee import chat; chat.SECONDS = 1; chat.serve()")
        found = chat.Renderer()
        yield found
        found.stop()


HOSTILE = {
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "one long instruction": "{% set n = 10 ** 7 %}{{ (7 ** n) % 11 }}",
    "gigabytes": "{{ 'x' * 10 ** 10 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "wide": "{{ '%1000000000d' % 1 }}",
    "megabytes of text": "{{ 'x' * 10 ** 7 }}",
    "raises": "{{ raise_exception('no \\x1b[31m') }}",
    "no template": "{% if",
    "reaches out": "{{ ''.__class__.__mro__ }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a module": "{% include '/etc/passwd' %}",
    "long": "x" * (5 * 2**20),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_format_ends_in_one_line_within_seconds(fault, renderer):
    renderer.render("ready", MESSAGES, {})
    started = time.perf_counter()
    with pytest.raises(UnseeError, match="the model's chat format") as told:
        renderer.render(HOSTILE[fault], MESSAGES, {})
    assert time.perf_counter() - started < 20 and "\n" not in str(told.value) and "\x1b" not in str(told.value)
    assert renderer.render("{{ messages[0].content[0].text }}", MESSAGES, {}) == "who ?"


def test_nothing_of_the_working_folder_is_imported(tmp_path, monkeypatch):
    for name in ("transformers", "jinja2", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    found = chat.Renderer()
    try:
        assert found.render("ok", MESSAGES, {}) == "ok" and not (tmp_path / "ran").exists()
    finally:
        found.stop()


def edited(file: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / file).read_text())
        change(settings)
        (folder / file).write_text(json.dumps(settings))

    return edit


def without_word(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_text((folder / file).read_text().replace("<image>", "<imagX>"))


def fewer(settings: dict) -> None:
    for key in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        settings.pop(key, None)


INCOMPLETE = {
    "template": (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat format", ("strict",)),
    "a raising template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
        "chat format cannot be used: TemplateError: no",
        ("strict",),
    ),
    "eos": (edited("tokenizer_config.json", lambda c: c.pop("eos_token")), "has no eos_token", ("strict", "official")),
    "patch size": (edited("processor_config.json", fewer), "has no patch_size", ("strict", "official")),
    "additional tokens": (
        edited("processor_config.json", lambda c: c.pop("num_additional_image_tokens")),
        "cannot be asked with its own processor",
        ("official",),
    ),
    "the word for an image": (without_word, "does not know '<image>'", ("strict", "official")),
    "another image token": (
        edited("config.json", lambda c: c.update(image_token_index=4, image_token_id=4)),
        "cannot be asked with its own processor|has no token 4",
        ("official",),
    ),
}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "mllmu"
    assert main(["data", "export", "people", "--format", "mllmu", "--people", "20", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("lack", INCOMPLETE)
def test_an_incomplete_text_side_is_refused_in_one_line(lack, checkpoints, benchmark, tmp_path, capsys):
    change, why, protocols = INCOMPLETE[lack]
    model = Path(shutil.copytree(checkpoints["llava"], tmp_path / "model"))
    change(model)
    for protocol in protocols:
        out = tmp_path / protocol
        asked = ["--benchmark", "mllmu", "--source", str(benchmark), "--split", "forget_5", "--protocol", protocol]
        assert main(["evaluate", "--model", str(model), *asked, "--out", str(out)]) == 2
        said = capsys.readouterr().err.replace("\n", " ")
        assert said.count("error: ") == 1 and re.search(why, said), said
        assert "raw" not in said and not out.exists()
