"""The ways from a clip to a score. A bundle holds one: the paper's system, or several systems fused by p-value.

Conventions: a way scores ten-second windows; scores and terms are (windows,) float64, higher is more anomalous. What
networks take and give travels by sub-system, so that a batch of windows of several clips is the same thing as one clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.compact import FoldReferences
from models.decision import Calibration
from models.explanation import Normal
from models.scoring import Normality
from models.statistics import Statistics
from models.vocabulary import Domain, SectionKey, SubSystem

Inputs = Mapping[SubSystem, NDArray[np.float32]]
"""What the networks hear of windows: R (windows, 313, 128) dB, A (windows, 1192), L (windows, 512)."""
Embeddings = Mapping[SubSystem, NDArray[np.float32]]
"""(windows, networks, 128) each, of length 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the front end makes of a clip.

    ``log_mels``: (windows, 313, 128) float32 dB. ``t_max``: (windows, 128) float64, the maxima over time in standard
    deviations of the training clips. ``statistics``: of the windows; None where no system of the bundle needs them.
    """

    log_mels: NDArray[np.float32]
    t_max: NDArray[np.float64]
    statistics: Statistics | None = None

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The windows of several clips, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        statistics = [part.statistics for part in parts if part.statistics is not None]
        return cls(
            np.concatenate([part.log_mels for part in parts]),
            np.concatenate([part.t_max for part in parts]),
            Statistics(
                *(np.concatenate([getattr(one, each.name) for one in statistics]) for each in fields(Statistics))
            )
            if statistics
            else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class SystemScores:
    """One system's scores of each window and their terms; ``p_value`` where the system has one of its own."""

    anomaly: NDArray[np.float64]
    terms: Mapping[str, NDArray[np.float64] | None]
    p_value: NDArray[np.float64] | None = None

    def of(self, rows: slice) -> "SystemScores":
        """Of some of the windows."""
        terms = {name: None if term is None else term[rows] for name, term in self.terms.items()}
        return SystemScores(self.anomaly[rows], terms, None if self.p_value is None else self.p_value[rows])


@dataclass(frozen=True, slots=True, eq=False)
class WindowScores:
    """All that is said of each window: for ranking, for the threshold, and by each system.

    ``attribute_likelihoods``: nats, by attribute, of systems that model each; empty where none does.
    """

    anomaly: NDArray[np.float64]
    decision: NDArray[np.float64]
    systems: Mapping[str, SystemScores]
    attribute_likelihoods: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def of(self, rows: slice) -> "WindowScores":
        """Of some of the windows."""
        return WindowScores(
            self.anomaly[rows],
            self.decision[rows],
            {name: system.of(rows) for name, system in self.systems.items()},
            {name: own[rows] for name, own in self.attribute_likelihoods.items()},
        )


@dataclass(frozen=True, slots=True, eq=False)
class TargetModel:
    """What a section's target-domain clips say: those the bundle was trained with, or those registered since.

    ``reference``: a mixture a member, a component a clip, or references; of fused systems, the reference clips.
    ``calibration``: the scores that the threshold is taken from. ``clips``: how many target clips there are.
    ``lowest_level_dbfs``: of the quietest, None where it is not known.
    """

    reference: tuple[Normality, ...] | FoldReferences
    calibration: Calibration
    clips: int
    lowest_level_dbfs: float | None


class Way(Protocol):
    """From features to scores."""

    needs_statistics: bool

    def inputs(self, features: Features) -> Inputs:
        """What its networks take."""

    def score(
        self, key: SectionKey, domain: Domain, features: Features, embeddings: Embeddings, target: TargetModel | None
    ) -> WindowScores:
        """Score windows, of one clip or of several of the section; ``target`` is given with domain target only."""

    def fit_target(
        self, key: SectionKey, features: Features, embeddings: Embeddings, lowest_level_dbfs: float
    ) -> TargetModel:
        """Model the target domain by a window of each of a few normal clips."""

    def spacings(self, key: SectionKey, features: Features, embeddings: Embeddings) -> NDArray[np.float64]:
        """The distance from each of a few clips, a window each, to the nearest of the others, (clips,)."""

    def usual_spacing(self, key: SectionKey) -> float:
        """The mean distance between two source clips of the section, in the geometry of `spacings`; 0 of one clip."""

    def bundle_target(self, key: SectionKey) -> TargetModel | None:
        """The target domain as the bundle was trained with it; None where it had too few target clips."""

    def normal(self, key: SectionKey, domain: Domain) -> Normal:
        """What normal clips are like, for explanations."""

    def nearest_attribute(
        self, key: SectionKey, scores: WindowScores, statistics: NDArray[np.float32] | None
    ) -> str | None:
        """The operating condition whose source clips one window is nearest to; None where the section has none."""


def joined(parts: Sequence[Inputs]) -> Inputs:
    """The windows of several clips, one behind the other."""
    return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}


def split(embeddings: Embeddings, sizes: Sequence[int]) -> list[Embeddings]:
    """The inverse of `joined`: each clip's own, of ``sizes`` windows."""
    return [{kind: own[rows] for kind, own in embeddings.items()} for rows in places(sizes)]


def places(sizes: Sequence[int]) -> list[slice]:
    """Where the windows of each clip stand, of ``sizes`` windows one behind the other."""
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def window_count(inputs: Inputs) -> int:
    """How many windows these are."""
    return len(next(iter(inputs.values())))
