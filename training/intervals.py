"""How sure a figure is: intervals of rates, of areas under a ROC curve, of their means, and of differences.

Conventions: intervals are 95 %, figures fractions from 0 to 1. Recordings are what is independent: the clips of one
resemble each other. A rate and an area have intervals of their own, which hold where recordings are few or part without
an error; means and differences recover from these how far they reach to either side (MOVER: Zou and Donner 2008,
Newcombe 2011), so that a total is never surer than what it is made of.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from training.metrics import MAX_FALSE_POSITIVE_RATE, Interval, reciprocals, standardised

CONFIDENCE = 0.95

_TAIL = (1.0 - CONFIDENCE) / 2.0
_EDGE = 1e-9
"""From 0 or 1, where nothing varies: nearer than any other AUC of so many clips."""
_DISTANCES = np.linspace(-2.5, 6.5, 901)
"""Between faulty and normal scores, in standard deviations: AUCs from 0.04 to 1."""
_MADE = 2000
"""Sets of scores that are made to see how a pAUC of few recordings scatters."""
_MOST_MADE = 400
"""Recordings of a kind in a made set; of more a pAUC is nearly normally distributed, and reaches as 1 over the root."""


def exact_interval(count: float, total: float) -> Interval:
    """Exact interval of a rate (Clopper and Pearson 1934), for ``count`` of ``total`` independent observations."""
    low = scipy.stats.beta.ppf(_TAIL, count, total - count + 1) if count else 0.0
    high = scipy.stats.beta.ppf(1.0 - _TAIL, count + 1, total - count) if count < total else 1.0
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
    above = 1.0 - _TAIL
    few = float(scipy.stats.t.ppf(above, total - 1) / scipy.stats.t.ppf(above, len(sizes) - 1)) ** 2
    effective = min(float(total), few * rate * (1.0 - rate) / variance) if variance else float(total)
    return exact_interval(rate * effective, effective)


def score_interval(area: float, normal: int, anomalous: int) -> Interval:
    """Interval of an AUC by its score (Newcombe 2006, method 5): all values that it is no further from than chance.

    The variance at a value is that of Hanley and McNeil (1982). Where no anomalous recording scores below a normal one
    draws are all alike, and promise that none ever will; of few recordings they are too sure in any case.

    Parameters
    ----------
    area : 0 to 1.
    normal, anomalous : how many independent recordings of each it is of.
    """
    least = float(scipy.stats.norm.ppf(1.0 - _TAIL)) ** 2
    half = (normal + anomalous) / 2.0 - 1.0

    def beyond(value: float) -> float:
        """Negative for what is within chance's reach."""
        spread = 1.0 + half * ((1.0 - value) / (2.0 - value) + value / (1.0 + value))
        return (area - value) ** 2 - least * value * (1.0 - value) * spread / (normal * anomalous)

    low = scipy.optimize.brentq(beyond, 0.0, min(area, 1.0 - _EDGE)) if area > 0.0 else 0.0
    high = scipy.optimize.brentq(beyond, max(area, _EDGE), 1.0) if area < 1.0 else 1.0
    return float(low), float(high)


def partial_interval(partial: float, normal: int, anomalous: int) -> Interval:
    """Interval of a pAUC: all values of which sets of so many recordings give one as high, and one as low, by chance.

    A tenth of few normal recordings is one or two: the pAUC hangs on the loudest, comes out too high on average (by
    13 points of 4 where 68 is true), and draws repeat that. Here its distribution is simulated, for normally
    distributed scores of one spread at each distance; an end is where the pAUC would be in the outermost 2.5 %. Of the
    kind that is many, sets have `_MOST_MADE`: the few of the other decide. Where both are many the ends come nearer by
    the root of the smaller number, as those of sets of all would.

    Parameters
    ----------
    partial : standardised, see `training.metrics.partial_auc`.
    normal, anomalous : how many independent recordings of each it is of.

    Returns
    -------
    It holds ``partial``, also where that is likely to be too high.
    """
    highest, lowest = _outermost(min(normal, _MOST_MADE), min(anomalous, _MOST_MADE))
    below = max(int(np.searchsorted(highest, partial - _EDGE)) - 1, 0)
    above = int(np.searchsorted(lowest, partial + _EDGE, side="right"))
    low = min(_partial_at(_DISTANCES[below]), partial)
    high = max(_partial_at(_DISTANCES[above]), partial) if above < len(_DISTANCES) else 1.0
    nearer = math.sqrt(_MOST_MADE / max(_MOST_MADE, min(normal, anomalous)))
    return partial - nearer * (partial - low), partial + nearer * (high - partial)


def _partial_at(distance: float) -> float:
    """The pAUC of a whole population of normally distributed scores."""
    rates = (np.arange(500) + 0.5) / 500 * MAX_FALSE_POSITIVE_RATE
    return standardised(float(ndtr(distance + ndtri(rates)).mean()) * MAX_FALSE_POSITIVE_RATE)


@cache
def _outermost(normal: int, anomalous: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At each distance the pAUC that one in forty of `_MADE` sets reaches, and that which one in forty stays below.

    Both rise with the distance, for the noise is the same at each: a faulty recording passes a normal one from the
    distance on that its noise lacks, so that a set is gone through once, whatever the number of distances.
    """
    rng = np.random.default_rng([normal, anomalous])
    steps = int(np.ceil(MAX_FALSE_POSITIVE_RATE * normal - _EDGE))  # of the curve, left of the limit: the loudest
    loudest = -np.sort(-rng.normal(size=(_MADE, normal)), axis=1)[:, :steps]
    faulty = rng.normal(size=(_MADE, anomalous))
    widths = np.minimum(1.0 / normal, MAX_FALSE_POSITIVE_RATE - np.arange(steps) / normal)
    gained = np.repeat(widths / anomalous, anomalous)
    found = np.empty((_MADE, len(_DISTANCES)))
    for row, own, theirs in zip(found, loudest, faulty, strict=True):
        lacked = (own[:, None] - theirs).ravel() - _DISTANCES[0]
        passed_at = np.clip(np.floor(lacked / (_DISTANCES[1] - _DISTANCES[0])) + 1, 0, len(row)).astype(np.intp)
        np.cumsum(np.bincount(passed_at, gained, len(row) + 1)[:-1], out=row)
    beyond = round(_TAIL * _MADE)
    lowest, highest = np.partition(found, (beyond - 1, _MADE - beyond), axis=0)[[beyond - 1, _MADE - beyond]]
    return standardised(highest), standardised(lowest)


def wider(one: Interval, other: Interval) -> Interval:
    """From the lower of both lower ends to the higher of both higher ones."""
    return min(one[0], other[0]), max(one[1], other[1])


def mean_interval(
    figures: NDArray[np.float64], intervals: NDArray[np.float64], correlation: NDArray[np.float64]
) -> Interval:
    """Interval of the arithmetic mean of figures, by their own.

    Parameters
    ----------
    figures, intervals : (n,) and (n, 2).
    correlation : (n, n) of the figures.
    """
    mean = float(figures.mean())
    fall, rise = figures - intervals[:, 0], intervals[:, 1] - figures
    down, up = (math.sqrt(max(float(side @ correlation @ side), 0.0)) / len(figures) for side in (fall, rise))
    return mean - down, mean + up


def harmonic_interval(
    figures: NDArray[np.float64], intervals: NDArray[np.float64], correlation: NDArray[np.float64]
) -> Interval:
    """Interval of the harmonic mean, as `mean_interval` of the reciprocals."""
    low, high = mean_interval(reciprocals(figures), reciprocals(intervals[:, ::-1]), correlation)
    return 1.0 / high, 1.0 / low


def difference_interval(
    figures: tuple[float, float], intervals: tuple[Interval, Interval], correlation: float
) -> Interval:
    """Interval of the first figure minus the other, by their own.

    The difference falls by as much as the first falls and the other rises. What both hear alike lets them fall together
    and rise together, and cancels: for a correlation of 1 what is left is by how much more the first falls, or the
    other rises. (The method's own form takes the first's fall from the other's rise even then, so that a system would
    differ from itself; where both sides of an interval are equal it is this one.)
    """
    falls = [figure - own[0] for figure, own in zip(figures, intervals, strict=True)]
    rises = [own[1] - figure for figure, own in zip(figures, intervals, strict=True)]
    value = figures[0] - figures[1]
    more = max(falls[0] - falls[1], rises[1] - rises[0], 0.0), max(falls[1] - falls[0], rises[0] - rises[1], 0.0)
    down = _reach(falls[0], rises[1], more[0], correlation)
    return value - down, value + _reach(falls[1], rises[0], more[1], correlation)


def _reach(fall: float, rise: float, together: float, correlation: float) -> float:
    if correlation < 0.0:
        return math.sqrt(fall**2 + rise**2 - 2.0 * correlation * fall * rise)
    return math.sqrt((1.0 - correlation) * (fall**2 + rise**2) + correlation * together**2)
