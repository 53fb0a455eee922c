"""The feed-forward layers of a model, and what goes into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from unsee.errors import UnseeError
from unsee.rivals.job import Job, Part

NAMES = ("mlp", "ffn", "feed_forward")  # of the modules that hold them, in transformers


def feed_forward(job: Job, part: Part) -> dict[str, dict[str, nn.Linear]]:
    """The linear layers of each feed-forward block of a part, in the order they were made; the projector is none.

    UnseeError: there is none.
    """
    projector = {id(p) for p in job.parameters("projector").values()}
    blocks: dict[str, dict[str, nn.Linear]] = {}
    for name, module in job.linears(part).items():
        owner = name.rpartition(".")[0]
        if owner.rpartition(".")[2] in NAMES and id(module.weight) not in projector:
            blocks.setdefault(owner, {})[name] = module
    if not blocks:
        raise UnseeError(
            f"no feed-forward layers in the {part} part of {type(job.model).__name__}: they are looked for in modules "
            f"called {', '.join(NAMES)}. Leave this method out for this model."
        )
    return blocks


@contextmanager
def watched(modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within: ``see`` is given each module's name and input whenever it runs."""

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            see(name, args[0])

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
