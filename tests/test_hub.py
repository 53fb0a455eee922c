"""Downloads bring what is asked and nothing else, from a small hub in this process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from tests.hub_server import Hub, commit, serve, use

from unsee import hub
from unsee.errors import UnseeError

NAME = "ada/tiny-llava"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SMALL = ["chat_template.jinja", "config.json", "merges.txt", "sub/extra.json", "tokenizer.model"]
OTHERS = ["README.md", "modeling_tiny.py", "pytorch_model.bin", "flax_model.msgpack"]


def write(folder: Path, names: list[str], text: str = "") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} {text}" * 50)
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    """One repository of two revisions, and huggingface_hub pointed to it with an empty cache."""
    main = write(tmp_path / "main", SMALL + SHARDS + OTHERS)
    old = write(tmp_path / "old", ["config.json"], "of old")
    with serve({NAME: main, f"{NAME}@v0": old}) as hub:
        use(monkeypatch, hub.endpoint, tmp_path / "cache")
        yield hub


@pytest.fixture
def offline(server, tmp_path, monkeypatch):
    """Called, it takes the network away as HF_HUB_OFFLINE=1 does."""

    def off() -> None:
        server.requests.clear()
        use(monkeypatch, server.endpoint, tmp_path / "cache", offline=True)

    return off


def there(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def test_small_files_are_all_but_weights(server):
    folder, revision = hub.small_files(NAME)
    assert server.downloaded() == there(folder) == SMALL
    assert revision == commit(server.repositories[NAME]) == folder.name
    assert (folder / "config.json").read_bytes() == (server.repositories[NAME] / "config.json").read_bytes()


def test_code_comes_where_it_is_asked_for(server):
    folder, _ = hub.small_files(NAME, code=True)
    assert there(folder) == sorted([*SMALL, "modeling_tiny.py"])


def test_files_are_named_without_being_brought(server):
    assert hub.files(NAME) == sorted(SMALL + SHARDS + OTHERS)
    assert server.downloaded() == SMALL


def test_the_files_of_a_known_commit_are_named_without_a_request(server):
    _, revision = hub.small_files(NAME)
    server.requests.clear()
    assert hub.files(NAME, revision) == sorted(SMALL + SHARDS + OTHERS)
    assert server.requests == []


def test_fetch_brings_what_is_named(server, capsys):
    small, revision = hub.small_files(NAME)
    server.requests.clear()
    assert hub.fetch(NAME, revision, SHARDS[:1]) == small
    assert server.downloaded() == SHARDS[:1]
    assert there(small) == sorted(SMALL + SHARDS[:1])
    assert capsys.readouterr().err == "downloading: 1/1\n"


def test_a_file_in_a_folder_of_the_repository(server):
    folder, revision = hub.small_files(NAME)
    assert hub.fetch(NAME, revision, ["sub/extra.json"]) == folder


def test_what_is_in_the_cache_is_not_asked_for_again(server, capsys):
    folder, revision = hub.small_files(NAME)
    hub.fetch(NAME, revision, SHARDS)
    server.requests.clear()
    capsys.readouterr()
    assert hub.small_files(NAME) == (folder, revision)
    assert hub.fetch(NAME, revision, SHARDS) == folder
    assert server.requests == [("GET", f"/api/models/{NAME}/revision/main")]  # whether main has moved
    assert capsys.readouterr().err == ""


def test_an_interrupted_fetch_goes_on_with_what_is_missing(server):
    _, revision = hub.small_files(NAME)
    hub.fetch(NAME, revision, SHARDS[:1])
    server.requests.clear()
    hub.fetch(NAME, revision, SHARDS)
    assert server.downloaded() == SHARDS[1:]


def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    _, revision = hub.small_files(NAME)
    server.break_after = 500
    folder = hub.fetch(NAME, revision, SHARDS[:1])
    assert server.ranges == ["bytes=500-"]
    assert (folder / SHARDS[0]).read_bytes() == (server.repositories[NAME] / SHARDS[0]).read_bytes()


def test_the_share_of_a_file_is_told(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("unsee.progress.LINE_EVERY", 0.0)
    _, revision = hub.small_files(NAME)
    told = []
    monkeypatch.setattr("unsee.progress.print", lambda text, **_: told.append(text), raising=False)
    hub.fetch(NAME, revision, SHARDS)
    size = (server.repositories[NAME] / SHARDS[0]).stat().st_size
    assert told[0] == f"downloading: 0/2 {SHARDS[0]} {100 / size:.0%}"
    assert f"downloading: 1/2 {SHARDS[1]} 100%" in told and told[-1] == "downloading: 2/2"


@pytest.mark.parametrize("by", ["branch", "commit"])
def test_another_revision(server, by):
    old = server.repositories[f"{NAME}@v0"]
    folder, revision = hub.small_files(NAME, "v0" if by == "branch" else commit(old))
    assert revision == commit(old) and there(folder) == ["config.json"]
    assert "of old" in (folder / "config.json").read_text()


def test_offline_with_everything_in_the_cache(server, offline):
    folder, revision = hub.small_files(NAME)
    hub.fetch(NAME, revision, SHARDS)
    offline()
    assert hub.small_files(NAME) == (folder, revision)
    assert hub.files(NAME) == sorted(SMALL + SHARDS + OTHERS)
    assert hub.fetch(NAME, revision, SHARDS) == folder
    assert server.requests == []


def test_offline_with_a_cache_that_another_program_filled(server, offline):
    from huggingface_hub import hf_hub_download

    for name in ("config.json", "sub/extra.json"):
        hf_hub_download(NAME, name)
    offline()
    assert hub.files(NAME) == ["config.json", "sub/extra.json"]


def test_a_hub_that_is_away_is_no_harm_to_who_has_the_cache(server, tmp_path, monkeypatch):
    folder, revision = hub.small_files(NAME)
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert hub.small_files(NAME) == (folder, revision)


def test_offline_without_the_cache(offline):
    offline()
    with pytest.raises(
        UnseeError, match=r"not, or not whole, in the hub's cache .*; HF_HUB_OFFLINE is set\. Go online"
    ):
        hub.small_files(NAME)


def test_offline_with_a_part_of_the_weights(server, offline):
    _, revision = hub.small_files(NAME)
    hub.fetch(NAME, revision, SHARDS[:1])
    offline()
    with pytest.raises(UnseeError, match="HF_HUB_OFFLINE is set"):
        hub.fetch(NAME, revision, SHARDS)


def test_a_hub_that_is_away(tmp_path, monkeypatch):
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(UnseeError, match=r"the hub cannot be reached: .*refused\. Go online once, or give a folder"):
        hub.small_files(NAME)


def test_an_unknown_repository(server):
    with pytest.raises(UnseeError, match=r"'ada/tiny-lava' is no folder, .* such as llava-hf/llava-1\.5-7b-hf\. If it"):
        hub.small_files("ada/tiny-lava")


@pytest.mark.parametrize("name", ["models/llava/7b", "my model", "/home/ada/llava", "../llava"])
def test_a_name_that_cannot_be_on_the_hub(server, name):
    with pytest.raises(UnseeError, match="is no folder, and cannot be a name on the hub"):
        hub.small_files(name)
    assert server.requests == []


def test_a_gated_repository(server):
    server.gated.add(NAME)
    with pytest.raises(UnseeError, match=f"Accept its licence on https://huggingface.co/{NAME} and log in: hf auth"):
        hub.small_files(NAME)
    with pytest.raises(UnseeError, match="is gated"):
        hub.fetch(NAME, commit(server.repositories[NAME]), SHARDS)


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_an_unknown_revision(server, revision):
    with pytest.raises(UnseeError, match=f"has no revision '{revision}'. Give a branch, a tag or a commit"):
        hub.small_files(NAME, revision)


def test_a_file_that_the_repository_lacks(server):
    _, revision = hub.small_files(NAME)
    with pytest.raises(UnseeError, match=r"lacks a file: .*model-00003"):
        hub.fetch(NAME, revision, ["model-00003-of-00002.safetensors"])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space for .* set HF_HOME to a folder with more"),
        (RuntimeError("xet: No space left on device (os error 28)"), "no space for"),
        (OSError("Consistency check failed"), "could not be downloaded: Consistency check failed. Give the same"),
    ],
)
def test_a_download_that_fails_on_this_side(server, monkeypatch, error, says):
    _, revision = hub.small_files(NAME)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", Mock(side_effect=error))
    with pytest.raises(UnseeError, match=says):
        hub.fetch(NAME, revision, SHARDS)


def test_a_token_that_the_hub_refuses(server, monkeypatch):
    refused = HfHubHTTPError("Invalid credentials", response=Mock(status_code=401, headers={}))
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=refused))
    with pytest.raises(UnseeError, match=f"the hub does not let you read '{NAME}'. Log in with a token that may"):
        hub.small_files(NAME)


def test_the_variables_that_people_set(server, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, in a process of its own."""
    code = f"from unsee import hub; print(hub.small_files('{NAME}')[0])"
    home = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    for offline in "01":
        server.requests.clear()
        environment = os.environ | home | {"HF_HUB_OFFLINE": offline}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")
        assert server.downloaded() == (SMALL if offline == "0" else [])


def test_nothing_heavy_is_imported_for_it():
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'jinja2'}"
    code = f"import sys, unsee.hub; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_small_hub_says_what_the_real_one_says(server):
    assert isinstance(server, Hub) and HfApi(endpoint=server.endpoint).model_info(NAME).sha == commit(
        server.repositories[NAME]
    )
