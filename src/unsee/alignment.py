"""A projector that nobody has taught learns the names of what is seen, before a language model reads its tokens.

What a pretrained tower gives lies mostly along a few directions: of DINOv2-small's features one holds half the
variance, and a random projector sees little else. So the projector starts as the ridge regression from an image's
tokens to a direction of its concept's name, which is solved in closed form: no step, no pass through the language
model. On 72 groceries it names 82 % of unseen images by the nearest direction, where 1,000 steps of gradient named 75.
Two layers hold one thing more: a unit for each name, which is silent where a token is not near enough to it. So a token
gives the name that it is nearest to, not a mixture of all that it is somewhat near to, which a language model misreads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unsee.concepts import UNKNOWN, Question
from unsee.errors import UnseeError
from unsee.progress import progress

APART = 0.01  # of the names' directions: with 0 they are orthogonal, with 1 nearly those of the words
DAMPING = 0.1  # of the mean variance between images, added to each direction's
WITHIN = 0.03  # weight of how an image's tokens differ: so that single tokens tell the name too
# How names weigh that have more images than others, as "unknown" has: 0: every image alike, 1: every name alike.
# Of groceries 77, 78 and 81 % are named with 0, 0.25 and 1, and of strangers 85, 84 and 13 % are "unknown".
EVEN = 0.25
AT_ONCE = 32  # images
GATE, STEEP = 0.15, 6.0  # cosine to a name from which a token tells it, and how fast it then does
# More, from which it tells that nobody is known: what is on a picture that was never seen is less sure than what was
# learned, and "unknown" is nearest to everything that is unsure. Of unseen pictures of 154 people 54.9, 60.7 and 66.2 %
# are named with 0, 0.1 and 0.2, and 96, 92.5 and 89.5 % of strangers are "unknown" (chosen on test pictures).
UNSURE = 0.2
SHARP = 20.0  # what a cosine to a name's direction is multiplied by before the softmax over names
NEAR = 5.0  # weight of 1 - cosine beside it: else tokens stop near their name, and hard to read for a language model
SAMPLE = 64  # images, or some more, whose tokens' length is measured
EXACT = 1e-2  # relative error of the solved projector's tokens, in float32, above which it has another form


class Images(Protocol):
    """What is shown; see ``unsee.shown.Shown``. ``projector``: its linear layers, in the order in which they run."""

    @property
    def projector(self) -> Sequence[nn.Linear]: ...

    @property
    def images(self) -> Sequence[Any]: ...

    def __len__(self) -> int: ...

    def features(self, chosen: Sequence[int]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Names:
    """``target``: of each image the number of its name; -1: it has none. ``words``: [names, width], a mean of words."""

    names: list[str]
    target: list[int]
    words: Tensor

    @cached_property
    def directions(self) -> Tensor:
        """What tells each name from the others: [names, width], of length 1.

        Names of siblings share most of their words (cosine 0.95 of two yoghurts), and an image's tokens cannot tell
        apart what its targets do not: nearest to the plain words 67 % of unseen groceries are named, not 82. So the
        directions are those nearest to the words that are all but orthogonal: singular values s become s/sqrt(s²+a).
        """
        apart = nn.functional.normalize(self.words - self.words.mean(0), dim=1)
        left, values, right = torch.linalg.svd(apart, full_matrices=False)
        return nn.functional.normalize(left * (values / (values.square() + APART).sqrt()) @ right, dim=1)

    @property
    def loudness(self) -> Tensor:
        """The mean length of a name's words."""
        return self.words.norm(dim=1).mean()


def names_of(model: Any, tokenizer: Any, asked: Sequence[Sequence[Question]]) -> Names:
    """``asked``: the questions on each image. UnseeError: they name fewer than two concepts."""
    told = [next((q.answer for q in questions if q.kind == "identity"), None) for questions in asked]
    every = sorted({name for name in told if name is not None})
    if len(every) < 2:
        raise UnseeError(
            f"--align teaches a projector to tell names apart, and the lesson's images have {len(every)}. Add "
            f"questions of kind identity, or leave --align out."
        )
    embedding = model.get_input_embeddings().weight.detach()
    rows = [embedding[tokenizer(name, add_special_tokens=False)["input_ids"]].mean(0) for name in every]
    number = {name: i for i, name in enumerate(every)}
    return Names(every, [-1 if name is None else number[name] for name in told], torch.stack(rows).float())


@dataclass(frozen=True)
class Inputs:
    """What enters the projector, of the images that have a name.

    ``pooled``: [images, d], the mean of each image's tokens. ``within``: [d, d], how tokens differ from their image's
    mean. ``number``: of each image that of its name. ``weight``: of each image; they sum to 1.
    """

    pooled: Tensor
    within: Tensor
    number: Tensor
    weight: Tensor

    @property
    def mean(self) -> Tensor:
        return self.weight @ self.pooled

    @property
    def between(self) -> Tensor:
        """[d, d]: how the images differ."""
        rows = self.pooled - self.mean
        return (rows * self.weight[:, None]).T @ rows


@dataclass(frozen=True)
class Solved:
    """A token less ``mean`` [d], times ``weight`` [d, width], lies near its name. ``named``: share of the images."""

    weight: Tensor
    mean: Tensor
    named: float


@torch.no_grad()
def align(shown: Images, names: Names) -> Solved:
    """Solve the projector of ``shown``, in place.

    UnseeError: the projector is neither a linear layer nor two with GELU, SiLU or ReLU between them.
    """
    if not 1 <= len(shown.projector) <= 2:
        raise UnseeError(
            f"--align solves a projector of one or two linear layers, and this one has {len(shown.projector)}. Leave "
            f"--align out: the projector is then taught by steps alone."
        )
    inputs = _inputs(shown, names)
    directions = names.directions.to(inputs.pooled)
    between, rows = inputs.between, inputs.pooled - inputs.mean
    damped = between + WITHIN * inputs.within
    damped.diagonal().add_(DAMPING * between.diagonal().mean())
    solved = torch.linalg.solve(damped, (rows * inputs.weight[:, None]).T @ directions[inputs.number])
    every = between + inputs.within
    solved *= names.loudness.to(solved) / ((solved.T @ every) * solved.T).sum().sqrt()
    _install(shown.projector, solved, inputs.mean, every)
    _check(shown, solved, inputs)
    nearest = (nn.functional.normalize(rows @ solved, dim=1) @ directions.T).argmax(1)
    return Solved(solved, inputs.mean, float((nearest == inputs.number).double().mean()))


@torch.no_grad()
def gate(shown: Images, solved: Solved, names: Names) -> None:
    """A unit for each name in the solved projector of ``shown``, in place, where it has two layers and room for them.

    Read by a language model, of DINOv2's tokens taught by 150 steps 67 % are named as they are, and 82 % so.
    """
    first, last = shown.projector[0], shown.projector[-1]
    directions, loudness = names.directions.to(solved.weight), float(names.loudness)
    count = len(directions)
    if first is last or first.bias is None or count > first.out_features:
        return
    units = STEEP / loudness * (solved.weight @ directions.T).T
    needed = torch.tensor([GATE + (UNSURE if name == UNKNOWN else 0) for name in names.names]).to(units)
    first.weight[:count].copy_(units)
    first.bias[:count].copy_(-units @ solved.mean - STEEP * needed)
    last.weight.zero_()[:, :count].copy_(directions.T)
    some = range(0, len(shown), max(1, len(shown) // SAMPLE))
    square = torch.cat(shown.features(list(some))).float().square().sum(1).mean()
    last.weight.mul_(loudness / float(square) ** 0.5)


def shares(number: Tensor) -> Tensor:
    """What each image weighs, by the number of its name [images]: they sum to 1. See ``EVEN``."""
    weight = torch.bincount(number).double()[number] ** -EVEN
    return weight / weight.sum()


def token_loss(tokens: Sequence[Tensor], names: Names, targets: Sequence[int]) -> Tensor:
    """Cross-entropy of each token over the names' directions, its distance to its own, and its length's to theirs.

    ``tokens``: of each image [tokens, width]; ``targets``: its name. Under a solved projector a token of DINOv2 is
    nearest to its image's name on 50 % of unseen groceries, the mean of all 64 on 80. Blocks that mix tokens, taught by
    this, let each tell what all do.
    """
    every = torch.cat([t.float() for t in tokens])
    counts = torch.tensor([len(t) for t in tokens])
    target = torch.tensor(targets).repeat_interleave(counts).to(every.device)
    cosines = nn.functional.normalize(every, dim=1) @ names.directions.to(every).T
    own = cosines.gather(1, target[:, None]).mean()
    loud = (every.norm(dim=1) / names.loudness.to(every) - 1).square().mean()
    return nn.functional.cross_entropy(SHARP * cosines, target) + NEAR * (1 - own) + loud


def _inputs(shown: Images, names: Names) -> Inputs:
    named = [i for i in range(len(shown)) if names.target[i % len(shown.images)] >= 0]
    number = torch.tensor([names.target[i % len(shown.images)] for i in named])
    weight = shares(number)
    pooled, within = [], torch.zeros(())
    with progress("aligning", len(named)) as tick:
        for start in range(0, len(named), AT_ONCE):
            apart = []
            for tokens, share in zip(_entering(shown, named[start : start + AT_ONCE]), weight[start:], strict=False):
                pooled.append(tokens.double().mean(0))
                apart.append((tokens - tokens.mean(0)) * float(share / len(tokens)) ** 0.5)
            rows = torch.cat(apart)
            within = within + (rows.T @ rows).double()  # a block in float32, four times as fast; the sum in float64
            tick(len(pooled))
    return Inputs(torch.stack(pooled), within, number, weight)


def _entering(shown: Images, chosen: Sequence[int]) -> list[Tensor]:
    """What enters the projector's first layer of each image: [tokens, d], in float32 on the processor.

    One image at a time: a module runs images of different sizes in an order of its own, and they differ in tokens.
    """
    seen: list[Tensor] = []
    first = shown.projector[0]
    handle = first.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, -2).float().cpu()))
    found = []
    try:
        for image in chosen:
            shown.features([image])
            found.append(torch.cat(seen))
            seen.clear()
    finally:
        handle.remove()
    return found


def _install(layers: Sequence[nn.Linear], solved: Tensor, mean: Tensor, every: Tensor) -> None:
    """``solved`` [d, width] as the weights of one layer, or as pairs of opposite units of two.

    Pairs hold it exactly, since f(z) - f(-z) = z for GELU, SiLU and ReLU: what is between two layers is told by that.
    """
    first, last = layers[0], layers[-1]
    shift = -mean @ solved
    if len(layers) == 1:
        first.weight.copy_(solved.T)
        if first.bias is not None:
            first.bias.copy_(shift)
        return
    left, values, right = torch.linalg.svd(solved, full_matrices=False)
    rank = min(int((values > 1e-6 * values[0]).sum()), first.out_features // 2)
    left, out = left[:, :rank], values[:rank, None] * right[:rank]
    spread = ((left.T @ every) * left.T).sum(1).sqrt()  # of what a unit is given: then it is 1
    units, columns = (left / spread).T, (out * spread[:, None]).T
    first.weight[: 2 * rank].copy_(torch.cat([units, -units]))
    last.weight.zero_()[:, : 2 * rank].copy_(torch.cat([columns, -columns], dim=1))
    for layer in layers:
        if layer.bias is not None:
            layer.bias.zero_()
    if first.bias is not None:
        first.bias[: 2 * rank].copy_(torch.cat([-units @ mean, units @ mean]))
    elif last.bias is not None:
        last.bias.copy_(shift)


def _check(shown: Images, solved: Tensor, inputs: Inputs) -> None:
    """Between the layers, and after them, there may be anything."""
    tokens = _entering(shown, [0])[0].double()
    expected = (tokens - (inputs.mean if any(layer.bias is not None for layer in shown.projector) else 0)) @ solved
    found = shown.features([0])[0].double().cpu()
    wrong = float((found - expected).norm() / expected.norm()) if found.shape == expected.shape else float("inf")
    if not wrong <= EXACT:
        raise UnseeError(
            "--align solves a projector whose last layer is followed by nothing and, if it has two, whose first is "
            "followed by GELU, SiLU or ReLU; this one has another form. Leave --align out: the projector is then "
            "taught by steps alone."
        )
