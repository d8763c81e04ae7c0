"""The challenge's figures: AUC, pAUC and their harmonic means; `resampling` says how sure they are.

Conventions: scores are higher for more anomalous clips; figures are fractions from 0 to 1. A figure that the clips do
not define is None, never a default: without anomalies there is no AUC, and no harmonic mean of nothing.
"""

import sys
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

MAX_FALSE_POSITIVE_RATE = 0.1
"""p of the pAUC (DCASE 2021 task 2)."""

MIN_NORMAL_FOR_PARTIAL = 20
"""Normal clips below which a pAUC is not shown: a tenth of them is hardly two, so it hangs on the loudest one."""

Interval = tuple[float, float]
Scores = NDArray[np.float64]

_Areas = TypeVar("_Areas", float, NDArray[np.float64])


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


def standardised(partial: _Areas) -> _Areas:
    """Areas left of p, 0 to p, so scaled that chance is 0.5 and no error 1 (McClish 1989)."""
    chance = 0.5 * MAX_FALSE_POSITIVE_RATE**2
    return 0.5 * (1.0 + (partial - chance) / (MAX_FALSE_POSITIVE_RATE - chance))


def harmonic_means(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Harmonic mean of each column of (figures, n): (n,)."""
    means: NDArray[np.float64] = len(figures) / reciprocals(figures).sum(axis=0)
    return means


def reciprocals(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a harmonic mean adds up.

    A zero is taken as `sys.float_info.epsilon`, as the official evaluator does: the mean of a perfect failure and
    anything is as good as 0, not an error.
    """
    found: NDArray[np.float64] = 1.0 / np.maximum(figures, sys.float_info.epsilon)
    return found


def harmonic_mean(values: Iterable[float | None]) -> float | None:
    """Harmonic mean of those values that are defined, see `harmonic_means`; None where none is."""
    defined = np.array([[value] for value in values if value is not None])
    return float(harmonic_means(defined)[0]) if len(defined) else None


def official_score(aucs: Iterable[float | None], paucs: Iterable[float | None]) -> float | None:
    """The challenge's ranking score: harmonic mean of all AUCs and pAUCs of machine types, sections and domains."""
    return harmonic_mean([*aucs, *paucs])
