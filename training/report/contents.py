"""What a report is made of: measured values and plain tables, and nothing of how they look.

Fractions are from 0 to 1; what the clips do not define is None. A place is a section and domain, `CalibrationKey`: what
scores are comparable within.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.bundle import CalibrationKey, SectionCalibration
from models.decision import p_value
from models.manifest import Manifest
from models.vocabulary import Condition
from training.layout import Table
from training.scored import Scored
from training.tables import Row


@dataclass(frozen=True, slots=True)
class Sibling:
    """A bundle of one ensemble at its step of a curve.

    ``machine_types``: the curve's. ``members``: how many score one of them. ``clip_ms``: milliseconds that a clip of
    the first of their sections takes.
    """

    bundle: str
    machine_types: tuple[str, ...]
    members: int
    clip_ms: float


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that the page shows.

    ``bundle``, ``manifest``, ``calibrations``: what the report is about. ``rows``, ``scored``: each system's by its
    label, that bundle's first; of the others only rows, tables and ROC curves are shown. ``embeddings``: a row for each
    of the bundle's clips, (clips, size), in their order. ``means``: what the rows come to, and ``comparisons``:
    differences between systems and their spread over seeds, where there are several. ``provenance``: what the manifest
    does not say, by name. ``siblings``: of a pruned bundle, itself and what stands beside it of the same
    ensemble, by curve.
    """

    bundle: str
    manifest: Manifest
    calibrations: Mapping[CalibrationKey, SectionCalibration]
    rows: Mapping[str, Sequence[Row]]
    scored: Mapping[str, Sequence[Scored]]
    embeddings: NDArray[np.float32]
    official_score: float | None
    mean_auc: float | None
    means: tuple[Table, ...]
    comparisons: tuple[Table, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, str]
    siblings: tuple[Sibling, ...] = ()

    @property
    def labels(self) -> list[str]:
        """How the systems are called, the bundle that the report is about first."""
        return list(self.rows)

    @property
    def own_rows(self) -> Sequence[Row]:
        """The bundle's."""
        return self.rows[self.labels[0]]

    @property
    def clips(self) -> Sequence[Scored]:
        """The bundle's."""
        return self.scored[self.labels[0]]

    @cached_property
    def places(self) -> dict[CalibrationKey, list[Scored]]:
        """The bundle's clips by place, in sorted order."""
        return by_place(self.clips)

    @property
    def faults(self) -> bool:
        """Whether a clip is known to be of a faulty machine."""
        return any(row.anomalous for row in self.own_rows)

    def promised(self, place: CalibrationKey) -> float | None:
        """The false-alarm rate by design; None where the bundle has no threshold."""
        calibration = self.calibrations[place].calibration if place in self.calibrations else None
        return None if calibration is None or calibration.threshold is None else 1.0 - calibration.percentile / 100.0

    def p_value(self, clip: Scored) -> float | None:
        """How rarely a normal clip scores as high as this one of the bundle's; None without calibration clips."""
        place = place_of(clip)
        if place not in self.calibrations:
            return None
        return p_value(clip.decision_score, self.calibrations[place].calibration.scores)


def place_of(clip: Scored) -> CalibrationKey:
    """Section and domain of a clip."""
    return clip.recording.key, clip.recording.domain


def by_place(clips: Sequence[Scored]) -> dict[CalibrationKey, list[Scored]]:
    """Clips by section and domain, in sorted order."""
    places: defaultdict[CalibrationKey, list[Scored]] = defaultdict(list)
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
