"""A checkpoint on disk, read by its headers: which tensors it has, where their bytes lie, which of them are visual."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from unsee import hub
from unsee.errors import UnseeError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")  # weights, but not safetensors
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
HEADER_CAP = 100 * 2**20  # bytes, as in safetensors itself


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``start`` to ``end`` are bytes of ``file``."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self) -> Tensor:
        """The tensor, in its own memory and dtype."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            data = bytearray(file.read(self.end - self.start))
        return torch.frombuffer(data, dtype=self.dtype).reshape(self.shape) if data else torch.empty(self.shape)


@dataclass
class Checkpoint:
    """``folder``: where its files are; of a hub name only those that were asked for. ``shards``: tensor → file name."""

    name: str
    folder: Path
    config: Any
    shards: dict[str, str]
    revision: str | None = None
    trust: bool = False
    _headers: dict[str, dict[str, Entry]] = field(default_factory=dict)

    @classmethod
    def open(cls, name: str | Path, revision: str | None = None, trust: bool = False) -> Checkpoint:
        """Read config and index. ``name``: a folder or a hub name; ``trust``: run the code that it brings along.

        UnseeError: not there, not a multimodal model, quantised, or not in safetensors.
        """
        folder, commit = _find(name, revision, trust)
        config = _config(name, folder, trust)
        if getattr(config, "quantization_config", None):
            raise UnseeError(
                f"'{name}' holds quantised weights, which cannot take a small change. Give the checkpoint it was made "
                f"from, apply the patch to it, and quantise again."
            )
        return cls(str(name), folder, config, _shards(name, folder, commit), commit, trust)

    @property
    def model_class(self) -> Any:
        return model_class(self.config, self.name, self.trust)

    @cached_property
    def skeleton(self) -> Any:
        """The model without its language model and without storage (meta device)."""
        with torch.device("meta"):
            return without_language(self.model_class)(self.config)

    @cached_property
    def visual(self) -> dict[str, str]:
        """Visual tensors: name on disk → name in the model."""
        return module_names(self.skeleton, list(self.shards))

    @cached_property
    def visual_files(self) -> list[str]:
        return sorted({self.shards[name] for name in self.visual})

    def fetch(self, files: list[str]) -> None:
        """Have ``files`` in ``folder``. UnseeError: one is missing."""
        if self.revision:
            hub.fetch(self.name, self.revision, files)
        if missing := [f for f in files if not (self.folder / f).is_file()]:
            raise UnseeError(
                f"'{self.name}' lacks {len(missing)} of its files: {', '.join(missing[:5])}. Download them again."
            )

    def entry(self, name: str) -> Entry:
        """UnseeError: the file that should hold tensor ``name`` is missing, cut short or lacks it."""
        file = self.shards[name]
        if file not in self._headers:
            self.fetch([file])
            self._headers[file] = read_header(self.folder / file)
        if name not in self._headers[file]:
            raise UnseeError(f"'{self.folder / file}' lacks the tensor {name} of its index. Download it again.")
        return self._headers[file][name]


def _find(name: str | Path, revision: str | None, trust: bool) -> tuple[Path, str | None]:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UnseeError(
                f"'{name}' is not a model: it has no config.json. Give a folder written by save_pretrained."
            )
        return folder, None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) or folder.suffix == ".safetensors":
        raise UnseeError(
            f"'{name}' does not exist. Give the folder of a multimodal checkpoint, or a hub name such as "
            f"llava-hf/llava-1.5-7b-hf."
        )
    return hub.small_files(str(name), revision, code=trust)


def _config(name: str | Path, folder: Path, trust: bool) -> Any:
    with readable(name):
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not trust and "auto_map" in raw and raw.get("model_type") not in _known_types():
            raise UnseeError(
                f"'{name}' brings its own code ({raw['auto_map'].get('AutoConfig', 'auto_map')}), which unsee does not "
                f"run unasked. Read it, then give --trust-remote-code."
            )
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    model_class(config, str(name), trust)
    return config


def _known_types() -> set[str]:
    return {config.model_type for config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING}


def model_class(config: Any, name: str, trust: bool = False) -> Any:
    """The class that serves ``config``. UnseeError: not an image-text-to-text model."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    remote = getattr(config, "auto_map", None) or {}
    wanted = next((remote[k] for k in ("AutoModelForImageTextToText", "AutoModelForVision2Seq") if k in remote), None)
    if trust and wanted:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(wanted, name)
    raise UnseeError(
        f"'{name}' is a {config.model_type} model, which has no vision tower that answers about images. "
        f"unsee works on image-text-to-text models (LLaVA, Qwen2-VL, …)."
    )


def _shards(name: str | Path, folder: Path, commit: str | None) -> dict[str, str]:
    """Tensor → file, from the index or the one file's header."""
    there = hub.files(str(name), commit) if commit else [p.name for p in folder.iterdir()]
    if INDEX in there:
        with readable(name):
            shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        if odd := [f for f in set(shards.values()) if Path(f).name != f or not f.endswith(".safetensors")]:
            raise UnseeError(f"the index of '{name}' names '{odd[0]}', which is no safetensors file beside it.")
        return dict(shards)
    if SINGLE in there:
        if commit:
            hub.fetch(str(name), commit, [SINGLE])
        return dict.fromkeys(read_header(folder / SINGLE), SINGLE)
    if other := [f for f in there if f.endswith(OTHER_FORMATS)]:
        raise UnseeError(
            f"'{name}' keeps its weights as {other[0]}, which can run code when it is opened. unsee reads safetensors "
            f"only: load it once with transformers and save_pretrained it, or give a revision that has them."
        )
    raise UnseeError(f"'{name}' has no weights: neither {INDEX} nor {SINGLE} is there. Download it again.")


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, none of which is read. UnseeError: damaged, or shorter than it says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(size - 8, HEADER_CAP):
                raise ValueError("its header is cut short")
            header = json.loads(opened.read(length))
        entries = {
            name: Entry(file, DTYPES[t["dtype"]], tuple(t["shape"]), *(8 + length + o for o in t["data_offsets"]))
            for name, t in header.items()
            if name != "__metadata__" and t["dtype"] in DTYPES
        }
        if max((e.end for e in entries.values()), default=0) > size:
            raise ValueError(f"it has {size} bytes and should have {max(e.end for e in entries.values())}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UnseeError(f"the checkpoint file '{file}' is damaged: {why}. Download it again.") from error
    return entries


def module_names(model: Any, disk: list[str]) -> dict[str, str]:
    """Of the names ``disk`` those whose tensors ``model`` has, with their names in it.

    Layouts of older transformers differ by name. One disk tensor that makes several, or part of one, is left out.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    state = model.state_dict()
    found = {}
    for name in disk:
        renamed, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if converted is None and renamed in state:
            found[name] = renamed
        elif converted is None and name in state:
            found[name] = name
    return found


def without_language(cls: Any) -> Any:
    """``cls`` whose models have no language model.

    The class keeps its name and module: transformers looks up a checkpoint's key renaming by class name.
    """

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        _strip_language(self, cls)

    gone = dict.fromkeys(("get_decoder", "get_output_embeddings", "get_input_embeddings"), lambda self: None)
    names = {"__init__": init, "__module__": cls.__module__, "__qualname__": cls.__qualname__, **gone}
    return type(cls.__name__, (cls,), names)


def language_parts(model: Any, cls: Any = None) -> list[Any]:
    """The language model and its output layer, in a whole model (of class ``cls``); none in a stripped one."""
    cls = cls or type(model)
    return [part for part in (cls.get_decoder(model), cls.get_output_embeddings(model)) if part is not None]


def _strip_language(model: Any, cls: Any) -> None:
    parts = language_parts(model, cls)
    found = [name for name, module in model.named_modules() if any(module is part for part in parts)]
    names = [n for n in found if not any(n.startswith(f"{outer}.") for outer in found)]
    if not names or "" in names:
        raise UnseeError(
            f"{cls.__name__} does not say where its language model ends and its vision begins "
            f"(get_decoder), so unsee cannot load the one without the other."
        )
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, None)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    model.all_tied_weights_keys = {k: v for k, v in tied.items() if not any(k.startswith(n) for n in names)}


@contextmanager
def readable(name: str | Path) -> Iterator[None]:
    """What transformers and safetensors raise on a damaged or incomplete checkpoint, as one error."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise UnseeError(f"the checkpoint '{name}' cannot be read: {first}. Download it again, whole.") from error
