"""What is read of the machine before torch is there."""

from __future__ import annotations

import pytest

from unsee import hardware
from unsee.config import ForgetConfig
from unsee.rivals.method import Training


def told(monkeypatch, tmp_path, text: str | None, gpu: bool = False):
    """As on a machine where Linux says ``text``, or where there is no Linux."""
    for path, content in (("cpuinfo", text), ("gpu", "" if gpu else None)):
        if content is not None:
            (tmp_path / path).write_text(content)
    monkeypatch.setattr(hardware, "TOLD", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware, "GPUS", (tmp_path / "gpu",))
    hardware.has_bf16.cache_clear()


@pytest.fixture(autouse=True)
def asked_anew():
    yield
    hardware.has_bf16.cache_clear()


@pytest.mark.parametrize(
    ("text", "gpu", "fast"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16\n", False, True),
        ("flags\t\t: fpu avx2 amx_bf16\n", False, True),
        ("Features\t: fp asimd bf16\n", False, True),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: avx512_bf16\n", False, False),
        ("flags\t\t: fpu avx2 avx512f\n", True, True),
        ("model name\t: nothing of its units\n", False, True),
        (None, False, True),
    ],
    ids=["avx512", "amx", "arm", "no units", "no units but a GPU", "untold", "no Linux"],
)
def test_products_are_in_bfloat16_where_that_is_fast(monkeypatch, tmp_path, text, gpu, fast):
    told(monkeypatch, tmp_path, text, gpu)
    assert ForgetConfig().bf16 is fast
    assert Training(lr=1.0).bf16 is fast
    assert ForgetConfig(bf16=not fast).bf16 is not fast


def test_the_first_processors_name_is_told(monkeypatch, tmp_path):
    told(monkeypatch, tmp_path, "model name\t: One of many\nmodel name\t: Another\n")
    assert hardware.processor() == "One of many"
