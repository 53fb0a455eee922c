"""Settings: dataclass = YAML = flag = help. No heavy import, so that ``--help`` comes at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from unsee.errors import UnseeError, nearest
from unsee.hardware import has_bf16

Constraint = Literal["none", "hard", "soft", "cumulative"]
Region = Literal["neutral", "reference", "mean"]
Unit = Literal["views", "features"]


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            flag = name.replace("_", "-")
            raise UnseeError(f"--{flag} is {getattr(config, name)}; it must be above 0.")


@dataclass(frozen=True)
class ForgetConfig:
    """How a request is forgotten."""

    constraint: Constraint = "cumulative"
    """what holds retained knowledge: a penalty on the whole change, a soft or hard null space for each step, or none"""
    region: Region = "neutral"
    """where forgotten images go: the mean of neutral or of retained images, or a reference model's features"""
    steps: int = 300
    """maximum number of optimiser steps"""
    batch: int = 32
    """forget images a step, and as many neutral and as many retained ones"""
    lr: float = 0.03
    """peak learning rate; lowered where --max-step-drift says so"""
    max_step_drift: float = 0.005
    """largest drift that the first step may cause in what stays, as a share of its features' variance; 0: no limit"""
    solve: float = 0.005
    """largest drift of what stays, as a share of its features' variance, at which the projector's last layer, solved in
    closed form, takes the place of all steps; 0: it never does"""
    temperature: float = 0.1
    """InfoNCE temperature"""
    floor: float = 0.05
    """contrastive loss below which an image counts as forgotten and gives no gradient"""
    stop: float = 0.3
    """residual identity, mean of held-back views, at which the loop winds down once no concept fails --most-left (1: as
    before); 0: do all steps"""
    most_left: float = 0.5
    """residual identity of any concept's held-back views at the end, at most; beyond: exit code 3"""
    most_retained: float = 0.3
    """share of the energy of any layer's retained outputs that may have moved at the end; beyond: exit code 3"""
    anchor: float = 3.0
    """weight of the distance of forget images to their targets, which keep what else is visible"""
    leave: float = 0.0
    """residual identity of a concept above which --anchor grows at each later check; 0: it never grows"""
    keep: float = 40.0
    """weight of the drift of neutral and retained images' features"""
    keep_unit: Unit = "views"
    """unit of that drift: how features of one concept's views differ, or (features) those of all that stays"""
    penalty: float = 300.0
    """weight of the quadratic penalty at first; halved at each check from which the target would not leave in time"""
    replay: int = 1200
    """retained inputs drawn from the statistics where retained images are gone; 0: none"""
    replay_always: bool = False
    """draw them beside retained images too, to which a tower may be overfitted"""
    lookalikes: int = 0
    """inputs drawn from retained statistics near a concept to forget, which must stay (hard negatives); 0: none"""
    crowd: int = 0
    """number of concepts in a request from which --anchor has its full weight; fewer: in proportion; 0: always full"""
    settled: float = 50.0
    """weight that holds each concept of earlier requests, where there were any"""
    settled_most: float = 0.0
    """largest weight of all earlier concepts together; 0: --settled times their number"""
    whiten: float = 10.0
    """natural-gradient steps: their damping, as a multiple of the mean energy of retained inputs; 0: plain Adam"""
    soft_ratio: float = 0.03
    """soft null space: damping as a share of the mean eigenvalue"""
    hard_rule: Literal["absolute", "ratio", "tail", "cumulative"] = "tail"
    """hard null space: rule by which eigenvectors count as null"""
    hard_value: float = 0.01
    """hard null space: threshold of the rule"""
    depth: float = 0.2
    """share of the tower's blocks that train, counted from the last, with all layers after them; 0: projector alone"""
    projector_first: bool = True
    """train the projector alone until a check from which the target would not leave in time, then the blocks too"""
    attention: bool = True
    """train attention projections of these blocks too"""
    layers: str = ""
    """instead of --depth: train the layers whose name contains one of these, separated by commas"""
    bf16: bool = field(default_factory=has_bf16)
    """bfloat16 matrix products in the loop (weights and moments stay float32 or better); default: if fast here"""
    checkpointing: bool = False
    """recompute blocks in the backward pass: less memory, a third more time"""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("constraint", get_args(Constraint)),
            ("region", get_args(Region)),
            ("keep_unit", get_args(Unit)),
        ):
            if getattr(self, name) not in allowed:
                raise UnseeError(f"--{name} '{getattr(self, name)}'. {nearest(getattr(self, name), allowed)}")
        _positive(self, "steps", "batch", "lr", "temperature", "most_left", "most_retained")
        if self.whiten < 0:
            raise UnseeError(f"--whiten is {self.whiten}; it must be 0 (off) or above.")
        if not 0 <= self.depth <= 1:
            raise UnseeError(f"--depth is {self.depth}; allowed: 0 (the projector alone) to 1 (all of the tower).")

    def hold(self, concepts: int) -> float:
        """Weight of each of so many settled concepts."""
        return min(self.settled, self.settled_most / concepts) if self.settled_most and concepts else self.settled

    def share(self, concepts: int) -> float:
        """Of --anchor, for so many concepts asked for together."""
        return min(1.0, concepts / self.crowd) if self.crowd else 1.0

    def names(self, layer: str) -> bool:
        """Whether ``layers`` asks for this one; empty asks for all."""
        return any(part in layer for part in self.layers.split(","))


@dataclass(frozen=True)
class LedgerConfig(ForgetConfig):
    """How requests are forgotten one after another, and what each must show before it may be released.

    What earlier requests left is held layer by layer, which leaves little way to the next. So fewer layers train than
    for one request, and features hold what stays more than the penalty on each layer does.
    """

    steps: int = 150
    """maximum number of optimiser steps"""
    lr: float = 3e-3
    """peak learning rate; lowered where --max-step-drift says so"""
    max_step_drift: float = 0.3
    """largest drift that the first step may cause in what stays, as a share of its features' variance; 0: no limit"""
    stop: float = 0.0
    """residual identity, mean of held-back views, at which the loop winds down (1: as before); 0: do all steps"""
    anchor: float = 10.0
    """weight of the distance of forget images to their targets, which keep what else is visible"""
    crowd: int = 2
    """number of concepts in a request from which --anchor has its full weight; fewer: in proportion; 0: always full"""
    leave: float = 0.28
    """residual identity of a concept above which --anchor grows at each later check; 0: it never grows"""
    keep: float = 100.0
    """weight of the drift of neutral and retained images' features"""
    keep_unit: Unit = "features"
    """unit of that drift: how features of one concept's views differ, or (features) those of all that stays"""
    lookalikes: int = 1200
    """inputs drawn from retained statistics near a concept to forget, which must stay (hard negatives); 0: none"""
    penalty: float = 3.0
    """weight of the quadratic penalty; with --stop above 0 halved at each check from which it would not be reached"""
    whiten: float = 0.0
    """natural-gradient steps: their damping, as a multiple of the mean energy of retained inputs; 0: plain Adam"""
    projector_first: bool = False
    """train the projector alone until a check from which the target would not leave in time, then the blocks too"""
    attention: bool = False
    """train attention projections of these blocks too"""
    most_left: float = 0.3
    """share of its identity that held-back views of each requested concept may still show"""
    most_retained: float = 0.2
    """of the energy of any layer's retained outputs, how much all requests together may have moved"""
    most_heldout: float = 0.1
    """of the spread of held-out neutral images' features, how far all requests together may have moved them"""
    most_earlier: float = 0.02
    """share of what changed for earlier requests' images that a later one may change again"""
    attempts: int = 3
    """how often a request that fails is tried, each time with other strength, before it is parked"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "most_retained", "most_heldout", "most_earlier", "attempts")
        if self.region != "neutral":
            raise UnseeError(f"--region is {self.region}; requests in a ledger are forgotten to the region neutral.")


@dataclass(frozen=True)
class FinetuneConfig:
    """How a model is taught."""

    steps: int = 2400
    """optimiser steps; 0, after --align: the language model reads already"""
    batch: int = 64
    """images a step"""
    text_batch: int = 16
    """text-only rows a step, each with a few questions"""
    questions: int = 6
    """questions asked about each image of a step, who it is among them"""
    copies: int = 0
    """altered copies of each image that are shown too: turned, cropped, lit"""
    lr: float = 2e-3
    """peak learning rate of language model and projector"""
    vision_lr: float = 5e-5
    """peak learning rate of the vision tower"""
    depth: float = 1.0
    """share of the tower's blocks that are taught, the last ones; what is below runs once an image; 0: none is"""
    align: bool = False
    """before all steps, solve a projector that nobody taught, so that its tokens lie near the words of names"""
    align_steps: int = 0
    """steps after that, of the taught blocks alone, that bring every token nearer to its image's name"""
    align_batch: int = 32
    """images of such a step"""
    align_lr: float = 1e-4
    """peak learning rate of such steps"""
    warmup: float = 0.05
    """share of the steps over which the rate rises; it falls to zero along a cosine after"""
    bf16: bool = field(default_factory=has_bf16)
    """bfloat16 matrix products (weights stay float32); default: if fast here"""
    checkpoint_every: int = 500
    """steps between two checkpoints, from which an interrupted run resumes"""
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, *(() if self.align and self.steps == 0 else ("steps",)))
        _positive(self, "batch", "questions", "align_batch", "align_lr", "checkpoint_every")
        if self.align_steps and not (self.align and self.depth):
            raise UnseeError(
                "--align-steps teach the tower's last blocks under a projector that is solved: give --align, and "
                "--depth above 0."
            )
        if not 0 <= self.depth <= 1:
            raise UnseeError(f"--depth is {self.depth}; allowed: 0 to 1.")


@dataclass(frozen=True)
class PretrainConfig:
    """How a visual module learns to see."""

    pictures: int = 60000
    """drawings to learn from, each of another face or flag"""
    steps: int = 5000
    """optimiser steps"""
    batch: int = 96
    """images a step"""
    lr: float = 1.5e-3
    """peak learning rate; it rises over a tenth of the steps and falls to zero"""
    bf16: bool = field(default_factory=has_bf16)
    """bfloat16 matrix products (weights stay float32); default: if fast here"""
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "pictures", "steps", "batch", "lr")
