"""What the study compares: few trainings, and the systems that can be made of them.

Every system differs from `DEFAULT`, the recipe `quick` at the study's budget, in one choice. Systems that differ only
in snapshots, weights, sums or back ends share their trainings, so that the comparison costs nothing but arithmetic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from models.vocabulary import LossChoice
from training.recipe import PAPER_LOSS_CHOICE, RECIPES, Backend, MixupLabels, Recipe, ScaleRule, ServedWeights

STEPS = 200
"""Optimiser steps of each training: a short budget. `quick` takes sixteen times as many."""

SNAPSHOTS = 4
"""Taken of each training, evenly spaced; a system of fewer uses the later ones."""

_SIZES = (1, 2, 4, 8, 16)


def _training(sub_clusters: int = 16, **choices: Any) -> Recipe:
    return replace(RECIPES["quick"], sub_clusters=(sub_clusters,), snapshots=SNAPSHOTS, **choices)


TRAININGS: Mapping[str, Recipe] = MappingProxyType(
    {
        "s16": _training(),
        "maximum-labels": _training(mixup_labels=MixupLabels.MAXIMUM),
        "fixed-scale": _training(scale=ScaleRule.FIXED),
        "sections-only": _training(heads=(LossChoice.SECTIONS,), default_loss=LossChoice.SECTIONS),
        **{f"s{size}": _training(size) for size in _SIZES[:-1]},
    }
)
"""One network each, by name; the first is the default's."""


@dataclass(frozen=True, slots=True)
class StudiedSystem:
    """A system made of trainings.

    ``name``: the choice in which it differs from the default. ``trainings``: whose members score it. ``snapshots``: of
    each. ``loss``: per machine type; where given, only the members trained with a machine type's loss score it (those
    with both heads where it is silent), else all do.
    """

    name: str
    trainings: tuple[str, ...] = ("s16",)
    snapshots: int = SNAPSHOTS
    weights: ServedWeights = ServedWeights.LAST
    loss: Mapping[str, LossChoice] | None = None
    backend: Backend = Backend.MIXTURES
    target_smote: int = 0

    @property
    def snapshot_places(self) -> tuple[int, ...]:
        """Which of a training's `SNAPSHOTS`: those that a schedule of so many would take."""
        return tuple(SNAPSHOTS * (i + 1) // self.snapshots - 1 for i in range(self.snapshots))

    def trainings_of(self, machine_type: str, recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
        """Whose members score this machine type; ``recipes`` are those of the trainings."""
        if self.loss is None:
            return self.trainings
        wanted = self.loss.get(machine_type, LossChoice.BOTH_HEADS)
        return tuple(name for name in self.trainings if wanted in recipes[name].heads)


DEFAULT = StudiedSystem("default")
"""S = 16, both heads, the published scale, weighted labels, four snapshots, last weights, mixtures."""

SYSTEMS = (
    DEFAULT,
    *(StudiedSystem(f"S = {size}", (f"s{size}",)) for size in reversed(_SIZES[:-1])),
    StudiedSystem("S = 1 to 16, summed", tuple(f"s{size}" for size in _SIZES)),
    StudiedSystem("scale fixed", ("fixed-scale",)),
    StudiedSystem("labels maximum", ("maximum-labels",)),
    StudiedSystem("section head alone", ("sections-only",)),
    StudiedSystem("losses summed", ("s16", "sections-only")),
    StudiedSystem("losses selected", ("s16", "sections-only"), loss=PAPER_LOSS_CHOICE),
    StudiedSystem("2 snapshots", snapshots=2),
    StudiedSystem("1 snapshot", snapshots=1),
    StudiedSystem("weights average", weights=ServedWeights.AVERAGE),
    StudiedSystem("weights average, 1 snapshot", weights=ServedWeights.AVERAGE, snapshots=1),
    StudiedSystem("backend nearest", backend=Backend.NEAREST),
    StudiedSystem("backend centers", backend=Backend.CENTERS),
    StudiedSystem("target smote 20", target_smote=20),
)
"""Each differs from the first in one choice, but for the one that takes the single snapshot of an average."""
