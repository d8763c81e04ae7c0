"""The challenge's figures: AUC, pAUC, their harmonic means, and how sure they are.

Conventions: scores are higher for more anomalous clips; figures are fractions from 0 to 1. A figure that the clips do
not define is None, never a default: without anomalies there is no AUC, and no harmonic mean of nothing.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

MAX_FALSE_POSITIVE_RATE = 0.1
"""p of the pAUC (DCASE 2021 task 2)."""

RESAMPLES = 1000

Interval = tuple[float, float]
Scores = NDArray[np.float64]


def auc(normal: Scores, anomalous: Scores) -> float | None:
    """Area under the ROC curve: how often an anomalous clip scores higher than a normal one, ties counted half.

    Parameters
    ----------
    normal : (n,) scores of the normal clips.
    anomalous : (m,) scores of the anomalous clips.

    Returns
    -------
    0 to 1; None where there are no clips of one kind.
    """
    return _area(normal, anomalous, None)


def partial_auc(normal: Scores, anomalous: Scores) -> float | None:
    """pAUC, p = 0.1: the area where at most a tenth of normal clips alarm, scaled so that chance is 0.5 (McClish).

    Parameters and result as for `auc`.
    """
    return _area(normal, anomalous, MAX_FALSE_POSITIVE_RATE)


def _area(normal: Scores, anomalous: Scores, max_fpr: float | None) -> float | None:
    if not len(normal) or not len(anomalous):
        return None
    truth = np.repeat([0, 1], [len(normal), len(anomalous)])
    return float(roc_auc_score(truth, np.concatenate([normal, anomalous]), max_fpr=max_fpr))


def harmonic_mean(values: Iterable[float | None]) -> float | None:
    """Harmonic mean of those values that are defined; None where none is.

    A zero is taken as the smallest number above it, as the official evaluator does: the mean of a perfect failure and
    anything is 0, not an error.
    """
    defined = [max(value, float(np.finfo(np.float64).eps)) for value in values if value is not None]
    return len(defined) / sum(1.0 / value for value in defined) if defined else None


def official_score(aucs: Iterable[float | None], paucs: Iterable[float | None]) -> float | None:
    """The challenge's ranking score: harmonic mean of all AUCs and pAUCs of machine types, sections and domains."""
    return harmonic_mean([*aucs, *paucs])


def rate_interval(count: int, total: int, confidence: float = 0.95) -> Interval | None:
    """Exact interval of a rate (Clopper and Pearson 1934), for ``count`` of ``total`` independent clips.

    None for no clip at all.
    """
    if total == 0:
        return None
    tail = (1.0 - confidence) / 2.0
    low = scipy.stats.beta.ppf(tail, count, total - count + 1) if count else 0.0
    high = scipy.stats.beta.ppf(1.0 - tail, count + 1, total - count) if count < total else 1.0
    return float(low), float(high)


def bootstrap_intervals(
    normal: Scores,
    anomalous: Scores,
    normal_groups: Sequence[str],
    anomalous_groups: Sequence[str],
    *,
    seed: int,
    confidence: float = 0.95,
) -> tuple[Interval, Interval] | None:
    """Percentile intervals of AUC and pAUC over 1000 resamples of recordings.

    Normal and anomalous recordings are resampled apart, each as a whole: its clips resemble each other and must not
    count as independent.

    Parameters
    ----------
    normal, anomalous : (n,) and (m,) scores.
    normal_groups, anomalous_groups : (n,) and (m,), the recording that each clip is of.
    seed : of the resampling; equal arguments give equal intervals.

    Returns
    -------
    The intervals of AUC and of pAUC; None where there are fewer than two recordings of one kind.
    """
    rng = np.random.default_rng(seed)
    drawn = [_draws(groups, rng) for groups in (normal_groups, anomalous_groups)]
    if drawn[0] is None or drawn[1] is None:
        return None
    tails = [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0]
    areas = weighted_areas(normal, anomalous, drawn[0], drawn[1])
    (low, high), (partial_low, partial_high) = (np.quantile(area, tails) for area in areas)
    return (float(low), float(high)), (float(partial_low), float(partial_high))


def _draws(groups: Sequence[str], rng: np.random.Generator) -> NDArray[np.float64] | None:
    """How often each clip is drawn in each resample, (1000, clips)."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    counts = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=RESAMPLES)
    draws: NDArray[np.float64] = counts[:, member].astype(np.float64)
    return draws


def weighted_areas(
    normal: Scores, anomalous: Scores, normal_weights: NDArray[np.float64], anomalous_weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC and pAUC of weighted clips, for many weightings at once: what `auc` and `partial_auc` are for weights of 1.

    Parameters
    ----------
    normal, anomalous : (n,) and (m,) scores.
    normal_weights, anomalous_weights : (r, n) and (r, m), at least 0 and in each row not all 0.

    Returns
    -------
    (r,) AUC and (r,) pAUC.
    """
    steps, place = np.unique(-np.concatenate([normal, anomalous]), return_inverse=True)
    false_rate = _rates(normal_weights, place[: len(normal)], len(steps))
    hit_rate = _rates(anomalous_weights, place[len(normal) :], len(steps))
    limit = MAX_FALSE_POSITIVE_RATE
    rise, run = np.diff(hit_rate), np.diff(false_rate)
    area = (run * (hit_rate[:, :-1] + 0.5 * rise)).sum(axis=1)
    inside = np.clip(limit - false_rate[:, :-1], 0.0, run)  # how much of each step lies left of the limit
    slope = rise / np.where(run > 0.0, run, 1.0)
    partial = (inside * (hit_rate[:, :-1] + 0.5 * inside * slope)).sum(axis=1)
    chance = 0.5 * limit**2
    return area, 0.5 * (1.0 + (partial - chance) / (limit - chance))


def _rates(weights: NDArray[np.float64], place: NDArray[np.intp], steps: int) -> NDArray[np.float64]:
    """The share of clips at or above each score, from the highest on, after none: (r, 1 + steps)."""
    at_step = np.zeros((len(weights), 1 + steps))
    np.add.at(at_step.T, 1 + place, weights.T)
    rates: NDArray[np.float64] = np.cumsum(at_step, axis=1) / weights.sum(axis=1, keepdims=True)
    return rates
