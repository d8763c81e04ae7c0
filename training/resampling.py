"""How sure a figure is: recordings are drawn again with replacement, a thousand times, and each draw is measured.

Conventions: a recording is drawn as a whole, for its clips resemble each other and must not count as independent.
Normal and anomalous recordings of a section and domain are drawn apart, so that every draw has as many of each as there
are. What is drawn depends on the names of the recordings alone: every system is measured on the same draws, and the
interval of a difference is that of paired figures. Intervals are percentiles, 95 %; a rate has one without draws, and
an AUC by itself the wider of draws and `score_interval`.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from training.metrics import MAX_FALSE_POSITIVE_RATE, Interval, Scores

RESAMPLES = 1000
CONFIDENCE = 0.95

_SEED = 0
_EDGE = 1e-9
"""From 0 or 1, where nothing varies: nearer than any other AUC of so many clips."""
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


def exact_interval(count: float, total: float) -> Interval:
    """Exact interval of a rate (Clopper and Pearson 1934), for ``count`` of ``total`` independent observations."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low = scipy.stats.beta.ppf(tail, count, total - count + 1) if count else 0.0
    high = scipy.stats.beta.ppf(1.0 - tail, count + 1, total - count) if count < total else 1.0
    return float(low), float(high)


def score_interval(area: float, normal: int, anomalous: int) -> Interval:
    """Interval of an AUC by its score (Newcombe 2006, method 5): all values that it is no further from than chance.

    The variance at a value is that of Hanley and McNeil (1982). Where no anomalous recording scores below a normal one
    draws are all alike, and promise that none ever will; of few recordings they are too sure in any case.

    Parameters
    ----------
    area : 0 to 1.
    normal, anomalous : how many independent recordings of each it is of.
    """
    least = float(scipy.stats.norm.ppf((1.0 + CONFIDENCE) / 2.0)) ** 2
    half = (normal + anomalous) / 2.0 - 1.0

    def beyond(value: float) -> float:
        """Negative for what is within chance's reach."""
        spread = 1.0 + half * ((1.0 - value) / (2.0 - value) + value / (1.0 + value))
        return (area - value) ** 2 - least * value * (1.0 - value) * spread / (normal * anomalous)

    low = scipy.optimize.brentq(beyond, 0.0, min(area, 1.0 - _EDGE)) if area > 0.0 else 0.0
    high = scipy.optimize.brentq(beyond, max(area, _EDGE), 1.0) if area < 1.0 else 1.0
    return float(low), float(high)


def rate_interval(called: Sequence[bool], recordings: Sequence[str]) -> Interval | None:
    """Interval of the share of clips that are ``called`` anomalous.

    Exact where every clip is of a recording of its own. Clips of one recording resemble each other: then it is the
    exact interval of as many observations as would be as sure, by the variance between recordings (Korn and Graubard
    1998); of as many as there are recordings where all clips are called alike. Draws would not do for a rate: of few
    recordings their intervals hold the truth in four cases of five, and a rate of 0 is 0 in each of them.

    Parameters
    ----------
    called, recordings : (clips,) the verdict on each clip, and the recording that it is of.

    Returns
    -------
    None for no clip, and for several clips of a single recording.
    """
    total = len(called)
    _, place, sizes = np.unique(np.asarray(recordings, dtype=str), return_inverse=True, return_counts=True)
    if total and len(sizes) == total:
        return exact_interval(sum(called), total)
    if len(sizes) < 2:
        return None
    rate = sum(called) / total
    if rate in {0.0, 1.0}:
        return exact_interval(rate * len(sizes), len(sizes))
    by_recording = np.bincount(place, weights=np.asarray(called) - rate)
    variance = len(sizes) / (len(sizes) - 1) * float(np.square(by_recording).sum()) / total**2
    above = (1.0 + CONFIDENCE) / 2.0
    few = float(scipy.stats.t.ppf(above, total - 1) / scipy.stats.t.ppf(above, len(sizes) - 1)) ** 2
    effective = min(float(total), few * rate * (1.0 - rate) / variance) if variance else float(total)
    return exact_interval(rate * effective, effective)


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
    chance = 0.5 * limit**2
    return area, 0.5 * (1.0 + (partial - chance) / (limit - chance))


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
