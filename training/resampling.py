"""Recordings drawn again with replacement, a thousand times, and each draw measured.

Conventions: a recording is drawn as a whole, for its clips resemble each other and must not count as independent.
Normal and anomalous recordings of a section and domain are drawn apart, so that every draw has as many of each as there
are. What is drawn depends on the names of the recordings alone: every system is measured on the same draws, and how far
two figures go together is seen in them. `training.intervals` says what the draws alone are too sure of.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.intervals import CONFIDENCE
from training.metrics import MAX_FALSE_POSITIVE_RATE, Interval, Scores, standardised

RESAMPLES = 1000

_SEED = 0
_CELLS = 2_000_000
"""Weights that are worked on at once: draws of a plant's ten thousand clips would fill the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """How often each recording of one kind is drawn: ``counts`` is (draws, recordings), ``column`` a recording's place.

    None of these exists for fewer than two recordings: one says nothing of how much another would differ.
    """

    column: Mapping[str, int]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, recordings: Iterable[str], *names: str) -> Self | None:
        """Draw from ``recordings``: the same for equal ``names`` of the group, independent draws for others."""
        column = {name: place for place, name in enumerate(sorted(set(recordings)))}
        if len(column) < 2:
            return None
        rng = np.random.default_rng([_SEED, *(zlib.crc32(name.encode()) for name in names)])
        counts = rng.multinomial(len(column), np.full(len(column), 1.0 / len(column)), size=RESAMPLES)
        return cls(column, counts.astype(np.float64))

    def weights(self, recordings: Sequence[str]) -> NDArray[np.float64]:
        """How often each clip is drawn, (draws, clips), by the recording it is of."""
        drawn: NDArray[np.float64] = self.counts[:, [self.column[name] for name in recordings]]
        return drawn


def interval(values: NDArray[np.float64]) -> Interval:
    """The percentile interval of a figure, of its (draws,) values."""
    low, high = np.quantile(values, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    return float(low), float(high)


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """How far two figures go together from draw to draw, -1 to 1; None without draws, or where one never changes."""
    if not len(one) or not np.ptp(one) or not np.ptp(other):
        return None
    return 1.0 if np.array_equal(one, other) else float(np.clip(np.corrcoef(one, other)[0, 1], -1.0, 1.0))


def resampled_areas(
    normal: Scores, anomalous: Scores, normal_weights: NDArray[np.float64], anomalous_weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC and pAUC of weighted clips, for many weightings at once: `auc` and `partial_auc` are those of weights of 1.

    Parameters
    ----------
    normal, anomalous : (n,) and (m,) scores.
    normal_weights, anomalous_weights : (r, n) and (r, m), at least 0 and in each row not all 0.

    Returns
    -------
    (r,) AUC and (r,) pAUC.
    """
    rows = max(1, _CELLS // (len(normal) + len(anomalous)))
    blocks = [
        _areas(normal, anomalous, normal_weights[first : first + rows], anomalous_weights[first : first + rows])
        for first in range(0, len(normal_weights), rows)
    ]
    area, partial = (np.concatenate(each) for each in zip(*blocks, strict=True))
    return area, partial


def _areas(
    normal: Scores, anomalous: Scores, normal_weights: NDArray[np.float64], anomalous_weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores = np.concatenate([normal, anomalous])
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # clips of one score pass the threshold together
    is_normal = order < len(normal)
    false_rate = _rates(normal_weights, order[is_normal], is_normal, ends)
    hit_rate = _rates(anomalous_weights, order[~is_normal] - len(normal), ~is_normal, ends)
    limit = MAX_FALSE_POSITIVE_RATE
    rise, run = np.diff(hit_rate), np.diff(false_rate)
    area = (run * (hit_rate[:, :-1] + 0.5 * rise)).sum(axis=1)
    inside = np.clip(limit - false_rate[:, :-1], 0.0, run)  # how much of each step lies left of the limit
    slope = rise / np.where(run > 0.0, run, 1.0)
    partial = (inside * (hit_rate[:, :-1] + 0.5 * inside * slope)).sum(axis=1)
    return area, standardised(partial)


def _rates(
    weights: NDArray[np.float64], clips: NDArray[np.intp], places: NDArray[np.bool_], ends: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The share of clips at or above each score, from the highest on, after none: (r, 1 + scores).

    ``clips``: of this kind, in falling order of score. ``places``: which of all clips, so ordered, they are.
    """
    passed = np.zeros((len(weights), 1 + len(clips)))
    np.cumsum(weights[:, clips], axis=1, out=passed[:, 1:])
    so_far = np.cumsum(places)[ends]  # how many clips of this kind have a score at least as high
    rates: NDArray[np.float64] = passed[:, np.concatenate([[0], so_far])] / passed[:, -1:]
    return rates
