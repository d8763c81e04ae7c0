"""What a report is made of: measured values and plain tables, and nothing of how they look.

Fractions are from 0 to 1; what the clips do not define is None.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.bundle import CalibrationKey, SectionCalibration
from models.decision import p_value
from models.manifest import Manifest
from models.vocabulary import Condition, Domain, SectionKey
from training.scored import Scored, SystemName
from training.tables import Row

Place = tuple[SectionKey, Domain]
"""What scores are comparable within."""


@dataclass(frozen=True, slots=True)
class System:
    """One of the systems that were measured, as its rows name it."""

    name: SystemName
    bundle: str | None
    recipe: str | None
    seed: int | None

    @classmethod
    def of(cls, row: Row) -> Self:
        """The system whose row this is."""
        return cls(row.system, row.bundle, row.recipe, row.seed)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is read: the first ``words`` columns of each line say what it is of, the others are figures."""

    caption: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    words: int


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that the page shows.

    ``bundle``, ``manifest``, ``calibrations``: what the report is about. ``scored``: each system's clips, the first
    system is that bundle; of the others only rows, tables and ROC curves are shown. ``embeddings``: (clips of the first
    system, size) float32 in the order of its clips (`EmbeddingRows`). ``means``: what the rows come to, and
    ``comparisons``: differences between systems and their spread over seeds, where there are several. ``provenance``:
    what the manifest does not say, by name.
    """

    bundle: str
    manifest: Manifest
    calibrations: Mapping[CalibrationKey, SectionCalibration]
    rows: tuple[Row, ...]
    scored: Mapping[System, Sequence[Scored]]
    embeddings: NDArray[np.float32]
    official_score: float | None
    mean_auc: float | None
    means: tuple[Table, ...]
    comparisons: tuple[Table, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, str]

    @cached_property
    def system(self) -> System:
        """The bundle that the report is about."""
        return next(iter(self.scored))

    @cached_property
    def labels(self) -> dict[System, str]:
        """How each system is called: by its name, and by what tells it from others of that name."""
        return label(list(dict.fromkeys([*self.scored, *map(System.of, self.rows)])))

    @cached_property
    def own_rows(self) -> tuple[Row, ...]:
        """The rows of the bundle that the report is about."""
        return tuple(row for row in self.rows if System.of(row) == self.system)

    @cached_property
    def places(self) -> dict[Place, list[Scored]]:
        """The bundle's clips by place, in sorted order."""
        return by_place(self.scored[self.system])

    @property
    def faults(self) -> bool:
        """Whether a clip is known to be of a faulty machine."""
        return any(row.anomalous for row in self.own_rows)

    def promised(self, place: Place) -> float | None:
        """The false-alarm rate by design; None where the bundle has no threshold."""
        calibration = self.calibrations[place].calibration if place in self.calibrations else None
        return None if calibration is None or calibration.threshold is None else 1.0 - calibration.percentile / 100.0

    def p_value(self, clip: Scored) -> float | None:
        """How rarely a normal clip scores as high as this one of the bundle's; None without calibration clips."""
        place = place_of(clip)
        if place not in self.calibrations:
            return None
        return p_value(clip.decision_score, self.calibrations[place].calibration.scores)


def place_of(clip: Scored) -> Place:
    """Section and domain of a clip."""
    return clip.recording.key, clip.recording.domain


def by_place(clips: Sequence[Scored]) -> dict[Place, list[Scored]]:
    """Clips by section and domain, in sorted order."""
    places: defaultdict[Place, list[Scored]] = defaultdict(list)
    for clip in clips:
        places[place_of(clip)].append(clip)
    return dict(sorted(places.items()))


def of_condition(clips: Sequence[Scored], condition: Condition | None) -> list[Scored]:
    """The clips that are known to be of this condition; None: those of which it is not told."""
    return [clip for clip in clips if clip.recording.condition is condition]


def anomaly_scores(clips: Sequence[Scored]) -> NDArray[np.float64]:
    """(clips,) scores for ranking."""
    return np.array([clip.anomaly_score for clip in clips], np.float64)


def decision_scores(clips: Sequence[Scored]) -> NDArray[np.float64]:
    """(clips,) scores that a threshold is for."""
    return np.array([clip.decision_score for clip in clips], np.float64)


def label(systems: Sequence[System]) -> dict[System, str]:
    """A name for each system: of recipe, seed and bundle as much as it takes to tell it from the others.

    Nothing that can be told is left ambiguous: two evaluations of one bundle are one system.
    """

    def names(detail: int) -> dict[System, str]:
        return {
            one: " ".join(
                [
                    one.name.value,
                    *([one.recipe] if detail > 0 and one.recipe else []),
                    *([f"seed {one.seed}"] if detail > 1 and one.seed is not None else []),
                    *([one.bundle[:8]] if detail > 2 and one.bundle else []),
                ]
            )
            for one in systems
        }

    return next((found for found in map(names, range(4)) if len(set(found.values())) == len(systems)), names(3))
