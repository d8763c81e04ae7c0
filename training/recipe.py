"""What is trained: one `Recipe` holds every choice, and the manifest of a bundle records it.

`paper` is the paper's ensemble, exactly. `quick` is the same method at the best size that about twenty minutes on two
cores can pay: one network of sixteen sub-clusters, both heads, four snapshots; its budget counts optimiser steps, so
that its time hardly grows with the recordings. `smoke` is a minute's worth, for tests and the demonstration bundle.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from models.compact import FOLDS
from models.vocabulary import LossChoice, Precision, SubSystem, ThresholdRule


class ScaleRule(StrEnum):
    """``published``: s is adapted in each training step. ``fixed``: s keeps its initial value."""

    PUBLISHED = "published"
    FIXED = "fixed"


class MixupLabels(StrEnum):
    """Labels of a blend. ``weighted``: its clips' labels by their shares. ``maximum``: both in full."""

    WEIGHTED = "weighted"
    MAXIMUM = "maximum"


class ServedWeights(StrEnum):
    """``last``: a network as the last step left it. ``average``: the running average of all steps."""

    LAST = "last"
    AVERAGE = "average"


class Backend(StrEnum):
    """What stands for normal sound: Gaussian mixtures (the paper), or the nearest of a section's clips.

    ``nearest``: of all its clips, normalised for the local density. ``centers``: of 16 k-means centres of them.
    ``folds``: of the clips that a fold has not left out, its networks and dynamics fused by p-value (`plant`).
    """

    MIXTURES = "mixtures"
    NEAREST = "nearest"
    CENTERS = "centers"
    FOLDS = "folds"


SCALE_RANGE = (0.0, 64.0)
"""The published scale grows without bound once the batch's best cosine passes 0.707: it stops at 64."""


PAPER_LOSS_CHOICE: Mapping[str, LossChoice] = MappingProxyType(
    {
        "ToyCar": LossChoice.BOTH_HEADS,
        "ToyTrain": LossChoice.BOTH_HEADS,
        "pump": LossChoice.BOTH_HEADS,
        "slider": LossChoice.BOTH_HEADS,
        "fan": LossChoice.SECTIONS,
        "gearbox": LossChoice.SECTIONS,
        "valve": LossChoice.SECTIONS,
    }
)
"""Paper 2.5."""


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the ensemble: ``heads`` is what it was trained to tell apart."""

    heads: LossChoice
    sub_clusters: int

    @property
    def name(self) -> str:
        """Names its folder under the work folder and begins its members' names."""
        return f"{self.heads.value.replace(' ', '-')}-s{self.sub_clusters}"


class Dealing(StrEnum):
    """How training clips are dealt to folds (`training.folds`).

    ``clips``: recordings, for what serves. ``conditions``: whole operating conditions, for what the thresholds are of.
    """

    CLIPS = "clips"
    CONDITIONS = "conditions"


@dataclass(frozen=True, slots=True)
class FoldNetwork(Network):
    """A network that has not heard the clips of one fold; ``kind`` says what it hears of the others."""

    kind: SubSystem
    dealing: Dealing
    fold: int

    @property
    def name(self) -> str:
        """Names its folder under the work folder."""
        return f"{self.kind.value}-{self.dealing.value}-{self.fold}"


@dataclass(frozen=True, slots=True)
class LeftOutNetwork(Network):
    """A network of the ensemble once more, which has not heard the operating conditions of one fold.

    It serves nobody: the rule ``conditions`` takes the calibration scores of its fold from it and its like.
    """

    fold: int

    @property
    def name(self) -> str:
        """Names its folder under the work folder and begins its members' names."""
        return f"{Network(self.heads, self.sub_clusters).name}-without-{self.fold}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long a network trains on so many clips: ``snapshot_epochs`` ends with the last epoch."""

    epoch_steps: int
    snapshot_epochs: tuple[int, ...]

    @property
    def epochs(self) -> int:
        """Passes over the recordings."""
        return self.snapshot_epochs[-1]

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.epochs * self.epoch_steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every choice of a training run.

    ``epochs``: passes over the recordings; or ``steps``: optimiser steps, whatever the number of recordings, in epochs
    of at most ``longest_epoch_steps``. ``snapshots``: evenly spaced, the last at the end. ``weights``: which of a
    snapshot serve. ``loss``: per machine type whose members score it, ``default_loss`` for the others.
    ``temporal_maximum``: machine types with Eq. (4)'s term. ``target_smote``: synthetic clips that join the target
    clips of a section. ``fold_networks``: with the back end ``folds``, what its networks hear. ``least_steps``: epochs
    are added until a network has taken so many. ``least_batch``: a last batch of fewer clips is skipped. ``precision``:
    in which the exported networks compute, for the back end and for serving.

    Raises
    ------
    ValueError : where choices do not fit together, in a sentence.
    """

    name: str
    sub_clusters: tuple[int, ...]
    heads: tuple[LossChoice, ...]
    snapshots: int
    calibration: ThresholdRule
    epochs: int | None = None
    steps: int | None = None
    longest_epoch_steps: int = 160
    batch_size: int = 64
    learning_rate: float = 1e-3
    scale: ScaleRule = ScaleRule.PUBLISHED
    mixup_labels: MixupLabels = MixupLabels.WEIGHTED
    weights: ServedWeights = ServedWeights.LAST
    regularisation: float = 1e-3
    percentile: float = 90.0
    default_loss: LossChoice = LossChoice.BOTH_HEADS
    loss: Mapping[str, LossChoice] = field(default_factory=dict)
    temporal_maximum: tuple[str, ...] = ("valve",)
    backend: Backend = Backend.MIXTURES
    target_smote: int = 0
    fold_networks: tuple[SubSystem, ...] = ()
    least_steps: int = 0
    least_batch: int = 1
    scale_range: tuple[float, float] = SCALE_RANGE
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        for choice in (self.default_loss, *self.loss.values()):
            if choice is not LossChoice.SUM and choice not in self.heads:
                raise ValueError(
                    f"default_loss and loss ask for networks trained with {choice.value!r}, but heads are "
                    f"{', '.join(head.value for head in self.heads)}: set default_loss={self.heads[0].value} and "
                    "loss=none too, or train both."
                )
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"The recipe {self.name!r} counts {self.epochs} epochs, not steps: set them in another.")
        if self.epochs is not None and self.snapshots > self.epochs:
            raise ValueError(f"{self.snapshots} snapshots cannot be taken of {self.epochs} epochs.")
        if (self.backend is Backend.FOLDS) != bool(self.fold_networks):
            raise ValueError("backend=folds and fold_networks belong together: use the recipe 'plant'.")
        if self.backend is Backend.FOLDS and self.precision is not Precision.FLOAT32:
            raise ValueError(f"The networks of the recipe {self.name!r} run in float32: they cost next to nothing.")
        if self.backend is not Backend.MIXTURES and self.calibration is ThresholdRule.PAPER:
            raise ValueError(
                f"With backend={self.backend.value} a training clip is its own nearest, so that the threshold rule "
                "'paper' would call every new clip anomalous: calibrate with 'held_out'."
            )

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks to train, in order: those that serve, then those that only calibrate."""
        if self.backend is Backend.FOLDS:
            strict = self.calibration is ThresholdRule.CONDITIONS
            dealings = (Dealing.CLIPS, Dealing.CONDITIONS) if strict else (Dealing.CLIPS,)
            return tuple(
                FoldNetwork(self.heads[0], self.sub_clusters[0], kind, dealing, fold)
                for dealing in dealings
                for kind in self.fold_networks
                for fold in range(FOLDS)
            )
        serving = tuple(Network(heads, size) for heads in self.heads for size in self.sub_clusters)
        if self.calibration is not ThresholdRule.CONDITIONS:
            return serving
        return (
            *serving,
            *(LeftOutNetwork(one.heads, one.sub_clusters, fold) for fold in range(FOLDS) for one in serving),
        )

    def schedule(self, n_clips: int) -> Schedule:
        """The schedule of each network for ``n_clips`` training clips, contrast copies included."""
        epoch_steps = max(1, math.ceil((n_clips + 1 - self.least_batch) / self.batch_size))
        if self.epochs is not None:
            epochs = max(self.epochs, math.ceil(self.least_steps / epoch_steps))
        else:
            assert self.steps is not None
            epoch_steps = min(epoch_steps, self.longest_epoch_steps)
            epochs = max(self.snapshots, round(self.steps / epoch_steps))
        return Schedule(epoch_steps, tuple(epochs * (i + 1) // self.snapshots for i in range(self.snapshots)))

    def loss_of(self, machine_type: str) -> LossChoice:
        """Whose members score this machine type."""
        return self.loss.get(machine_type, self.default_loss)

    def decides_networks(self) -> dict[str, Any]:
        """The choices that a trained network depends on; the others may change without training again."""
        return {name: value for name, value in self.as_json().items() if name not in _AFTER_TRAINING}

    def as_json(self) -> dict[str, Any]:
        """For the manifest: plain values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)} | {"loss": dict(self.loss)}
        return dict(json.loads(json.dumps(values)))


_AFTER_TRAINING = frozenset(
    {"name", "calibration", "percentile", "default_loss", "loss", "temporal_maximum", "regularisation", "weights"}
    | {"backend", "target_smote", "fold_networks", "precision"}
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                name="paper",
                sub_clusters=(1, 2, 4, 8, 16),
                heads=(LossChoice.BOTH_HEADS, LossChoice.SECTIONS),
                snapshots=4,
                epochs=400,
                calibration=ThresholdRule.PAPER,
                loss=PAPER_LOSS_CHOICE,
            ),
            Recipe(
                name="quick",
                sub_clusters=(16,),
                heads=(LossChoice.BOTH_HEADS,),
                snapshots=4,
                steps=3200,
                calibration=ThresholdRule.HELD_OUT,
            ),
            Recipe(
                name="plant",
                backend=Backend.FOLDS,
                fold_networks=(SubSystem.A, SubSystem.L),
                sub_clusters=(16,),
                heads=(LossChoice.BOTH_HEADS,),
                snapshots=1,
                epochs=100,
                least_steps=600,
                least_batch=2,
                scale_range=(1.0, 60.0),
                weights=ServedWeights.AVERAGE,
                calibration=ThresholdRule.CONDITIONS,
            ),
            Recipe(
                name="smoke",
                sub_clusters=(2,),
                heads=(LossChoice.BOTH_HEADS,),
                snapshots=2,
                steps=120,
                batch_size=32,
                calibration=ThresholdRule.HELD_OUT,
            ),
        )
    }
)
