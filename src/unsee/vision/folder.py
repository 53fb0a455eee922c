"""The folder of a model: whether it is one, what its config.json says, and which of its files hold the weights."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsee import hub
from unsee.embedded import EMBEDDED, packaged
from unsee.errors import UnseeError
from unsee.untrusted import read_json, shown
from unsee.vision.headers import read_header

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
ADAPTER = "adapter_config.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")  # weights that can run code when they are opened
OTHER_FORMATS = (*PICKLED, ".h5", ".msgpack", ".gguf", ".onnx")  # weights, but not safetensors
SMALL_CAP = 16 * 2**20  # bytes of a settings file; a config.json takes a few KiB
TOKENS_CAP = 256 * 2**20  # bytes of a tokenizer's file; the largest take 40 MiB
READ = (  # by transformers, in Python; a tokenizer.json is read by a parser with bounds of its own
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.json", "generation_config.json",
)  # fmt: skip
TENSORS = 100_000  # of a model; transformers takes tens of microseconds for the name of each
FILES = 10_000  # looked through, of a model's folder
COUNTED = re.compile(r"(^|_)(layers?|blocks?|depths?|experts?|stages?|heads?)$")  # each of which is a module at least
MOST = 4096  # of what is counted
KERNELS = re.compile(r"_implementation$")
INDEXES = re.compile(r"\.index(\.[^.]+)?\.json$")  # with a variant's name too
VARIANT = re.compile(r"model\.[\w-]+\.safetensors|model\.safetensors\.index\.[\w-]+\.json")


@dataclass(frozen=True)
class Weights:
    """``shards``: tensor → file name. ``index``: the file that says so; empty where one file holds all."""

    shards: dict[str, str]
    index: str = ""


def find(name: str | Path, revision: str | None, code: bool) -> tuple[Path, str | None]:
    """The folder of a model and, of a hub name, the commit. UnseeError: it is something else, or not there.

    A model of the package is found by its name, unless a folder is called so.

    ``code``: of a hub name, bring its Python files too.
    """
    folder = Path(name)
    try:
        there, is_folder = os.path.lexists(folder), folder.is_dir()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UnseeError(f"cannot look at '{shown(name)[:300]}': {why}.") from error
    if there and not is_folder:
        raise UnseeError(_no_folder(folder))
    if not there and str(name) in EMBEDDED:
        return packaged(str(name)), None
    if not there and (not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) or folder.suffix in (".safetensors", ".gguf")):
        raise UnseeError(
            f"'{shown(name)}' does not exist. Give the folder of a multimodal checkpoint, a hub name such as "
            f"llava-hf/llava-1.5-7b-hf, or a model of this package: {', '.join(EMBEDDED)}."
        )
    found, commit = (folder, None) if there else hub.small_files(str(name), revision, code=code)
    _refuse_adapter(name, found)
    if not (found / CONFIG).exists():
        raise UnseeError(_no_model(name, found))
    return found, commit


def _no_folder(file: Path) -> str:
    """Why a path that is there is no model."""
    if not file.exists():
        return f"'{shown(file)}' is a link to nothing. Give the folder of a multimodal checkpoint."
    if file.suffix == ".gguf":
        return (
            f"'{shown(file)}' is a GGUF file: weights that were quantised or converted for llama.cpp. Give the folder "
            f"of the safetensors checkpoint it was made from, apply the patch to that, and convert it again."
        )
    beside = f" Give the folder it lies in: {shown(file.absolute().parent)}."
    if file.suffix == ".safetensors":
        return f"'{shown(file)}' is one file of weights, and a model is a folder.{beside}"
    hint = beside if (file.absolute().parent / CONFIG).is_file() else " Give the folder of a multimodal checkpoint."
    return f"'{shown(file)}' is a file, and a model is a folder.{hint}"


def _refuse_adapter(name: str | Path, folder: Path) -> None:
    """transformers loads an adapter on top of what lies beside it: the model that serves is not what is patched."""
    if not (folder / ADAPTER).exists():
        return
    settings = read_json(folder / ADAPTER, SMALL_CAP)
    given = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    base = shown(given)[:200] if isinstance(given, str) and given else "BASE"
    raise UnseeError(
        f"'{shown(name)}' holds a LoRA adapter ({ADAPTER}): merge it first. Load the base model, then "
        f"peft.PeftModel.from_pretrained(base, ADAPTER).merge_and_unload().save_pretrained(MERGED); save the "
        f"processor of '{base}' there too, and give MERGED."
    )


def _no_model(name: str | Path, folder: Path) -> str:
    """Why a folder without config.json is no model, and which one may be meant."""
    start = f"'{shown(name)}' is not a model: "
    apply = "unsee apply --model MODEL --patch {} --out NEW, and give NEW."
    if (folder / hub.PATCH).is_file():
        return f"{start}it is a run of unsee, which holds a patch. " + apply.format(shown(folder / "patch"))
    if (folder / "patch.safetensors").is_file():
        return f"{start}it is a patch of unsee. " + apply.format(shown(folder))
    if (folder / "ledger.db").is_file():
        return f"{start}it is a ledger of unsee. unsee requests export writes the model that it serves."
    if (folder / "model_index.json").is_file():
        return (
            f"{start}it is a pipeline of diffusers, which draws images. unsee works on models that answer about them."
        )
    if near := _models_in(folder):
        more = f" ({len(near)} such folders)" if len(near) > 1 else ""
        return f"{start}it has no config.json. A folder in it has one{more}: give '{shown(near[-1])}'."
    return f"{start}it has no config.json. Give a folder written by save_pretrained."


def _models_in(folder: Path) -> list[Path]:
    """Models one or two levels below, the one of most training steps last."""
    found = [p.parent for level in ("*", "*/*") for p in _some(folder, f"{level}/{CONFIG}")]
    return sorted(found, key=lambda p: (_number(p.name), p.name))


def _some(folder: Path, pattern: str) -> list[Path]:
    return [p for p, _ in zip(folder.glob(pattern), range(FILES), strict=False)]


def _number(name: str) -> int:
    digits = re.search(r"-(\d{1,15})$", name)
    return int(digits[1]) if digits else -1


def settings(name: str | Path, folder: Path) -> dict[str, Any]:
    """What config.json says. UnseeError: it says nothing, or what no model asks for, or the weights are quantised."""
    raw = read_json(folder / CONFIG, SMALL_CAP)
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise UnseeError(f"the config.json of '{shown(name)}' names no model_type. Download it again.")
    if raw.get("quantization_config"):
        raise UnseeError(
            f"'{shown(name)}' holds quantised weights, which cannot take a small change. Give the checkpoint it was "
            f"made from, apply the patch to it, and quantise again."
        )
    for key, value in _settings_in(raw):
        if COUNTED.search(key) and type(value) is int and value > MOST:
            raise UnseeError(
                f"the config.json of '{shown(name)}' asks for {shown(key)} = {value}, and {MOST} is the most that "
                f"any model has. Download it again."
            )
        if KERNELS.search(key) and "/" in str(value):
            raise UnseeError(
                f"the config.json of '{shown(name)}' asks for code from the hub ({shown(key)}: {shown(value)[:100]}), "
                f"which unsee does not run. Take the line out."
            )
    return raw


def _settings_in(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth; a list's items under the key of the list."""
    rest: list[tuple[str, Any]] = [("", value)]
    while rest:
        key, value = rest.pop()
        if isinstance(value, dict):
            rest += value.items()
        elif isinstance(value, list):
            rest += [(key, v) for v in value]
        yield key, value


def refuse_unreadable(folder: Path) -> None:
    """UnseeError: a file that transformers would read is a pipe or too large, or is nested too deep for its readers."""
    small = tuple(pattern.removeprefix("*") for pattern in hub.SMALL)
    for file in [*_some(folder, "*"), *_some(folder, "additional_chat_templates/*")]:
        if file.name.endswith(small):
            _refuse_large(file)
        if file.name in READ and file.is_file():
            read_json(file, SMALL_CAP)


def _refuse_large(file: Path) -> None:
    try:
        found = file.stat()
    except OSError:  # a link to nothing: nobody reads it
        return
    if not stat.S_ISREG(found.st_mode):
        raise UnseeError(f"'{shown(file)}' is not a regular file. Remove it, or download the model again.")
    if found.st_size > TOKENS_CAP:
        raise UnseeError(f"'{shown(file)}' is larger than {TOKENS_CAP // 2**20} MiB, the most that is read of such.")


def served(name: str | Path, folder: Path, commit: str | None, settings: dict[str, Any]) -> Weights:
    """Which file holds each tensor, by transformers' own rule: its one file, or else what its index names.

    An index beside the one file is not read: shards of it are an older set, or not there. ``commit``: of a hub name.
    """
    there = hub.files(str(name), commit) if commit else [p.name for p in folder.iterdir() if p.is_file()]
    chosen = _chosen(name, there, settings.get("transformers_weights"))
    if chosen.endswith(".index.json"):
        return Weights(_mapped(name, folder, chosen), chosen)
    if commit:
        hub.fetch(str(name), commit, [chosen])
    return Weights(dict.fromkeys(read_header(folder / chosen), chosen))


def _chosen(name: str | Path, there: list[str], named: Any) -> str:
    """``named``: the file that config.json names, which transformers takes before any other."""
    if named is not None:
        if isinstance(named, str) and named in there and named.endswith((".safetensors", ".safetensors.index.json")):
            return named
        raise UnseeError(
            f"the config.json of '{shown(name)}' names the weights '{shown(named)[:100]}' (transformers_weights), and "
            f"there is no such safetensors file beside it. Download the model again."
        )
    if found := next((file for file in (SINGLE, INDEX) if file in there), None):
        return found
    raise UnseeError(_no_weights(name, sorted(there)))


def _no_weights(name: str | Path, there: list[str]) -> str:
    other = next((f for f in there if f.endswith(OTHER_FORMATS)), "")
    kept = f"'{shown(name)}' keeps its weights as {shown(other)}"
    if other.endswith(".gguf"):
        return (
            f"{kept}, which were quantised or converted for llama.cpp. Give the safetensors checkpoint they were made "
            f"from, apply the patch to that, and convert it again."
        )
    if other.endswith(PICKLED):
        return (
            f"{kept}, which can run code when it is opened. unsee reads safetensors only: load it once with "
            f"transformers and save_pretrained it, or give a revision that has them."
        )
    if other:
        return f"{kept}, and unsee reads safetensors only: load it once with transformers and save_pretrained it."
    if variant := next((f for f in there if VARIANT.fullmatch(f)), ""):
        return (
            f"'{shown(name)}' has the weights {shown(variant)} alone, which transformers loads only when it is asked "
            f"for that variant. Rename them to {SINGLE} (an index to {INDEX}) if they are to be served."
        )
    if mine := next((f for f in there if f.endswith(".safetensors")), ""):
        return (
            f"'{shown(name)}' has {shown(mine)}, and neither {INDEX} nor {SINGLE}, which transformers looks for. "
            f"Download it again, or rename the file if it holds all weights."
        )
    return f"'{shown(name)}' has no weights: neither {INDEX} nor {SINGLE} is there. Download it again."


def _mapped(name: str | Path, folder: Path, index: str) -> dict[str, str]:
    found = read_json(folder / index)
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise UnseeError(f"the index {index} of '{shown(name)}' has no weight_map. Download it again.")
    if len(shards) > TENSORS:
        raise UnseeError(
            f"the index {index} of '{shown(name)}' names {len(shards)} tensors, and {TENSORS} is the most that is "
            f"read. Download it again."
        )
    if odd := [f for f in shards.values() if not _beside(f)]:
        raise UnseeError(
            f"the index {index} of '{shown(name)}' names '{shown(odd[0])[:100]}', which is no safetensors file beside "
            f"it. Download it again."
        )
    return shards


def _beside(file: Any) -> bool:
    return isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors") and "\0" not in file
