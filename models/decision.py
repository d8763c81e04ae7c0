"""From a score to a decision: calibration scores, p-values, thresholds.

Conventions: scores are decision scores in nats, higher is more anomalous; calibration scores are those of normal clips
of one section and domain, by the rule that the calibration names. What no clip stands behind is None, never a default.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Decision, ThresholdRule

PERCENTILE = 90.0
"""Of the calibration scores, the threshold (paper 2.6): by design a tenth of normal clips lie above."""

_NORMAL_CONSISTENCY = 1.4826
"""Makes the median absolute deviation of normally distributed values their standard deviation."""

Scores = NDArray[np.floating[Any]] | Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Scores of normal clips of one section and domain, and the threshold they give.

    ``scores``: (n,) float64, ascending. ``rule``: which clips these are. ``percentile``: 0 to 100. ``threshold``: that
    percentile of the scores; None where there are none. ``ranked``: the percentile is the rank that keeps its promise
    for a clip exchangeable with these n, the ceil(q (n + 1))-th smallest, and not interpolated. ``folds``: (n,) with
    which fold each score was held out; None where the rule holds nothing out.
    """

    scores: NDArray[np.float64]
    rule: ThresholdRule
    percentile: float
    threshold: float | None
    ranked: bool = False
    folds: NDArray[np.int64] | None = None

    @classmethod
    def from_scores(
        cls,
        scores: Scores,
        rule: ThresholdRule,
        percentile: float = PERCENTILE,
        *,
        ranked: bool = False,
        folds: NDArray[np.int64] | None = None,
    ) -> Self:
        """Sort the scores, their folds with them, and take their percentile.

        Raises
        ------
        ValueError : where a score is not finite, the percentile not within 0 to 100, or the folds are not the scores'.
        """
        values = np.asarray(scores, np.float64).ravel()
        if not np.isfinite(values).all():
            raise ValueError("Calibration scores must be finite.")
        if not 0.0 <= percentile <= 100.0:
            raise ValueError(f"A percentile lies between 0 and 100, not at {percentile}.")
        if folds is not None and (folds.shape != values.shape or folds.dtype.kind != "i"):
            raise ValueError(f"{len(values)} scores need as many numbers of folds, not {folds.dtype} {folds.shape}.")
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        threshold = _threshold(ordered, percentile, ranked=ranked)
        return cls(ordered, rule, percentile, threshold, ranked, None if folds is None else folds[order])

    def at(self, false_alarm_rate: float) -> Self:
        """The same scores with the threshold that a share ``false_alarm_rate`` of normal clips lies above.

        Of n clips no rate under 1/(n + 1) can be promised; the threshold is then about the highest score that there is.
        """
        percentile = 100.0 * (1.0 - false_alarm_rate)
        return type(self).from_scores(self.scores, self.rule, percentile, ranked=self.ranked, folds=self.folds)

    def cross_validated_alarms(self) -> NDArray[np.bool_] | None:
        """Which of the scores lie above the threshold that the other folds' scores give, (n,).

        A threshold holds for the scores that it was taken from by its definition; what it does for others, these say.
        None where there are no scores of two folds.
        """
        if self.folds is None or len(np.unique(self.folds)) < 2:
            return None
        alarms = np.zeros(len(self.scores), bool)
        for fold in np.unique(self.folds):
            held_out = self.folds == fold
            threshold = _threshold(self.scores[~held_out], self.percentile, ranked=self.ranked)
            alarms[held_out] = self.scores[held_out] > threshold
        return alarms


def _threshold(ordered: NDArray[np.float64], percentile: float, *, ranked: bool) -> float | None:
    """The percentile of ascending scores, linearly interpolated (paper 2.6) or by rank; None of none."""
    n = len(ordered)
    if not n:
        return None
    if not ranked:
        return float(np.percentile(ordered, percentile))
    rank = math.ceil(round(percentile / 100.0 * (n + 1), 9))  # 0.9 * 10 must not become the tenth of nine
    return float(ordered[min(n, max(1, rank)) - 1])


def p_value(score: float, calibration_scores: Scores) -> float | None:
    """How rarely a normal clip scores this high: (1 + number of calibration scores >= score) / (n + 1).

    From 1/(n + 1) to 1, and for a normal clip that is exchangeable with the calibration clips at most u with a
    probability of at most u. None without calibration scores.

    Raises
    ------
    ValueError : for a score that is NaN, which would come out as the rarest of all.
    """
    if np.isnan(score):
        raise ValueError("NaN has no p-value.")
    n = len(calibration_scores)
    if n == 0:
        return None
    return (1 + int(np.count_nonzero(np.asarray(calibration_scores) >= score))) / (n + 1)


def smallest_false_alarm_rate(n: int) -> float:
    """The smallest p-value that n calibration scores can give, 1/(n + 1): no rarer event can be told from n clips."""
    return 1.0 / (n + 1)


def deviation(score: float, calibration_scores: Scores) -> float | None:
    """Robust standard deviations above the calibration median: (score - median) / (1.4826 MAD).

    Still rises where the p-value has reached its floor. None without calibration scores or where their median absolute
    deviation is 0.
    """
    values = np.asarray(calibration_scores, np.float64)
    if len(values) == 0:
        return None
    median = np.median(values)
    spread = _NORMAL_CONSISTENCY * np.median(np.abs(values - median))
    return float((score - median) / spread) if spread > 0.0 else None


def decide(score: float, threshold: float | None) -> Decision | None:
    """Anomalous when strictly above the threshold (paper 2.6); None where there is no threshold.

    Raises
    ------
    ValueError : for a score that is NaN, which no comparison would call anomalous.
    """
    if np.isnan(score):
        raise ValueError("Nothing can be decided about NaN.")
    if threshold is None:
        return None
    return Decision.ANOMALOUS if score > threshold else Decision.NORMAL
