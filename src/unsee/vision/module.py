"""Load the visual module of a multimodal checkpoint without its language model, and compute image features with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoImageProcessor, AutoProcessor

from unsee.concepts import ImageRef
from unsee.errors import UnseeError

Pixels = dict[str, Tensor]  # one image as its processor gives it; every entry is joined along dimension 0


def _config(path: str | Path) -> Any:
    path = Path(path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UnseeError(f"'{path}' is not a model: it has no config.json. Give a folder written by save_pretrained.")
    if not path.is_dir():
        raise UnseeError(f"'{path}' does not exist. Give the folder of a multimodal checkpoint.")
    with _readable(path):
        config = AutoConfig.from_pretrained(path)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UnseeError(
            f"'{path}' is a {config.model_type} model, which has no vision tower that answers about images. "
            f"unsee works on image-text-to-text models (LLaVA, Qwen2-VL, …)."
        )
    return config


def load_full(path: str | Path, dtype: torch.dtype | str = torch.float32) -> tuple[Any, Any]:
    """The whole model, for answering questions, and its processor."""
    cls: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(_config(path))]
    with _readable(path):
        return cls.from_pretrained(path, dtype=dtype).eval(), AutoProcessor.from_pretrained(path)


def load_visual(path: str | Path) -> Visual:
    """The visual module alone, in float32. No tensor of the language model is read or allocated.

    The class keeps its name and module: transformers looks up a checkpoint's key renaming by class name.
    """
    config = _config(path)
    cls: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        _strip_language(self)

    names = {"__init__": init, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    stripped: Any = type(cls.__name__, (cls,), names)
    with _readable(path):
        model, info = stripped.from_pretrained(path, config=config, dtype=torch.float32, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(path)
    if info["missing_keys"] or info["mismatched_keys"]:
        missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise UnseeError(
            f"the checkpoint '{path}' lacks {len(missing)} visual tensor(s), or has them in another shape: "
            f"{', '.join(missing[:5])}. It is incomplete or of another model: download it again."
        )
    return Visual(model.eval(), processor)


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """What transformers and safetensors raise on a damaged or incomplete checkpoint, as one error."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise UnseeError(f"the checkpoint '{path}' cannot be read: {first}. Download it again, whole.") from error


def _strip_language(model: Any) -> None:
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    names = [name for name, module in model.named_modules() if any(module is part for part in parts)]
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, None)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    model.all_tied_weights_keys = {k: v for k, v in tied.items() if not any(k.startswith(n) for n in names)}
    known = set(model._keys_to_ignore_on_load_unexpected or ())
    model._keys_to_ignore_on_load_unexpected = known | {
        r"language_model\.",
        r"lm_head\.",
        r"^model\.(layers|embed|norm)",
    }


class Visual:
    """Vision encoder and projector of ``model`` (a whole one or a stripped one): images in, features out."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.image_processor = getattr(processor, "image_processor", processor)
        head = getattr(model, "model", model)
        if not hasattr(head, "get_image_features"):
            raise UnseeError(
                f"{type(model).__name__} has no get_image_features, so there is no visual module to change. "
                f"unsee works on image-text-to-text models (LLaVA, Qwen2-VL, …)."
            )
        self._head = head
        self._any = next(iter(self.parameters().values()))  # looked up once: the walk costs a tenth of a small step
        self._inputs = set(inspect.signature(inspect.unwrap(type(head).get_image_features)).parameters)

    @property
    def device(self) -> torch.device:
        return self._any.device

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything outside the language model, by its name in the model."""
        language = _language_ids(self.model)
        return {n: p for n, p in self.model.named_parameters() if id(p) not in language}

    def tensors(self) -> dict[str, Tensor]:
        """The visual parameters, detached, by name."""
        return {n: p.detach() for n, p in self.parameters().items()}

    def pixels(self, images: Sequence[ImageRef | PIL.Image.Image], batch: int = 64) -> list[Pixels]:
        """Each image through the model's own image processor, opened when its turn comes."""
        result: list[Pixels] = []
        for start in range(0, len(images), batch):
            opened = [i if isinstance(i, PIL.Image.Image) else i.load() for i in images[start : start + batch]]
            out = self.image_processor(images=opened, return_tensors="pt")
            result += _per_image({k: v for k, v in out.items() if k in self._inputs}, len(opened))
        return result

    def features(self, batch: Sequence[Pixels]) -> list[Tensor]:
        """Projected features of each image: ``[tokens, language width]``, as the language model receives them."""
        joined = {k: torch.cat([p[k] for p in batch]).to(self.device) for k in batch[0]}
        out = self._head.get_image_features(**joined, return_dict=True).pooler_output
        return list(out)

    def linears(self, probe: Sequence[Pixels]) -> dict[str, nn.Linear]:
        """The linear layers that reach the features, found by a backward pass: an unused last layer has no gradient."""
        visual = self.parameters()
        asked = {n: p.requires_grad for n, p in visual.items()}
        for p in visual.values():
            p.requires_grad_(True)
        with torch.enable_grad():
            total = torch.stack([f.square().sum() for f in self.features(probe)]).sum()
            grads = torch.autograd.grad(total, list(visual.values()), allow_unused=True)
        reached = {n for (n, p), g in zip(visual.items(), grads, strict=True) if g is not None}
        for n, p in visual.items():
            p.requires_grad_(asked[n])
        found = {n: m for n, m in self._modules() if isinstance(m, nn.Linear) and f"{n}.weight" in reached}
        if not found:
            raise UnseeError(f"no linear layer of {type(self.model).__name__} reaches its image features.")
        return found

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        return ((n, m) for n, m in self.model.named_modules() if n)


def _language_ids(model: Any) -> set[int]:
    parts = (model.get_decoder(), model.get_output_embeddings())
    return {id(p) for part in parts if part is not None for p in part.parameters()}


def _per_image(out: dict[str, Tensor], n: int) -> list[Pixels]:
    """Qwen-like processors pack the patches of all images in one tensor; cut it back by each image's grid."""
    if "image_grid_thw" in out:
        sizes = out["image_grid_thw"].prod(-1).tolist()
        cut = {k: v.split(1) if k == "image_grid_thw" else v.split(sizes) for k, v in out.items()}
    else:
        cut = {k: v.split(1) for k, v in out.items()}
    return [{k: v[i] for k, v in cut.items()} for i in range(n)]
