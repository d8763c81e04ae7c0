"""The floor: what costs nothing to compute, and what everything else must beat.

Mahalanobis distance of the temporal mean and standard deviation of the log-mel, per section, nearest of source model
and target clips. A section's source clips give mean and covariance (Ledoit and Wolf 2004, shrunk so that a few clips
do); in the target domain a clip may also be near one of the section's target clips, under the same covariance.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_limits

from models.decision import Calibration
from models.errors import NotTrainable
from models.frontend import N_MELS
from models.vocabulary import Domain, SectionKey, ThresholdRule
from training.backends import section_rows
from training.baselines.trained import Arrays, Place
from training.calibration import NO_FOLD, deal_folds
from training.features import FeatureStore
from training.progress import Advance

_log = logging.getLogger(__name__)

Statistics = NDArray[np.float64]
"""(clips, 256) dB: temporal mean, then standard deviation, of each mel bin."""

_LEAST_CLIPS = 2  # a covariance of fewer says nothing
_PARTS = ("mean", "precision", "target")


@dataclass(frozen=True, slots=True, eq=False)
class SectionFloor:
    """``mean`` (256,) and ``precision`` (256, 256), the inverse covariance, of the source clips; ``target`` clips."""

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    target: Statistics

    @classmethod
    def of(cls, source: Statistics, target: Statistics) -> "SectionFloor":
        """Fit at least two source clips."""
        with threadpool_limits(limits=1):  # matrices this small are inverted ten times sooner by one thread
            fitted = LedoitWolf().fit(source)
        return cls(fitted.location_, fitted.precision_, target)

    def score(self, clips: Statistics, domain: Domain) -> NDArray[np.float64]:
        """Distance to the source model, in the target domain to the nearest of it and the target clips: (clips,)."""
        references = self.mean[None]
        if domain is Domain.TARGET:
            references = np.concatenate([references, self.target])
        differences = clips[:, None] - references
        squares = np.einsum("cri,ij,crj->cr", differences, self.precision, differences, optimize=True)
        nearest: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0.0)).min(axis=1)
        return nearest


def temporal_statistics(log_mels: NDArray[np.float32]) -> Statistics:
    """Mean and standard deviation over time: (clips, frames, 128) dB -> (clips, 256) dB."""
    return np.concatenate([log_mels.mean(axis=1, dtype=np.float64), log_mels.std(axis=1, dtype=np.float64)], axis=1)


def fit(store: FeatureStore, seed: int, advance: Advance) -> tuple[Arrays, dict[Place, float | None]]:
    """Fit every section with two source clips at least; its arrays, and the thresholds of its domains.

    A threshold is the 90th percentile of scores of clips that the section's model has not seen: source clips in folds,
    target clips one recording at a time.

    Parameters
    ----------
    seed : deals the folds.
    advance : called with 1 after each clip.

    Raises
    ------
    NotTrainable : where no section has two source clips.
    """
    statistics = np.empty((len(store.clips), 2 * N_MELS))
    for row, log_mel in enumerate(store.log_mels):
        statistics[row] = temporal_statistics(np.asarray(log_mel)[None])
        advance(1)
    source, target = section_rows(store.clips, Domain.SOURCE), section_rows(store.clips, Domain.TARGET)
    folds = deal_folds(store.clips, seed)
    nothing = np.empty(0, np.intp)
    arrays: dict[str, NDArray[np.float64]] = {}
    thresholds: dict[Place, float | None] = {}
    for key in sorted(source.keys() | target.keys()):
        rows, changed = source.get(key, nothing), target.get(key, nothing)
        if len(rows) < _LEAST_CLIPS:
            _log.warning("%s section %s has fewer than two source clips and is left out", key.machine_type, key.section)
            continue
        section = SectionFloor.of(statistics[rows], statistics[changed])
        own = f"{key.machine_type}/{key.section}"
        arrays |= {f"{own}/{part}": getattr(section, part) for part in _PARTS}
        thresholds[key, Domain.SOURCE] = _threshold(_held_out(statistics[rows], folds[rows]))
        if len(changed):
            names = [store.clips[row].recording.recording for row in changed]
            thresholds[key, Domain.TARGET] = _threshold(_left_out(section, names))
    if not arrays:
        raise NotTrainable(
            "No section has two clips of its usual condition, and the floor needs their covariance. Add normal "
            "recordings."
        )
    return arrays, thresholds


def _held_out(source: Statistics, folds: NDArray[np.intp]) -> NDArray[np.float64]:
    """Scores of a section's source clips by models that were fitted without their fold."""
    scores = []
    for fold in range(int(folds.max(initial=NO_FOLD)) + 1):
        seen = source[folds != fold]
        if len(seen) >= _LEAST_CLIPS:
            scores.append(SectionFloor.of(seen, source[:0]).score(source[folds == fold], Domain.SOURCE))
    return np.concatenate(scores) if scores else np.empty(0)


def _left_out(section: SectionFloor, names: Sequence[str]) -> NDArray[np.float64]:
    """Scores of a section's target clips, each compared with those of the other recordings alone."""
    of = np.array(names)
    others = [replace(section, target=section.target[of != name]) for name in names]
    return np.array([one.score(clip[None], Domain.TARGET)[0] for one, clip in zip(others, section.target, strict=True)])


def _threshold(scores: NDArray[np.float64]) -> float | None:
    return Calibration.from_scores(scores, ThresholdRule.HELD_OUT).threshold


class FloorScorer:
    """Scores by distance; see `training.baselines.trained.Scorer`.

    Parameters
    ----------
    arrays : of `fit`.
    """

    def __init__(self, arrays: Arrays) -> None:
        names = {path.rsplit("/", 1)[0] for path in arrays}
        self._sections: Mapping[SectionKey, SectionFloor] = {
            SectionKey(*name.split("/")): SectionFloor(*(arrays[f"{name}/{part}"] for part in _PARTS)) for name in names
        }

    def score(self, log_mels: NDArray[np.float32], key: SectionKey, domain: Domain) -> NDArray[np.float64]:
        """The distance of each window: (windows, 313, 128) dB -> (windows,)."""
        return self._sections[key].score(temporal_statistics(log_mels), domain)
