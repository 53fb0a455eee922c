"""A checkpoint on disk, read by its headers: which tensors it has, where their bytes lie, which of them are visual."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, __version__
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from unsee import hub
from unsee.errors import UnseeError
from unsee.untrusted import shown
from unsee.vision.folder import find, refuse_unreadable, served, settings
from unsee.vision.headers import Entry, read_header

MODULES = 300_000  # most that a config may ask for; a tensor has three or four at most


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
    index: str = ""  # the file that says so; empty where one file holds all
    _headers: dict[str, dict[str, Entry]] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # that the config asks for, of visual tensors

    @classmethod
    def open(
        cls,
        name: str | Path,
        revision: str | None = None,
        trust: bool = False,
        bring: bool = False,
        otherwise: str = "",
    ) -> Checkpoint:
        """Read config and index. ``name``: a folder or a hub name; ``trust``: run the code that it brings along.

        ``bring``: of a hub name, have that code in ``folder`` in any case. ``otherwise``: what else a person can do who
        does not trust it. UnseeError: not there, not a multimodal model, quantised, or not in safetensors.
        """
        folder, commit = find(name, revision, trust or bring)
        raw = settings(name, folder)
        refuse_unreadable(folder)
        config = _config(name, folder, raw, trust, otherwise)
        weights = served(name, folder, commit, raw)
        return cls(str(name), folder, config, weights.shards, commit, trust, weights.index)

    @classmethod
    def stored(cls, name: str | Path, revision: str | None = None) -> Checkpoint:
        """Its files, code that it brings along among them, but no config: nothing of it is run."""
        folder, commit = find(name, revision, code=True)
        weights = served(name, folder, commit, settings(name, folder))
        return cls(str(name), folder, None, weights.shards, commit, index=weights.index)

    @property
    def model_class(self) -> Any:
        return model_class(self.config, self.name, self.folder, self.trust)

    @cached_property
    def skeleton(self) -> Any:
        """The model without its language model and without storage (meta device)."""
        with readable(self.name), _few_modules(self.name, len(self.shards)):
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
        if name not in self.shards:
            raise UnseeError(f"'{shown(self.name)}' has no tensor {shown(name)[:200]}. Give the model it is of.")
        file = self.shards[name]
        header = self._header(file)
        if name not in header:
            raise UnseeError(f"'{self.folder / file}' lacks the tensor {name} of its index. Download it again.")
        entry = header[name]
        if (wanted := self._shapes.get(name, entry.shape)) != entry.shape:
            raise UnseeError(
                f"{name} is {entry.shape} in '{self.folder / file}', and config.json asks for {wanted}: they are of "
                f"different models. Download both again."
            )
        return entry

    def _header(self, file: str) -> dict[str, Entry]:
        """UnseeError: it holds a tensor of another file too, so that what is loaded may be either."""
        if file not in self._headers:
            self.fetch([file])
            found = read_header(self.folder / file)
            if twice := next((n for n in found if self.shards.get(n, file) != file), None):
                raise UnseeError(
                    f"'{self.folder / file}' holds {twice}, and by the index it lies in {self.shards[twice]}: these "
                    f"are parts of two sets of weights. Download the model again."
                )
            self._headers[file] = {n: entry for n, entry in found.items() if n in self.shards}
        return self._headers[file]


def _config(name: str | Path, folder: Path, raw: dict[str, Any], trust: bool, otherwise: str) -> Any:
    kind, code = raw["model_type"], raw.get("auto_map")
    if code and not trust and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UnseeError(
            f"'{shown(name)}' brings its own code ({shown(_named(code))[:200]}), which unsee does not run unasked. "
            f"Read it, then give --trust-remote-code{f', {otherwise}' if otherwise else ''}."
        )
    if not code and kind not in CONFIG_MAPPING:
        raise UnseeError(
            f"'{shown(name)}' is a {shown(kind)[:100]} model, which transformers {__version__} does not know. Install "
            f"a transformers that does, or give another model."
        )
    with readable(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        model_class(config, name, folder, trust)
    return config


@contextmanager
def _few_modules(name: str, tensors: int) -> Iterator[None]:
    """UnseeError: within, more modules are made than the weights, of so many ``tensors``, can be of."""
    left = min(MODULES, 2000 + 20 * tensors)

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UnseeError(
                f"the config.json of '{name}' asks for a model far larger than its weights, of {tensors} tensors: they "
                f"are of different models. Download both again."
            )

    counting = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        counting.remove()


def _named(code: Any) -> str:
    """Where the code is that an auto_map names."""
    return ", ".join(sorted(map(str, code.values()))) if isinstance(code, dict) else str(code)


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
    except UnseeError:
        raise
    except ImportError as error:
        raise UnseeError(f"'{shown(name)}' needs a package that is not installed: {_first_line(error)}.") from error
    except Exception as error:  # tokenizers has no class of its own, and a config of nonsense ends in any
        first = _first_line(error)
        raise UnseeError(
            f"the checkpoint '{shown(name)}' cannot be read: {first}. Download it again, whole."
        ) from error


def _first_line(error: Exception) -> str:
    """And the next, where the first only announces it."""
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return shown(" ".join([first, *more[: first.endswith(":")]]))[:500].rstrip(".")
