"""One request: second moments, null space, contrastive forgetting, certificate. Tensors and modules in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from unsee import processes, resume
from unsee.config import ForgetConfig
from unsee.errors import UnseeError
from unsee.forgetting import contrast, nullspace, penalty
from unsee.forgetting.closed_form import LastLayer
from unsee.forgetting.moments import Moments
from unsee.forgetting.optimizer import ProjectedAdam
from unsee.forgetting.region import Images, Region
from unsee.forgetting.schedule import CHECK, behind, eased, end_of, forgotten_at, is_look, pulled, rate_at
from unsee.forgetting.step_size import largest_rate
from unsee.progress import progress, say

# How many times as far blocks that join may move what stays, since the projector was behind: drawn people end with
# 0.42 of the concept that shows most in place of 0.46, with as much retained (one run each).
BEHIND = 4.0
# Of what may be left of a concept, what a solve leaves of each, and what it must not be above once it is made: weights
# are rounded when they are stored.
SOLVED, MARGIN = 0.88, 0.95
PROBE = 512  # images of what stays by which a solve of the last layer is judged, at most


@dataclass
class Forgotten:
    """What a request did: ``delta`` (layer → W − W_before, float32), per-layer certificates, the loop's history.

    ``left``: share of its identity that held-back views of each concept still show; ``share``: the mean of all views.
    ``forgotten``: whether no concept shows more than ``most_left``; ``kept``: whether no certificate is more than
    ``most_retained``. Else a model with it must not be released.
    """

    delta: dict[str, Tensor]
    certificates: dict[str, float]
    history: list[dict[str, float]]
    stopped: str
    rank: dict[str, float]
    left: dict[str, float]
    share: float
    forgotten: bool
    kept: bool


class Module(Protocol):
    """Images in, features out: ``features`` with gradients, ``in_training`` at once; ``now`` without, any number.

    ``few_rows``: whether attention is cheap. ``alone``: within, nothing else is asked of it.
    """

    in_training: int
    few_rows: bool

    def features(self, batch: Sequence[Any]) -> list[Tensor]: ...

    def now(self, batch: Sequence[Any], reduced: Callable[[Tensor], Tensor]) -> list[Tensor]: ...

    def alone(self) -> AbstractContextManager[None]: ...


class Forgetting:
    """The loop. ``forget`` is trained on; ``check`` (held-back and augmented views) only tells when to stop.

    ``drawn``: images, beside retained ones, that are to stay as those are, and tell nothing of how concepts differ.
    ``dtypes``: in which a layer's weight will be stored, where that is not float32. ``inputs``: tell the request from
    others, so that only itself resumes from its checkpoint.
    """

    def __init__(
        self,
        module: Module,
        layers: dict[str, nn.Linear],
        forget: Images,
        check: Images,
        neutral: Images,
        retain: Images,
        moments: Moments,
        config: ForgetConfig,
        base: dict[str, Tensor] | None = None,
        settled: penalty.Settled | None = None,
        reference: Sequence[Tensor] = (),
        dtypes: Mapping[str, torch.dtype] | None = None,
        inputs: Sequence[str] = (),
        drawn: Images | None = None,
        projector: Sequence[str] = (),
    ) -> None:
        self.module, self.layers, self.config = module, layers, config
        self.forget, self.check, self.neutral, self.retain = forget, check, neutral, retain
        self.moments, self.dtypes = moments, dtypes or {}
        self.start = {n: _compact(m.weight.detach()) for n, m in layers.items()}
        self.base = base or self.start
        self.settled = settled or penalty.Settled.empty()
        self.reference, self.inputs = reference, inputs
        self.projector = projector
        self.drawn, self.stay = drawn or Images([], []), Images([], [])
        self.stay += retain
        self.stay += self.drawn
        self.history: resume.History = []
        self.region = Region(config.region, forget, neutral, retain, reference)
        self._prepare_constraint()

    def _prepare_constraint(self) -> None:
        """Layer by layer: the moments of all of them are large, and may be on disk."""
        config, projectors, whitened = self.config, dict[str, nullspace.Projector](), dict[str, Tensor]()
        self.energy: dict[str, float] = {}
        self.fast: dict[str, Tensor] = {}
        for names in self._by_input().values():
            second, weight = self.second(names[0]), self.layers[names[0]].weight
            fast = second.to(torch.bfloat16 if config.bf16 else torch.float32).to(weight.device)
            self.fast |= dict.fromkeys(names, fast)
            self.energy |= {n: _energy(self.base[n], second) for n in names}
            if config.whiten:
                white = nullspace.whitening(second, config.whiten).to(weight.device, weight.dtype)
                whitened |= dict.fromkeys(names, white)
            if config.constraint in ("hard", "soft"):
                soft = config.constraint == "soft"
                rule, value = ("soft", config.soft_ratio) if soft else (config.hard_rule, config.hard_value)
                fitted = nullspace.fit(second, rule, value).to(weight.device, weight.dtype)
                projectors |= dict.fromkeys(names, fitted)  # layers with the same input have the same null space
        self.rank = {n: p.rank for n, p in projectors.items()}
        weights = {n: cast(nn.Parameter, m.weight) for n, m in self.layers.items()}
        pairs = [(w, projectors.get(n)) for n, w in weights.items()]
        self.optimizer = ProjectedAdam(pairs, config.lr, whitened={weights[n]: S for n, S in whitened.items()})

    def _by_input(self) -> dict[str, list[str]]:
        """Layers by the input they share, the widest first."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.layers, key=lambda n: -self.layers[n].weight.shape[1]):
            found.setdefault(self.moments.layers[name], []).append(name)
        return found

    def second(self, name: str) -> Tensor:
        """C of a layer, float64, where its weight is; of one on mps, which has no float64, on the CPU."""
        device = self.layers[name].weight.device
        return self.moments.mean(name).to("cpu" if device.type == "mps" else device)

    def variant(self, config: ForgetConfig, retain: Images | None = None) -> Forgetting:
        """The same request with other settings, from the features already computed, before this one has run.

        ``config.layers`` chooses among the layers of this one. ``retain``: in place of the retained images.
        """
        layers = {n: m for n, m in self.layers.items() if config.names(n)}
        images = (self.forget, self.check, self.neutral, self.retain if retain is None else retain)
        return Forgetting(
            self.module, layers, *images, self.moments, config, self.base, self.settled, self.reference, self.dtypes,
            self.inputs, self.drawn, self.projector,
        )  # fmt: skip

    @property
    def first(self) -> dict[str, nn.Linear]:
        """The layers that train alone at first; none: all train from the start, as without a course (--stop 0)."""
        chosen = {n: m for n, m in self.layers.items() if n in self.projector}
        apart = self.config.projector_first and self.config.stop > 0 and len(chosen) < len(self.layers)
        return chosen if apart else {}

    @property
    def joined(self) -> bool:
        """Whether the tower's blocks train beside a projector that trained alone: it was behind at some look."""
        return bool(self.first) and behind(self.history, self.config) > 0

    @property
    def training(self) -> dict[str, nn.Linear]:
        """The layers that train now."""
        return self.layers if self.joined else self.first or self.layers

    def gradients(self, step: int) -> dict[str, Tensor]:
        """The step's gradients, in the weights' ``grad``; returns the terms of the loss on its batch.

        The batch is taken ``in_training`` images at a time or fewer, so that all processes there are have their part.
        """
        config, rng = self.config, np.random.default_rng([self.config.seed, step])
        batch = [(s, i) for s in (self.forget, self.neutral, self.stay) for i in _some(rng, len(s), config.batch)]
        whole = (sum(s is self.forget for s, _ in batch), sum(s is not self.forget for s, _ in batch))
        training, share = self.training, self._weights()
        for name, layer in self.layers.items():  # while the projector trains alone, no block keeps what it computed
            layer.weight.requires_grad_(name in training)
        weights = [m.weight for m in training.values()]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        names = ("forget", "anchor", *(("keep",) if whole[1] else ()))
        terms = {name: weights[0].new_zeros(()) for name in names}
        size = min(self.module.in_training, -(-len(batch) // processes.count()))
        for number, start in enumerate(range(0, len(batch), size)):
            if processes.mine(number):
                part = self._losses(batch[start : start + size], whole)
                total = torch.stack([share[k] * v for k, v in part.items()]).sum()
                total.backward(inputs=weights)
                for name, value in part.items():
                    terms[name] += value.detach()
        for tensor in (*(cast(Tensor, w.grad) for w in weights), *terms.values()):
            processes.total(tensor)
        held = self._held()
        if held:
            torch.stack([share[k] * v for k, v in held.items()]).sum().backward(inputs=weights)
        return terms | {k: v.detach() for k, v in held.items()}

    def _losses(self, part: Sequence[tuple[Images, int]], whole: tuple[int, int]) -> dict[str, Tensor]:
        """Share of ``part`` in the terms of the loss that images have."""
        new = self.module.features([s.pixels[i] for s, i in part])
        mine = [i for s, i in part if s is self.forget]
        old = [s.before[i] for s, i in part if s is not self.forget]
        return self.region.losses(new[: len(mine)], mine, new[len(mine) :], old, self.config, whole)

    def _held(self) -> dict[str, Tensor]:
        """The terms of the loss that the change has, whatever the images."""
        terms = {"penalty": self.penalty()} if self.config.constraint == "cumulative" else {}
        return terms | ({"settled": self.settled_penalty()} if self.settled.n else {})

    def _weights(self) -> dict[str, float]:
        config = self.config
        weights = {k: float(getattr(config, k)) for k in ("anchor", "keep")} | {"forget": 1.0}
        if config.keep_unit == "views":
            weights["keep"] *= float(self.region.identity_scale)
        weights["settled"] = config.hold(self.settled.concepts)
        weights["anchor"] *= config.share(len(set(self.forget.concepts)))
        weights["anchor"] *= pulled(self.history, config)
        return weights | {"penalty": config.penalty * eased(self.history, config, self.joined)}

    def penalty(self) -> Tensor:
        """The cumulative penalty of the whole change, without its weight."""
        layers = self.layers.items()
        return torch.stack(
            [penalty.penalty(m.weight - self.base[n], self.fast[n], self.energy[n]) for n, m in layers]
        ).sum()

    def settled_penalty(self) -> Tensor:
        """What keeps earlier requests forgotten, without its weight."""
        changed = {n: m.weight - self.base[n] for n, m in self.layers.items()}
        terms = [penalty.settled_penalty(d, self.settled.layer(n, d), self.energy[n]) for n, d in changed.items()]
        return torch.stack(terms).sum()

    def _look(self) -> dict[str, float]:
        """Mean share of their identity that held-back views still show, and the mean of the concept that shows most."""
        shown = self._shown()
        return {"left": float(shown.mean()), "most": max(self._by_concept(shown).values())}

    def left_of(self) -> dict[str, float]:
        """Share of its identity that the held-back views of each concept still show."""
        return self._by_concept(self._shown())

    def _by_concept(self, shown: Tensor) -> dict[str, float]:
        views: dict[str, list[float]] = {}
        for concept, share in zip(self.check.concepts, shown.tolist(), strict=True):
            views.setdefault(concept, []).append(share)
        return {concept: sum(some) / len(some) for concept, some in views.items()}

    def _shown(self) -> Tensor:
        return self.region.left(self.check, self.module.now(self.check.pixels, contrast.pooled))

    def run(self, checkpoint: Path | None = None, watch: Callable[[int], dict[str, float]] | None = None) -> Forgotten:
        config = self.config
        origin, trained = self._origin() if checkpoint else "", {n: m.weight for n, m in self.layers.items()}
        first, self.history = resume.restore(checkpoint, trained, self.optimizer, origin) if checkpoint else (0, [])
        history = self.history
        rates = [line["rate"] for line in history if "rate" in line]
        solved = not history and self._solve()
        with progress("forgetting", config.steps) as tick:
            for step in range(first, 0 if solved else config.steps):
                gone = forgotten_at(history, config)
                if gone and step >= end_of(gone, config):
                    break
                if new := len(rates) < 1 + self.joined:
                    rates.append(self._rate())
                for group in self.optimizer.param_groups:
                    group["lr"] = rates[-1] * rate_at(step, gone, config)
                terms = self.gradients(step)
                if not torch.isfinite(torch.stack(list(terms.values())).sum()):
                    raise UnseeError(
                        f"the loss is not finite at step {step} "
                        f"({', '.join(f'{k} {v.item():.3g}' for k, v in terms.items())}). Lower --lr, now {config.lr}."
                    )
                self.optimizer.step()
                line = {"step": step + 1, **{k: v.item() for k, v in terms.items()}}
                if new:
                    line["rate"] = rates[-1]
                if is_look(step + 1, config):
                    line |= processes.from_first(self._look())  # it decides how strict, and when all end
                if watch and (step + 1) % CHECK == 0:
                    line |= watch(step + 1)
                history.append(line)
                if checkpoint and (step + 1) % resume.EVERY == 0:
                    with processes.alike():
                        if processes.first():
                            resume.save(checkpoint, trained, self.optimizer, origin, step + 1, history)
                tick(step + 1, " ".join(f"{k} {v:.4f}" for k, v in line.items() if k not in ("step", "rate")))
        self.optimizer.state.clear()
        for n, m in self.layers.items():
            m.weight.grad = None
            if n in self.dtypes:  # what is judged from here on is what will be stored
                with torch.no_grad():
                    m.weight.copy_(m.weight.to(self.dtypes[n]))
        shown = self._shown()
        left, share = processes.from_first((self._by_concept(shown), float(shown.mean())))
        none_left = all(of <= config.most_left for of in left.values())  # a NaN is none
        verdict = self._verdict(share, max(left.values()), none_left)
        moved = self._certificates()
        kept = all(of <= config.most_retained for of in moved.values())
        return Forgotten(self.delta(), moved, history, verdict, self.rank, left, share, none_left, kept)

    def _solve(self) -> bool:
        """Whether one solve of the last layer has forgotten, and leaves what stays; if not, all is as it was."""
        config, name = self.config, list(self.layers)[-1]
        # A reference gives each image a target of its own, and a solve knows one for each concept.
        loop = config.region == "reference" or config.constraint != "cumulative"
        if loop or config.solve <= 0 or config.stop <= 0:
            return False
        layer, base = self.layers[name], self.base[name]
        last = LastLayer(self.module, name, layer, self.region, base, self.forget[:1])
        if not last.serves:
            return False
        second = self.second(name)
        sets = (self.forget, self.neutral.some(PROBE), self.check)
        found = last.solved(*sets, second, self.settled, SOLVED * config.most_left)
        start, found = layer.weight.detach().clone(), processes.from_first(found)
        with torch.no_grad():
            layer.weight.copy_(base.to(start) + found.to(start))
        drift, look = processes.from_first((self._drift(found, second), self._look()))
        if drift <= config.solve and look["most"] <= MARGIN * config.most_left:
            self.history.append({"step": 1, "drift": drift, **look})
            return True
        say(
            f"{name} alone, solved in closed form, leaves {look['most']:.0%} of a concept and moves what stays by "
            f"{drift:.2g} (--solve {config.solve:g}): steps follow"
        )
        with torch.no_grad():
            layer.weight.copy_(start)
        return False

    def _drift(self, change: Tensor, second: Tensor) -> float:
        """How far a solve moves what stays: neutral images as they are seen, and retained ones by their moments.

        Drawn images are not asked. They lie where real ones hardly do, and there a solve is free: those of groceries
        move five times as far as their moments say, with as many unseen images named as before (benchmarks/LOG.md).
        """
        seen = (self.neutral if len(self.neutral) else self.retain).some(PROBE)
        moved = self.region.drift(self.module.now(seen.pixels, contrast.pooled), seen.before)
        return max(moved, _energy(change, second) / len(change) / float(self.region.scale))

    def _rate(self) -> float:
        """The same in all processes, and told where it is lowered."""
        rate = processes.from_first(self._peak_rate())
        if rate < self.config.lr:
            say(
                f"learning rate {rate:.2g}: at {self.config.lr:g}, a first step moves what stays too far "
                f"(--max-step-drift)"
            )
        return rate

    def _peak_rate(self) -> float:
        """``config.lr``, or the rate at which a first step moves what stays by no more than ``max_step_drift``.

        One with blocks that join may move it BEHIND times as far. Adam's step has one length in every weight, and what
        that does to features hangs on the tower. At 3e-3 a first step moves those of towers made here by 0.2 of their
        variance. One of a fifth moves those of DINOv2, under a projector that was taught, by 1.8, and little is known
        any more. Weights and optimiser end as they began.
        """
        config, rate = self.config, self.config.lr
        rng = np.random.default_rng([config.seed, 0])
        probe = [s.pixels[i] for s in (self.neutral, self.stay) for i in _some(rng, len(s), config.batch)]
        if not probe or not config.max_step_drift:
            return rate
        self.gradients(0)
        most = config.max_step_drift * (BEHIND if self.joined else 1)
        return largest_rate(rate, most, lambda rate: self._moved(rate, probe))

    def _moved(self, rate: float, probe: Sequence[Any]) -> float:
        """How far a first step at ``rate`` moves the images of ``probe``; weights and optimiser end as they began."""
        weights = [m.weight for m in self.layers.values()]
        start, old = [w.detach().clone() for w in weights], self.module.now(probe, contrast.pooled)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        moved = self.region.drift(self.module.now(probe, contrast.pooled), old)
        self.optimizer.state.clear()
        with torch.no_grad():
            for weight, was in zip(weights, start, strict=True):
                weight.copy_(was)
        return moved

    def delta(self) -> dict[str, Tensor]:
        return {n: m.weight.detach() - self.start[n] for n, m in self.layers.items()}

    def _certificates(self) -> dict[str, float]:
        found = {}
        for names in self._by_input().values():
            second = self.second(names[0])
            for n in names:
                start = self.start[n].float()
                found[n] = nullspace.certificate(self.layers[n].weight.detach() - start, start, second)
        return {n: found[n] for n in self.layers}

    def _verdict(self, share: float, most: float, none_left: bool) -> str:
        done = f"{len(self.history)} steps" if "forget" in self.history[-1] else "one solve of the last layer"
        left = f"held-back views show {100 * share:.0f} % of their identity after {done}"
        asked = f"{100 * most:.0f} % of the concept that shows most; --most-left is {100 * self.config.most_left:.0f} %"
        return left if none_left else f"{left}, {asked}"

    def _origin(self) -> str:
        """Hash of all that the run's result depends on, and of nothing that is computed from it.

        Features and moments differ in their last bits with the number of processes and threads, which may change
        between an interruption and the resumption.
        """
        settled = (self.settled.A, self.settled.B, self.settled.c)
        every = chain(self.start.values(), self.base.values(), *(part.values() for part in settled))
        return resume.origin(asdict(self.config), every, [*self.layers, *self.inputs])


def _compact(weight: Tensor) -> Tensor:
    """A copy in half the memory where that is exact, as it is of weights that were stored so."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal((half := weight.to(dtype)).to(weight.dtype), weight):
            return half
    return weight.clone()


def _energy(weight: Tensor, second: Tensor) -> float:
    """E|W x|² = tr(W C Wᵀ)."""
    wide = weight.to(second.device).double()
    return float(((wide @ second) * wide).sum())


def _some(rng: np.random.Generator, n: int, k: int) -> list[int]:
    return rng.choice(n, size=min(n, k), replace=False).tolist() if n else []
