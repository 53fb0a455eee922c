"""The commands: their help, what they refuse and how, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.faults import full_disk
from transformers import LlamaConfig

from unsee.cli import COMMANDS, main


@pytest.fixture
def fast() -> list[str]:
    return ["--steps", "2", "--batch", "4", "--stop", "0", "--most-left", "9"]  # what two steps leave is not judged


def run(capsys, *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def request_flags(model: Path, images: Path, out: Path) -> list[object]:
    known = images / "known"
    return ["forget", "--model", model, "--forget", known, "--retain", known, "--concepts", "ada,ben",
            "--neutral", images / "neutral", "--out", out]  # fmt: skip


def test_help_lists_the_commands_and_loads_no_torch():
    code = "import sys; from unsee.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0
    into = "--ledger PATH" if command.startswith("requests") else "--out PATH"
    assert command in ("inspect", "push", "utility", "data check") or into in out
    assert "--config FILE" in out


def test_settings_are_flags_with_their_help(capsys):
    _, out, _ = run(capsys, "forget", "--help")
    text = " ".join(out.replace("│", " ").split())
    assert "--soft-ratio FLOAT soft null space: damping as a share of the mean eigenvalue (default:" in text


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    code, _, err = run(capsys, "forgte")
    assert code == 2
    assert "error: there is no command 'forgte'. Did you mean 'forget'?" in err


def test_an_unknown_flag_is_answered_with_the_nearest(capsys, tmp_path):
    code, _, err = run(capsys, "apply", "--model", tmp_path, "--ptach", tmp_path, "--out", tmp_path / "new")
    assert code == 2
    assert "--ptach" in err and "--patch PATH" in err


def test_a_request_end_to_end(checkpoint, images, tmp_path, capsys, fast):
    out = tmp_path / "runs" / "run"
    code, said, _ = run(capsys, *request_flags(checkpoint, images, out), *fast)
    assert code == 0 and "2 concept(s) forgotten" in said
    assert sorted(p.name for p in out.iterdir()) == [
        "config.yaml", "manifest.json", "metrics.json", "patch", "statistics.safetensors", "undo",
    ]  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert {k: v["images"] for k, v in manifest["inputs"].items() if isinstance(v, dict)} == {
        "forget": 8, "retain": 12, "neutral": 12,
    }  # fmt: skip
    assert manifest["peak_memory_mib"] > 50 and manifest["seconds"]["whole"] > 0
    assert len(json.loads((out / "metrics.json").read_text())["history"]) == 2
    assert [p.name for p in out.parent.iterdir()] == ["run"]

    # The run's own config.yaml is the same request again; a flag given beside it wins.
    code, _, _ = run(capsys, "forget", "--config", out / "config.yaml", "--out", tmp_path / "again")
    assert code == 0
    patch = "patch/patch.safetensors"
    assert (tmp_path / "again" / patch).read_bytes() == (out / patch).read_bytes()

    code, _, _ = run(capsys, "apply", "--model", checkpoint, "--patch", out / "patch", "--out", tmp_path / "new")
    assert code == 0 and (tmp_path / "new" / "model.safetensors").is_file()


def test_dry_run_tells_and_writes_nothing(checkpoint, images, tmp_path, capsys, fast):
    code, said, _ = run(capsys, *request_flags(checkpoint, images, tmp_path / "run"), *fast, "--dry-run")
    assert code == 0
    assert "12 to forget" in said and "4 held back" in said and " neutral, 12 retained" in said
    assert "free directions" in said and "parameters" in said and "GiB of memory" in said
    assert list(tmp_path.iterdir()) == []


def test_statistics_add_up_and_stand_in_for_images(checkpoints, images, tmp_path, capsys, fast):
    model, known = checkpoints["llava"], images / "known"
    parts = [("a", ["--concepts", "cleo,dan"]), ("b", ["--concepts", "eve"]), ("all", ["--without", "ada,ben"])]
    for name, flags in parts:
        code, said, _ = run(capsys, "statistics", "--model", model, "--images", known, "--out", tmp_path / name, *flags)
        assert code == 0
    assert "12 images" in said
    assert run(capsys, "add-statistics", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "sum")[0] == 0
    whole, added = load_file(tmp_path / "all"), load_file(tmp_path / "sum")
    factors = [k for k in whole if k in ("replay.between", "replay.within")]
    assert len(factors) == 2 and whole.keys() == added.keys()
    for part in (whole, added):  # of a factor F only FᵀF is determined
        part |= {k: part[k].T @ part[k] for k in factors}
    assert all(torch.allclose(whole[k], added[k], rtol=1e-9, atol=1e-4 if "replay" in k else 1e-12) for k in whole)
    flags = ["--forget", known, "--concepts", "ada,ben", "--neutral", images / "neutral", "--out", tmp_path / "run"]
    flags += ["--statistics", tmp_path / "sum", *fast]
    assert re.search(
        r"\b[1-9]\d* drawn from statistics", run(capsys, "forget", "--model", model, *flags, "--dry-run")[1]
    )
    code, _, _ = run(capsys, "forget", "--model", model, *flags)
    assert code == 0
    assert not (tmp_path / "run" / "statistics.safetensors").exists()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert len(manifest["inputs"]["statistics"]) == 64

    other = [*request_flags(checkpoints["qwen2_vl"], images, tmp_path / "no"), "--statistics", tmp_path / "sum"]
    code, _, err = run(capsys, *other)
    assert code == 2 and "statistics are of another model" in err


def test_questions_from_a_table(images, tmp_path, capsys):
    (tmp_path / "facts.csv").write_text(
        "id,name\n" + "".join(f"{n},{n.title()}\n" for n in ("ada", "ben", "cleo", "dan", "eve"))
    )
    (tmp_path / "recipe.yaml").write_text(
        "id: id\ntopics:\n  name: {kind: identity, column: name, image: ['who is this ?', 'name this']}\n"
    )
    flags = ["--facts", tmp_path / "facts.csv", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "q.jsonl"]
    code, said, _ = run(capsys, "questions", "--images", images / "known", *flags)
    assert code == 0 and "20 questions to teach, 20 to test" in said
    line = json.loads((tmp_path / "q.jsonl").read_text().splitlines()[0])
    assert (line["concept"], line["answer"], line["split"]) == ("ada", "Ada", "train")


# What is refused. Each case is the flags of a good request with one thing spoilt.


def refused(capsys, flags: list[object], out: Path) -> str:
    before = sorted(out.parent.iterdir())
    code, _, err = run(capsys, *flags)
    assert code == 2
    assert "error: " in err and "Traceback" not in err
    assert sorted(out.parent.iterdir()) == before, "something was left behind"
    return " ".join(err.split())


@pytest.fixture
def copy(images, tmp_path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "copy"))


def bomb(path: Path) -> None:
    """A PNG of a few kilobytes that says it is 30000 × 30000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = (30000).to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + bytes([1, 0, 0, 0, 0]))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10000))) + chunk(b"IEND", b""))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda p: p.write_text("no picture"), "BMP image, whatever its name says"),
        (truncate, "broken image"),
        (bomb, "more than 64 megapixels"),
    ],
)
def test_a_bad_image(spoil, why, checkpoints, copy, tmp_path, capsys, fast):
    spoil(copy / "known" / "ada" / "1.png")
    flags = request_flags(checkpoints["llava"], copy, tmp_path / "run")
    assert why in refused(capsys, flags, tmp_path / "run")
    code, _, err = run(capsys, *flags, *fast, "--skip-bad")
    assert code == 0 and "left out" in err and "ada/1.png" in err


def test_an_empty_folder(checkpoints, images, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    flags = ["forget", "--model", checkpoints["llava"], "--forget", tmp_path / "empty", "--out", tmp_path / "run"]
    assert "has no concept folder" in refused(capsys, flags, tmp_path / "run")


def test_a_concept_in_both_forget_and_retain(checkpoints, images, tmp_path, capsys):
    shutil.copytree(images / "known", tmp_path / "kept")
    flags = ["forget", "--model", checkpoints["llava"], "--forget", images / "known", "--retain", tmp_path / "kept",
             "--concepts", "ada", "--out", tmp_path / "run"]  # fmt: skip
    assert "1 concept(s) stand in both forget and retain: ada" in refused(capsys, flags, tmp_path / "run")


def test_one_image(checkpoints, copy, tmp_path, capsys):
    for view in (1, 2, 3):
        (copy / "known" / "ada" / f"{view}.png").unlink()
    err = refused(capsys, request_flags(checkpoints["llava"], copy, tmp_path / "run"), tmp_path / "run")
    assert "'ada' has 1 image(s); forgetting needs at least 2" in err


def test_a_concept_that_is_not_there(checkpoints, images, tmp_path, capsys):
    flags = [*request_flags(checkpoints["llava"], images, tmp_path / "run"), "--concepts", "adda"]
    assert "no folder 'adda'. Did you mean 'ada'?" in refused(capsys, flags, tmp_path / "run")


def test_everything_forgotten_and_retained(checkpoints, images, tmp_path, capsys):
    flags = [*request_flags(checkpoints["llava"], images, tmp_path / "run"), "--concepts", ""]
    assert "nothing is left for --retain" in refused(capsys, flags, tmp_path / "run")


def test_nothing_that_is_to_stay(checkpoints, images, tmp_path, capsys):
    flags = ["forget", "--model", checkpoints["llava"], "--forget", images / "known", "--out", tmp_path / "run"]
    assert "nothing says what is to stay" in refused(capsys, flags, tmp_path / "run")


def test_a_model_without_a_vision_tower(images, tmp_path, capsys):
    LlamaConfig(hidden_size=64, num_hidden_layers=1).save_pretrained(tmp_path / "llama")
    flags = request_flags(tmp_path / "llama", images, tmp_path / "run")
    assert "llama model, which has no vision tower" in refused(capsys, flags, tmp_path / "run")


def test_nan_in_a_weight(checkpoints, images, tmp_path, capsys):
    model = Path(shutil.copytree(checkpoints["llava"], tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    name = next(n for n in tensors if "vision" in n and n.endswith("fc1.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    err = refused(capsys, request_flags(model, images, tmp_path / "run"), tmp_path / "run")
    assert "1 visual weight(s) of the model hold NaN or Inf" in err


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda m: shutil.rmtree(m), "does not exist"),
        (lambda m: (m / "config.json").unlink(), "no config.json"),
        (lambda m: (m / "config.json").write_text("{"), "is not JSON"),
        (lambda m: os.truncate(m / "model.safetensors", 100_000), "is damaged"),
        (lambda m: (m / "model.safetensors").unlink(), "neither model.safetensors.index.json nor model.safetensors"),
    ],
)
def test_a_damaged_checkpoint(spoil, why, checkpoints, images, tmp_path, capsys):
    model = Path(shutil.copytree(checkpoints["llava"], tmp_path / "model"))
    spoil(model)
    assert why in refused(capsys, request_flags(model, images, tmp_path / "run"), tmp_path / "run")


def test_an_output_that_exists(checkpoints, images, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert "exists already" in refused(
        capsys, request_flags(checkpoints["llava"], images, tmp_path / "run"), tmp_path / "run"
    )


def test_an_output_below_a_file(checkpoints, images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = request_flags(checkpoints["llava"], images, tmp_path / "file" / "run")
    code, _, err = run(capsys, *flags, "--steps", "1")
    assert code == 2 and "cannot write beside" in err


def test_a_settings_file_with_unknown_keys(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"stesp": 3, "bacth": 4, "steps": 2}))
    code, _, err = run(capsys, "forget", "--config", tmp_path / "c.yaml")
    assert code == 2
    assert "2 unknown key(s)" in err and "Did you mean 'steps'?" in err and "Did you mean 'batch'?" in err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "is not YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "alias"),
        ("#" * 2**21, "is larger than"),
        ("steps: [1, 2]", "'steps' holds several values"),
        ("- steps", "holds no settings"),
        ("steps: !!python/object/apply:os.system [exit]", "is not YAML"),
        ('out: "a\\0b"\nmodel: m\nforget: f', "null character"),
        ("\x00\xff", "is not YAML"),
    ],
)
def test_a_settings_file_of_a_stranger(text, why, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(text, encoding="latin-1")
    code, _, err = run(capsys, "forget", "--config", tmp_path / "c.yaml")
    assert code == 2 and why in err and len(err.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_settings_file_that_is_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "c.yaml")
    code, _, err = run(capsys, "forget", "--config", tmp_path / "c.yaml")
    assert code == 2 and "is not a regular file" in err


def test_a_setting_without_a_value_is_not_given(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"model: nowhere\nforget: {tmp_path}\nretain:\nout: {tmp_path / 'new'}\n")
    code, _, err = run(capsys, "forget", "--config", tmp_path / "c.yaml")
    assert code == 2 and "None" not in err


def test_a_file_size_limit_leaves_nothing_behind(checkpoints, images, tmp_path, capsys, fast):
    """The nearest to a full disk that a test can have: the operating system refuses to write on."""
    with full_disk(1 << 20):
        flags = [*request_flags(checkpoints["llava"], images, tmp_path / "run"), *fast]
        err = refused(capsys, flags, tmp_path / "run")
    assert "could not write" in err and "File too large" in err and ".unsee-" not in err


def test_a_full_disk_leaves_nothing_behind(checkpoints, images, tmp_path, capsys, fast, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("unsee.vision.patch.save_file", full)
    err = refused(capsys, [*request_flags(checkpoints["llava"], images, tmp_path / "run"), *fast], tmp_path / "run")
    assert "No space left on device. Nothing of it was left behind" in err


@pytest.mark.parametrize("subject", ["faces", "flags"])
def test_pretrain(tmp_path, capsys, subject):
    flags = ["--pictures", "20", "--steps", "2", "--batch", "4", "--subject", subject, "--out", tmp_path / "eyes"]
    code, said, _ = run(capsys, "pretrain", "--shape", "llava", *flags)
    assert code == 0 and f"a llava model that can see {subject}" in said
    assert json.loads((tmp_path / "eyes" / "config.json").read_text())["dtype"] == "float16"


def test_statistics_that_are_not_there(tmp_path, capsys):
    flags = ["add-statistics", tmp_path / "x", tmp_path / "y", "--out", tmp_path / "z"]
    assert "there is no file" in refused(capsys, flags, tmp_path / "z")
    assert "Give at least 2" in refused(capsys, flags[:2] + flags[3:], tmp_path / "z")


@pytest.mark.parametrize("args", [["--help"], ["forget", "--help"]])
def test_what_nobody_reads_ends_without_a_traceback(args):
    with subprocess.Popen(
        [sys.executable, "-m", "unsee", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 141
