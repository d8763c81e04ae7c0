"""Thresholds against numpy.percentile, p-values against a plain count."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from models.decision import Calibration, decide, deviation, p_value, smallest_false_alarm_rate
from models.vocabulary import Decision, ThresholdRule

finite = st.floats(-1e6, 1e6)
ties = st.integers(-3, 3).map(float)


@given(scores=st.lists(finite, min_size=1, max_size=60), percentile=st.floats(0, 100))
def test_the_threshold_is_numpys_percentile(scores: list[float], percentile: float) -> None:
    """Linear interpolation, whatever order the scores come in; the scores are kept ascending."""
    calibration = Calibration.from_scores(scores, ThresholdRule.PAPER, percentile)
    assert calibration.threshold == pytest.approx(np.percentile(scores, percentile, method="linear"))
    assert calibration.scores.tolist() == sorted(scores)
    assert calibration.scores.dtype == np.float64


def test_the_ninetieth_percentile_is_the_papers() -> None:
    calibration = Calibration.from_scores([*range(11)], ThresholdRule.HELD_OUT)
    assert (calibration.percentile, calibration.threshold, calibration.rule) == (90.0, 9.0, ThresholdRule.HELD_OUT)


def test_no_scores_give_no_threshold_and_no_decision() -> None:
    calibration = Calibration.from_scores([], ThresholdRule.HELD_OUT)
    assert calibration.threshold is None
    assert len(calibration.scores) == 0
    assert decide(1e9, calibration.threshold) is None
    assert p_value(1e9, calibration.scores) is None
    assert deviation(1e9, calibration.scores) is None


def test_anomalous_is_strictly_above_the_threshold() -> None:
    assert decide(1.0, 1.0) is Decision.NORMAL
    assert decide(math.nextafter(1.0, 2.0), 1.0) is Decision.ANOMALOUS
    assert decide(math.nextafter(1.0, 0.0), 1.0) is Decision.NORMAL


@given(scores=st.lists(ties | finite, min_size=1, max_size=40), score=ties | finite)
def test_a_p_value_is_a_plain_count(scores: list[float], score: float) -> None:
    """Ties count as higher, so that it never claims too much; order does not matter."""
    count = 0
    for one in scores:
        if one >= score:
            count += 1
    expected = (1 + count) / (len(scores) + 1)
    assert p_value(score, scores) == expected
    assert p_value(score, Calibration.from_scores(scores, ThresholdRule.PAPER).scores) == expected
    assert smallest_false_alarm_rate(len(scores)) <= expected <= 1.0


def test_the_smallest_p_value_is_the_smallest_false_alarm_rate() -> None:
    assert p_value(100.0, [1.0] * 70) == smallest_false_alarm_rate(70) == 1 / 71


@given(scores=st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=40), score=finite)
def test_the_deviation_is_in_robust_standard_deviations(scores: list[float], score: float) -> None:
    spread = 1.4826 * float(median_abs_deviation(scores))
    found = deviation(score, scores)
    if spread == 0:
        assert found is None
    else:
        assert found == pytest.approx((score - float(np.median(scores))) / spread)


def test_the_deviation_still_rises_where_the_p_value_has_ended() -> None:
    scores = list(np.random.default_rng(0).normal(size=200))
    high, higher = deviation(10.0, scores), deviation(20.0, scores)
    assert p_value(10.0, scores) == p_value(20.0, scores)
    assert high is not None
    assert higher is not None
    assert higher == pytest.approx(2 * high, rel=0.05)
    assert high == pytest.approx(10.0, rel=0.15)


def test_nan_is_never_normal() -> None:
    """It compares as not above any threshold and as above every calibration score."""
    with pytest.raises(ValueError, match="NaN"):
        decide(math.nan, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        p_value(math.nan, [0.0])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            Calibration.from_scores([0.0, bad], ThresholdRule.PAPER)


@pytest.mark.parametrize("percentile", [-1.0, 100.1, math.nan])
def test_a_percentile_lies_between_0_and_100(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        Calibration.from_scores([0.0], ThresholdRule.PAPER, percentile)


@given(
    scores=st.lists(st.tuples(ties | finite, st.integers(0, 4)), min_size=1, max_size=40),
    percentile=st.sampled_from([50.0, 90.0, 95.0]),
)
def test_cross_validated_alarms_are_those_of_thresholds_that_other_folds_give(
    scores: list[tuple[float, int]], percentile: float
) -> None:
    """Against a plain loop over the clips, in whatever order they come; of one fold nothing can be said."""
    values, folds = (np.array(column) for column in zip(*scores, strict=True))
    found = Calibration.from_scores(values, ThresholdRule.CONDITIONS, percentile, folds=folds).cross_validated_alarms()
    if len(set(folds.tolist())) < 2:
        assert found is None
        return
    assert found is not None
    alarms = 0
    for score, fold in scores:
        others = [one for one, another in scores if another != fold]
        if score > np.percentile(others, percentile):
            alarms += 1
    assert found.sum() == alarms


def test_a_rate_is_cross_validated_as_it_is_asked_for() -> None:
    """Folds of alike clips at different levels: the threshold holds a tenth of its own, and nothing of another's."""
    values = np.concatenate([np.arange(10.0) + 100.0 * fold for fold in range(2)])
    calibration = Calibration.from_scores(values, ThresholdRule.HELD_OUT, folds=np.repeat([0, 1], 10))
    for rate in (0.1, 0.5):
        alarms = calibration.at(rate).cross_validated_alarms()
        assert alarms is not None
        assert alarms.tolist() == [False] * 10 + [True] * 10
    assert Calibration.from_scores(values, ThresholdRule.PAPER).cross_validated_alarms() is None
    with pytest.raises(ValueError, match="as many numbers of folds"):
        Calibration.from_scores(values, ThresholdRule.HELD_OUT, folds=np.arange(3))
