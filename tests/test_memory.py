"""Memory goes back to the system where a model is large, and its pages are kept where it is small."""

from types import SimpleNamespace

import pytest

from unsee import memory


@pytest.mark.parametrize(("size", "asked"), [(10**6, 0), (2 * 2**30, 2), (None, 2)])
def test_large_blocks_go_back_where_the_checkpoint_is_large(size, asked, tmp_path, monkeypatch):
    options: list[tuple[int, int]] = []
    libc = SimpleNamespace(mallopt=lambda *given: options.append(given))
    monkeypatch.setattr(memory, "_libc", lambda: libc)
    if size is not None:
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(size)  # a hole
    memory.steady_memory(tmp_path if size is not None else "llava-hf/llava-1.5-7b-hf")
    assert len(options) == asked and all(blocks == 2**20 for _, blocks in options)


def test_a_system_without_resource_tells_by_psutil(monkeypatch):
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7 * 2**20))
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory.psutil, "Process", lambda: told)
    assert memory.peak_memory() == 7 * 2**20
