"""One model, what it is to forget and what is to stay: the probabilities, gradients and guards of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unsee.concepts import Question
from unsee.errors import UnseeError
from unsee.evaluation.tasks import Exam
from unsee.finetune import Tutor, answer_logits, placed
from unsee.rivals.material import Example, Material
from unsee.rivals.method import Training
from unsee.vision.attention import attention_for
from unsee.vision.checkpoint import language_parts
from unsee.vision.module import Pixels, Visual
from unsee.vision.trace import trace

Part = Literal["all", "language", "visual", "projector"]  # visual: vision encoder and projector
CHUNK = 64  # examples at a time where no gradient is needed


@dataclass(frozen=True)
class Scored:
    """Of every token of every answer, in order: ``logits`` [tokens, vocabulary], the true token, whose answer it is.

    ``example`` [answers]: whose example each answer is.
    """

    logits: Tensor
    labels: Tensor
    answer: Tensor
    example: Tensor

    def log_probs(self) -> Tensor:
        """Log-probability of each answer, summed over its tokens: ``[answers]``."""
        each = self.logits.log_softmax(-1).gather(1, self.labels[:, None])[:, 0]
        return each.new_zeros(len(self.example)).index_add(0, self.answer, each)

    def loss(self) -> Tensor:
        """Cross-entropy: mean over an example's tokens, then over examples, so that parts of a batch add up."""
        return self.mean(nn.functional.cross_entropy(self.logits, self.labels, reduction="none"))

    def each(self) -> list[Scored]:
        """The same, an example each."""
        found = list[Scored]()
        for i in self.example.unique_consecutive():
            tokens, own = self.example[self.answer] == i, (self.example == i).nonzero()[:, 0]
            part = Scored(self.logits[tokens], self.labels[tokens], self.answer[tokens] - own[0], torch.zeros_like(own))
            found.append(part)
        return found

    def mean(self, each: Tensor) -> Tensor:
        """Of one value a token: mean over an example's tokens, then over examples."""
        whose = self.example[self.answer]
        n = int(self.example.max()) + 1
        counts = torch.bincount(whose, minlength=n).to(each.dtype)
        return (each.new_zeros(n).index_add(0, whose, each) / counts).mean()


class Job:
    """``trained``: how many weights the method changed. ``pixels``: opened images, which several jobs may share."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        material: Material,
        pixels: dict[str, Pixels] | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.model, self.processor, self.material, self.checkpoint = model, processor, material, checkpoint
        self.visual, self.tutor = Visual(model, processor), Tutor(model, processor)
        self.vanilla = {k: v.clone() for k, v in model.state_dict().items()}
        self.trained = 0
        self._pixels = {} if pixels is None else pixels
        self._features: dict[str, Tensor] = {}
        self._undo: list[Callable[[], None]] = []
        self._reword: Callable[[Question], Question] | None = None
        model.requires_grad_(False)

    def restore(self) -> None:
        """The model as it was, without guards."""
        while self._undo:
            self._undo.pop()()
        self.model.load_state_dict(self.vanilla)
        self._reword, self.trained = None, 0
        self._features.clear()

    def refresh(self) -> None:
        """To be called where visual weights were changed by hand: features are computed anew."""
        self._features.clear()

    def pixels(self, examples: Sequence[Example]) -> list[Pixels]:
        """Each example's image through the model's processor, once."""
        images = {e.image.id: e.image for e in examples if e.image}
        missing = [i for i in images if i not in self._pixels]
        self._pixels |= zip(missing, self.visual.pixels([images[i] for i in missing]), strict=True)
        return [self._pixels[e.image.id] for e in examples if e.image]

    def features(self, examples: Sequence[Example]) -> list[Tensor]:
        """What the language model receives of each image, ``[tokens, width]``; with a gradient where that trains."""
        pixels = self.pixels(examples)
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.visual.parameters().values()):
            return self.visual.features(pixels)
        ids = [e.image.id for e in examples if e.image]
        missing = {i: p for i, p in zip(ids, pixels, strict=True) if i not in self._features}
        if missing:
            self._features |= self._see(missing)
        return [self._features[i] for i in ids]

    @torch.no_grad()
    def _see(self, images: Mapping[str, Pixels]) -> dict[str, Tensor]:
        """Features by image, in full precision and one way of attention: the same to the bit whenever they are made."""
        found: dict[str, Tensor] = {}
        with torch.autocast(self.model.device.type, enabled=False), attention_for(self.model, training=True):
            for start in range(0, len(images), CHUNK):
                part = list(images)[start : start + CHUNK]
                found |= zip(part, self.visual.features([images[i] for i in part]), strict=True)
        return found

    def scores(self, examples: Sequence[Example]) -> Scored:
        """The model's predictions of the answers. All examples have an image, or none has."""
        shown = [e.image is not None for e in examples]
        if any(shown) != all(shown):
            raise UnseeError("examples with and without images in one batch: score them apart.")
        features = self.features(examples) if all(shown) else []
        sizes = [len(f) for f in features] or [0] * len(examples)
        rows = [self.tutor.row(e.questions, n) for e, n in zip(examples, sizes, strict=True)]
        grids = [p["image_grid_thw"] for p in self.pixels(examples) if "image_grid_thw" in p]
        batch = placed(self.model, self.tutor.batch(rows, torch.cat(grids) if grids else None))
        logits, labels = answer_logits(self.model, batch, features)
        lengths = torch.tensor([len(answer) for row in rows for _, answer in row.turns])
        owners = torch.tensor([i for i, row in enumerate(rows) for _ in row.turns])
        answer = torch.arange(len(lengths)).repeat_interleave(lengths)
        return Scored(logits, labels, answer.to(logits.device), owners.to(logits.device))

    def parts(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """A few examples at a time."""
        for start in range(0, len(examples), CHUNK):
            yield examples[start : start + CHUNK]

    @torch.no_grad()
    def reference(self, examples: Sequence[Example], of: Callable[[Scored], Tensor]) -> list[Tensor]:
        """``of`` the model as it is now, an example each: computed once, so that no second model is needed."""
        found: list[Tensor] = []
        for _, alike in groupby(examples, lambda e: e.image is None):
            for part in self.parts(list(alike)):
                found += [of(one).detach() for one in self.scores(part).each()]
        return found

    def parameters(self, part: Part = "all") -> dict[str, nn.Parameter]:
        """The weights of a part, by name."""
        language = {id(p) for module in language_parts(self.model) for p in module.parameters()}
        wanted: dict[Part, Callable[[str, nn.Parameter], bool]] = {
            "all": lambda n, p: True,
            "language": lambda n, p: id(p) in language,
            "visual": lambda n, p: id(p) not in language,
            "projector": lambda n, p: id(p) not in language and self.visual.family.in_projector(n),
        }
        return {n: p for n, p in self.model.named_parameters() if wanted[part](n, p)}

    def linears(self, part: Part = "all") -> dict[str, nn.Linear]:
        """The linear layers of a part that a prediction passes through; the output layer is none of them."""
        weights = {id(p) for p in self.parameters(part).values()}
        reached = set(trace(self.visual, self.pixels(self.material.forget[:1])[0]).linears)
        language = {id(p) for p in self.parameters("language").values()}
        return {
            n: m
            for n, m in self.model.named_modules()
            if isinstance(m, nn.Linear)
            and id(m.weight) in weights
            and m is not self.model.get_output_embeddings()
            and (id(m.weight) in language or n in reached)
        }

    def projector(self) -> dict[str, nn.Linear]:
        """The projector's linear layers. UnseeError: it has none, so that a method that trains it alone cannot."""
        found = self.linears("projector")
        if not found:
            raise UnseeError(
                f"the projector of {type(self.model).__name__} has no linear layer that reaches the features. Leave "
                f"this method out for this model."
            )
        return found

    @contextmanager
    def training(self, config: Training, part: Part) -> Iterator[dict[str, nn.Parameter]]:
        """Within: what is given trains and nothing else. Adapters are merged into the weights at the end."""
        adapters = self._adapt(config, part) if config.weights == "lora" else None
        weights = self.parameters("all" if adapters else part)
        trained = {n: p for n, p in weights.items() if not adapters or "lora_" in n}
        for p in trained.values():
            p.requires_grad_(True)
        self.trained += sum(p.numel() for p in trained.values())
        try:
            with attention_for(self.model, config.bf16):
                yield trained
        finally:
            if adapters:
                adapters.merge_and_unload()
                vars(self.model).pop("peft_config", None)  # or the next adapters would be taken for a second set
            self.model.requires_grad_(False)
            self._features.clear()

    def _adapt(self, config: Training, part: Part) -> Any:
        try:
            from peft import LoraConfig
            from peft.tuners.lora import LoraModel
        except ImportError as error:
            raise UnseeError("adapters need peft: pip install 'unsee[compare]'") from error
        torch.manual_seed(config.seed)
        names = list(self.linears(part))
        settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names)
        return LoraModel(self.model, settings, "default")

    def guard(self, change: Callable[[list[Tensor]], list[Tensor]]) -> None:
        """From now on the language model receives ``change`` of the images' features, ``[tokens, width]`` each."""
        if self.visual.family.features:
            raise UnseeError(f"{type(self.model).__name__} gives its image features in a way that cannot be guarded.")
        head = self.visual.head
        plain = head.get_image_features

        def guarded(*args: Any, **kwargs: Any) -> Any:
            out = plain(*args, **kwargs)
            changed = change(list(out.pooler_output))
            out.pooler_output = torch.stack(changed) if isinstance(out.pooler_output, Tensor) else changed
            return out

        head.get_image_features = guarded
        self._undo.append(lambda: delattr(head, "get_image_features"))
        self._features.clear()

    def hook(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """From now on ``module`` gives ``change`` of its output."""

        def apply(_: nn.Module, __: Any, output: Any) -> Any:
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        self._undo.append(module.register_forward_hook(apply, prepend=True).remove)
        self._features.clear()

    def reword(self, change: Callable[[Question], Question]) -> None:
        """From now on the model is asked ``change`` of each question."""
        self._reword = change

    def exam(self, exam: Exam) -> Exam:
        """The exam as the model is asked it."""
        reword = self._reword
        if reword is None:
            return exam
        return replace(exam, groups={name: [reword(q) for q in asked] for name, asked in exam.groups.items()})

    def changed(self) -> Mapping[str, Tensor]:
        """Weights that differ from vanilla, less what they were."""
        now = self.model.state_dict()
        return {n: now[n] - old for n, old in self.vanilla.items() if not torch.equal(now[n], old)}
