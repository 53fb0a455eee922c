"""Uploads tell nothing of the run but its patch, its figures and a card."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock, create_autospec

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests.test_hub import NAME, there

from unsee import hub
from unsee.errors import UnseeError
from unsee.vision.patch import Patch

REPO = "ada/forgot"
SECRET = "marie-curie"
IDS = ["3f786850e387550f", "89e6c98d92887913"]
BASE = {"vision.0.weight": "a" * 64, "vision.1.weight": "b" * 64}
INFO = {"method": "cvf", "config": {"steps": 300, "constraint": "soft"}, "forgotten": IDS, "model": NAME}
FIGURES = {
    "stopped": "held-back views show 3 %",
    "certificates": {"a": 0.01, "b": 0.03},
    "history": [{"loss": 1.0}] * 7,
}


def write_run(folder: Path, **info: object) -> Path:
    """A run as unsee writes it, the name of who is forgotten and where everything lies all over it."""
    (folder / "patch" / "undo").mkdir(parents=True)
    Patch({name: torch.ones(2, 2) for name in BASE}, BASE, INFO | info).save(folder / "patch")
    secrets = json.dumps({"forget": f"/home/ada/takedown/{SECRET}", "concepts": SECRET})
    for name in ("config.yaml", "manifest.json", "statistics.safetensors", "README.md", "patch/undo/undo.safetensors"):
        (folder / name).write_text(secrets)
    (folder / "metrics.json").write_text(json.dumps(FIGURES | {"items": SECRET}))
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def spec() -> Mock:
    """Made once: HfApi has 300 methods."""
    return create_autospec(HfApi)


@pytest.fixture
def api(spec, monkeypatch):
    """Stands in for HfApi with its signatures; ``sent``: what would be uploaded, by path in the repository."""
    spec.reset_mock(return_value=False, side_effect=True)
    monkeypatch.setattr("huggingface_hub.HfApi", spec)
    stand_in = spec.return_value
    stand_in.model_info.return_value = Mock(private=True)
    stand_in.create_repo.return_value = f"https://huggingface.co/{REPO}"
    stand_in.sent = {}

    def upload(*, folder_path: str, allow_patterns: list[str], **rest: object) -> None:
        chosen = filter_repo_objects(there(Path(folder_path)), allow_patterns=allow_patterns)
        stand_in.sent.update({name: (Path(folder_path) / name).read_bytes() for name in chosen})

    stand_in.upload_folder.side_effect = upload
    return stand_in


def test_push_sends_the_patch_and_a_card(run, api):
    assert hub.push(run, REPO) == f"https://huggingface.co/{REPO}"
    assert sorted(api.sent) == ["README.md", hub.PATCH]
    assert api.sent[hub.PATCH] == (run / hub.PATCH).read_bytes()
    assert api.sent["README.md"].decode() == hub.card({"base": BASE, "info": INFO}, FIGURES)
    api.create_repo.assert_called_once_with(REPO, private=True, exist_ok=True)
    assert api.upload_folder.call_args.kwargs["repo_id"] == REPO


def test_push_calls_nothing_else(run, api):
    hub.push(run, REPO, private=False)
    assert [name for name, *_ in api.method_calls] == ["create_repo", "upload_folder"]
    assert api.create_repo.call_args.kwargs["private"] is False


def test_no_name_and_no_path_goes_out(run, api, tmp_path):
    hub.push(run, REPO)
    calls = [str(call.kwargs) for call in api.method_calls]
    out = b"".join(api.sent.values()) + "".join(calls).encode()
    for private in (SECRET, "/home/ada", "takedown", str(run), str(tmp_path)):
        assert private.encode() not in out


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"forgotten": [IDS[0], SECRET]}, f"a name \\('{SECRET}'\\)"),
        ({"forgotten": ["Ada"]}, "a name"),
        ({"model": "/home/ada/llava"}, "a path of this machine"),
        ({"config": {"statistics": "C:\\Users\\ada\\keep.safetensors"}}, "a path of this machine"),
        ({"config": {"reference": ["../ada/llava"]}}, "a path of this machine"),
    ],
)
def test_a_patch_that_tells_who_is_forgotten_stays_here(tmp_path, api, info, says):
    run = write_run(tmp_path / "telling", **info)
    with pytest.raises(UnseeError, match=f"holds {says}.*, which would go out with it"):
        hub.push(run, REPO)
    assert not api.method_calls


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"note": SECRET}, "'note', which no patch has"),
        ({"config": {"who": SECRET}}, "a setting that unsee forget does not have"),
        ({"config": {"layers": "Marie Curie"}}, "a setting that unsee forget does not have"),
        ({"config": [SECRET]}, "a setting that unsee forget does not have"),
        ({"undoes": "a" * 64}, "brings back what a run forgot"),
    ],
)
def test_a_patch_that_says_more_than_unsee_writes_stays_here(tmp_path, api, info, says):
    run = write_run(tmp_path / "telling", **info)
    with pytest.raises(UnseeError, match=says):
        hub.push(run, REPO)
    assert not api.method_calls


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "changes nothing"),
        ({"a.weight": torch.tensor([float("nan")])}, "holds NaN or Inf"),
        ({f"a.{SECRET} Curie.weight": torch.ones(1)}, "a tensor with the name"),
    ],
)
def test_a_patch_that_is_none_stays_here(run, api, tensors, says):
    Patch(tensors, dict.fromkeys(tensors, "0" * 64), INFO).save(run / "patch")
    with pytest.raises(UnseeError, match=says):
        hub.push(run, REPO)
    assert not api.method_calls


def test_what_a_file_hides_beside_the_patch_does_not_go_out(run, api):
    """Said twice, the last counts: what stood first would be in the file."""
    file = run / hub.PATCH
    header = safe_open(file, "np").metadata()["unsee"]
    hidden = header.replace('{"version"', f'{{"id": "{SECRET}", "version"')
    save_file(load_file(file), file, {"unsee": hidden})
    hub.push(run, REPO)
    assert SECRET.encode() in file.read_bytes() and SECRET.encode() not in b"".join(api.sent.values())


@pytest.mark.parametrize(
    "figures",
    ["[]", "{", '{"stopped": 5}', '{"certificates": {"a": "b"}}', '{"certificates": {"a": NaN}}', "[" * 999],
)
def test_figures_that_no_run_has(run, api, figures):
    (run / "metrics.json").write_text(figures)
    with pytest.raises(UnseeError, match="metrics.json' is"):
        hub.push(run, REPO)
    assert not api.method_calls


def test_words_of_others_are_no_figures(run, api):
    (run / "metrics.json").write_text(json.dumps(FIGURES | {"stopped": f"when {SECRET} | had left"}))
    hub.push(run, REPO)
    assert SECRET.encode() not in api.sent["README.md"]


@pytest.mark.parametrize("missing", [hub.PATCH, "metrics.json"])
def test_a_folder_that_is_no_run(run, api, missing):
    (run / missing).unlink()
    with pytest.raises(UnseeError, match=f"is no run: it has no {missing}. Give the folder that unsee forget"):
        hub.push(run, REPO)
    assert not api.method_calls


@pytest.mark.parametrize("metadata", [None, {}, {"unsee": "no json"}, {"unsee": "[]"}, {"unsee": '{"base": {}}'}])
def test_a_file_that_is_no_patch(run, api, metadata):
    tensors = {"a": np.ones(2, np.float32)}
    save_file(tensors, run / hub.PATCH, metadata=metadata)
    with pytest.raises(UnseeError, match="is not a patch of unsee"):
        hub.push(run, REPO)
    assert not api.method_calls


def test_a_damaged_patch(run, api):
    (run / hub.PATCH).write_bytes(b"nothing")
    with pytest.raises(UnseeError, match="is damaged"):
        hub.push(run, REPO)
    assert not api.method_calls


@pytest.mark.parametrize("repo", ["forgot", "", "ada/", "/forgot", "ada/forgot/v1", "ada forgot/x", "../forgot", "é/x"])
def test_a_name_that_no_repository_can_have(run, api, repo):
    with pytest.raises(UnseeError, match="is no name of a repository. Give OWNER/NAME"):
        hub.push(run, repo)
    assert not api.method_calls


def test_a_public_repository_is_not_taken_for_a_private_one(run, api):
    api.model_info.return_value.private = False
    with pytest.raises(UnseeError, match="exists and everybody can read it"):
        hub.push(run, REPO)
    assert not api.sent


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (HfHubHTTPError("401", response=Mock(status_code=401, headers={})), "does not let you write .* hf auth login"),
        (HfHubHTTPError("403", response=Mock(status_code=403, headers={})), "does not let you write"),
        (
            HfHubHTTPError("500 oh\nmore", response=Mock(status_code=500, headers={})),
            "could not be sent .*: 500 oh. Giv",
        ),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
    ],
)
def test_an_upload_that_fails(run, api, error, says):
    api.create_repo.side_effect = error
    with pytest.raises(UnseeError, match=says):
        hub.push(run, REPO)


def test_the_card_is_metadata_and_text():
    text = hub.card({"base": BASE, "info": INFO}, FIGURES)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": NAME,
        "base_model_relation": "adapter",
        "library_name": "unsee",
        "tags": ["machine-unlearning", "multimodal"],
    }
    assert ModelCard(text).data.base_model == NAME
    settings = body.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(settings) == INFO["config"]
    assert f"`{IDS[0]}`, `{IDS[1]}`." in body and "forgets 2 visual concepts\n" in body
    assert f"unsee apply --model {NAME} --patch FOLDER/patch --out NEW_MODEL\n" in body
    for figure in ("| steps | 7 |", "| held-back views show 3 % |", "worst layer | 3 % |", "over the layers | 2 % |"):
        assert figure in body
    assert "2605.05909" in body and "{{" not in body and "{%" not in body


def test_the_card_of_a_folders_model_names_none():
    info = INFO | {"model": "/home/ada/llava", "forgotten": IDS[:1]}
    text = hub.card({"base": BASE, "info": info}, {})
    assert "home" not in text and "base_model" not in text and "unsee apply --model MODEL " in text
    assert "forgets 1 visual concept\n" in text and "worst layer" not in text


def test_the_fingerprint_does_not_depend_on_order():
    turned = dict(reversed(BASE.items()))
    assert hub.card({"base": BASE, "info": INFO}, {}) == hub.card({"base": turned, "info": INFO}, {})
    assert hub.card({"base": BASE | {"c": "d"}, "info": INFO}, {}) != hub.card({"base": BASE, "info": INFO}, {})
