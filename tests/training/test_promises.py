"""What thresholds promise and keep, beside the figures: against plain counts over told scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from models.decision import Calibration
from models.vocabulary import Condition, Domain, ThresholdRule
from tests.training.test_printed import table
from tests.training.told import Told, ignore, noisy, recordings, scores
from training.evaluate import evaluate
from training.intervals import exact_interval
from training.promises import RATES
from training.recordings import Place
from training.scored import SystemName
from training.tables import Evaluation

FAN: Place = ("fan", "00", Domain.SOURCE)
CALIBRATION = np.random.default_rng(4).normal(size=60)
FOLDS = np.arange(60) % 5


@dataclass
class Calibrated(Told):
    """Told scores beside told calibration scores."""

    rule: str | None = "conditions"
    calibrations: Mapping[Place, Calibration] = field(
        default_factory=lambda: {
            FAN: Calibration.from_scores(CALIBRATION, ThresholdRule.CONDITIONS, folds=FOLDS),
            ("fan", "07", Domain.SOURCE): Calibration.from_scores(CALIBRATION, ThresholdRule.CONDITIONS),
        }
    )


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """By two rules, and beside a floor that promises nothing."""
    papers = {FAN: Calibration.from_scores(CALIBRATION - 2.0, ThresholdRule.PAPER)}
    return evaluate(
        [
            Calibrated(noisy(2.0, 1), recipe="told", seed=0),
            Calibrated(noisy(2.0, 1), recipe="told", seed=0, rule="paper", calibrations=papers),
            Told(noisy(1.0, 2), name=SystemName.FLOOR),
        ],
        recordings(40, 25),
        advance=ignore,
    )


def test_promises_are_plain_counts(evaluation: Evaluation) -> None:
    """At each rate: training clips above what other folds give, test clips above the threshold in force."""
    (first, paper, floor) = evaluation.systems
    assert [(one.place, one.asked) for one in first.promises] == [(FAN, rate) for rate in RATES]
    for one in first.promises:
        level = 100.0 * (1.0 - one.asked)
        above = [
            score > np.percentile(CALIBRATION[fold != FOLDS], level)
            for score, fold in zip(CALIBRATION, FOLDS, strict=True)
        ]
        assert one.cross_validated == pytest.approx(np.mean(above))
        threshold = np.percentile(CALIBRATION, level)
        alarms = int((scores(first.scored, Condition.NORMAL) > threshold).sum())
        assert one.false_alarms == alarms / 40
        assert one.false_alarm_interval == exact_interval(alarms, 40)
        assert one.hits == (scores(first.scored, Condition.ANOMALY) > threshold).mean()
        assert (one.rule, one.clips) == (ThresholdRule.CONDITIONS, 60)
    assert [one.cross_validated for one in paper.promises] == [None, None], "that rule holds nothing out"
    assert paper.promises[0].false_alarms is not None
    assert first.promises[0].false_alarms is not None
    assert paper.promises[0].false_alarms > first.promises[0].false_alarms
    assert floor.promises == ()


def test_promises_are_printed_and_written(evaluation: Evaluation) -> None:
    """A line a system that gives any, labelled by its rule; the JSON has every figure."""
    header, ours, papers = table(evaluation, "false alarms on normal clips")
    assert header[3:9] == ["system", "rule", "clips", "10 asked: by folds", "test clips", "hits"]
    assert ours[3:6] == ["earwitness conditions", "conditions", "60"]
    assert papers[3:7] == ["earwitness paper", "paper", "60", "-"]
    written = evaluation.to_json()["promises"]
    assert [one["label"] for one in written] == ["earwitness conditions"] * 2 + ["earwitness paper"] * 2
    assert written[0]["cross_validated"] == evaluation.first.promises[0].cross_validated
