"""A checkpoint on disk, read by its headers: which tensors it has, where their bytes lie, which of them are visual."""

from __future__ import annotations

import json
import math
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
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, __version__
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from unsee import hub
from unsee.errors import UnseeError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")  # weights, but not safetensors
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
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
        if not data:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(data, dtype=self.dtype).reshape(self.shape)


@dataclass
class Checkpoint:
    """``folder``: where its files are; of a hub name only those that were asked for. ``shards``: tensor → file name.

    ``config``: None where only its files were asked for (``stored``).
    """

    name: str
    folder: Path
    config: Any
    shards: dict[str, str]
    revision: str | None = None
    trust: bool = False
    _headers: dict[str, dict[str, Entry]] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # that the config asks for, of visual tensors

    @classmethod
    def open(cls, name: str | Path, revision: str | None = None, trust: bool = False) -> Checkpoint:
        """Read config and index. ``name``: a folder or a hub name; ``trust``: run the code that it brings along.

        UnseeError: not there, not a multimodal model, quantised, or not in safetensors.
        """
        folder, commit = _find(name, revision, trust)
        config = _config(name, folder, trust)
        return cls(str(name), folder, config, _shards(name, folder, commit), commit, trust)

    @classmethod
    def stored(cls, name: str | Path, revision: str | None = None) -> Checkpoint:
        """Its files, code that it brings along among them, but no config: nothing of it is run."""
        folder, commit = _find(name, revision, code=True)
        _settings(name, folder)
        return cls(str(name), folder, None, _shards(name, folder, commit), commit)

    @property
    def model_class(self) -> Any:
        return model_class(self.config, self.name, self.folder, self.trust)

    @cached_property
    def skeleton(self) -> Any:
        """The model without its language model and without storage (meta device)."""
        with readable(self.name):
            return skeleton_of(self.model_class, self.config)

    @cached_property
    def visual(self) -> dict[str, str]:
        """Visual tensors: name on disk → name in the model. UnseeError: there is none."""
        with readable(self.name):
            found = module_names(self.skeleton, list(self.shards))
        if not found:
            raise UnseeError(
                f"'{self.name}' has no visual tensor that transformers' {self.config.model_type} would read. "
                f"It is incomplete or of another model: download it again."
            )
        state = self.skeleton.state_dict()
        self._shapes = {disk: tuple(state[module].shape) for disk, module in found.items()}
        return found

    @cached_property
    def visual_files(self) -> list[str]:
        return sorted({self.shards[name] for name in self.visual})

    def fetch(self, files: list[str]) -> None:
        """Have ``files`` in ``folder``. UnseeError: one is missing."""
        if self.revision and files:
            hub.fetch(self.name, self.revision, files)
        if missing := [f for f in files if not (self.folder / f).is_file()]:
            raise UnseeError(
                f"'{self.name}' lacks {len(missing)} of its files: {', '.join(missing[:5])}. Download them again."
            )

    def complete(self) -> None:
        """Have all of it in ``folder``. UnseeError: a file is missing, damaged or lacks a tensor of the index."""
        self.fetch(sorted(set(self.shards.values())))
        for name in self.shards:
            self.entry(name)

    def entry(self, name: str) -> Entry:
        """UnseeError: the file that should hold tensor ``name`` is missing, damaged, lacks it or has another shape."""
        file = self.shards[name]
        if file not in self._headers:
            self.fetch([file])
            self._headers[file] = read_header(self.folder / file)
        if name not in self._headers[file]:
            raise UnseeError(f"'{self.folder / file}' lacks the tensor {name} of its index. Download it again.")
        entry = self._headers[file][name]
        if (wanted := self._shapes.get(name, entry.shape)) != entry.shape:
            raise UnseeError(
                f"{name} is {entry.shape} in '{self.folder / file}', and config.json asks for {wanted}: they are of "
                f"different models. Download both again."
            )
        return entry


def _find(name: str | Path, revision: str | None, code: bool) -> tuple[Path, str | None]:
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
    return hub.small_files(str(name), revision, code=code)


def _settings(name: str | Path, folder: Path) -> dict[str, Any]:
    """What config.json says. UnseeError: it says nothing, or that the weights are quantised."""
    with readable(name):
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise UnseeError(f"the config.json of '{name}' names no model_type. Download it again.")
    if raw.get("quantization_config"):
        raise UnseeError(
            f"'{name}' holds quantised weights, which cannot take a small change. Give the checkpoint it was made "
            f"from, apply the patch to it, and quantise again."
        )
    return raw


def _config(name: str | Path, folder: Path, trust: bool) -> Any:
    raw = _settings(name, folder)
    kind, code = raw["model_type"], raw.get("auto_map")
    if code and not trust and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UnseeError(
            f"'{name}' brings its own code ({', '.join(map(str, _named(code)))}), which unsee does not run unasked. "
            f"Read it, then give --trust-remote-code."
        )
    if not code and kind not in CONFIG_MAPPING:
        raise UnseeError(
            f"'{name}' is a {kind} model, which transformers {__version__} does not know. Install a transformers that "
            f"does, or give another model."
        )
    with readable(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        model_class(config, name, folder, trust)
    return config


def _named(code: Any) -> list[Any]:
    """Where the code is that an auto_map names."""
    return sorted(code.values(), key=str) if isinstance(code, dict) else [code]


def model_class(config: Any, name: str | Path, folder: Path, trust: bool = False) -> Any:
    """The class that serves ``config``. UnseeError: not an image-text-to-text model."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    remote = getattr(config, "auto_map", None) or {}
    wanted = next((remote[k] for k in ("AutoModelForImageTextToText", "AutoModelForVision2Seq") if k in remote), None)
    if trust and wanted:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(wanted, folder)
    raise UnseeError(
        f"'{name}' is a {config.model_type} model, which has no vision tower that answers about images. "
        f"unsee works on image-text-to-text models (LLaVA, Qwen2-VL, …)."
    )


def _shards(name: str | Path, folder: Path, commit: str | None) -> dict[str, str]:
    """Tensor → file, from the index or the one file's header."""
    there = hub.files(str(name), commit) if commit else [p.name for p in folder.iterdir()]
    if INDEX in there:
        with readable(name):
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise UnseeError(f"the index {INDEX} of '{name}' has no weight_map. Download it again.")
        if odd := [f for f in shards.values() if not _beside(f)]:
            raise UnseeError(
                f"the index {INDEX} of '{name}' names '{odd[0]}', which is no safetensors file beside it. "
                f"Download it again."
            )
        return shards
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


def _beside(file: Any) -> bool:
    return isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, none of which is read. UnseeError: damaged, or not as long as it says."""
    cause: Exception
    why: object
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(size - 8, HEADER_CAP):
                raise ValueError("its header is cut short")
            return _entries(file, json.loads(opened.read(length)), 8 + length, size)
    except OSError as error:
        cause, why = error, error.strerror
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError, RecursionError) as error:
        cause, why = error, "its header is no table of tensors"
    except ValueError as error:
        cause, why = error, error
    raise UnseeError(f"the checkpoint file '{file}' is damaged: {why}. Remove it, and download it again.") from cause


def _entries(file: Path, header: dict[str, Any], data: int, size: int) -> dict[str, Entry]:
    """As safetensors has it, tensors lie one after another from byte ``data`` to the file's end, ``size``."""
    found, at = {}, data
    tensors = {n: t for n, t in header.items() if n != "__metadata__"}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        offsets, shape, dtype = tensor["data_offsets"], tuple(tensor["shape"]), DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise ValueError(f"{name} has the dtype {tensor['dtype']}, which unsee does not know")
        if len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in (*offsets, *shape)):
            raise ValueError(f"{name} has no place or shape that can be")
        start, end = offsets
        if data + start != at:
            raise ValueError(f"{name} does not begin where the tensor before it ends")
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {end - start} bytes, which its shape and dtype do not take")
        found[name], at = Entry(file, dtype, shape, data + start, data + end), data + end
    if at != size:
        raise ValueError(f"it has {size} bytes and should have {at}")
    return found


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


def skeleton_of(cls: Any, config: Any) -> Any:
    """A model of class ``cls`` without its language model, on the meta device."""
    with torch.device("meta"), no_init_weights():  # there is nothing to fill; of 80 layers it takes half a second
        return without_language(cls)(config).eval()


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
    except ImportError as error:
        raise UnseeError(f"'{name}' needs a package that is not installed: {_first_line(error)}.") from error
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        first = _first_line(error)
        raise UnseeError(f"the checkpoint '{name}' cannot be read: {first}. Download it again, whole.") from error


def _first_line(error: Exception) -> str:
    """And the next, where the first only announces it."""
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join([first, *more[: first.endswith(":")]]).rstrip(".")
