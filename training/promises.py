"""False alarms promised and kept: what was asked for, what other training clips would do, what the test clips did.

A threshold holds a tenth of the calibration scores that it was taken from by its definition, which proves nothing. So
each fold's clips are held against the threshold that the other folds' scores give: of the rules that hold clips out,
the training clips alone say so whether the promise is kept. Test clips are held against the threshold in force.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from models.decision import Calibration
from models.vocabulary import Condition, Domain, ThresholdRule
from training.intervals import rate_interval
from training.metrics import Interval
from training.recordings import Place
from training.scored import Scored

RATES = (0.1, 0.05)
"""The false-alarm rates that are asked for."""


@runtime_checkable
class Promising(Protocol):
    """A contender whose thresholds can be set to any rate: ``calibrations`` by place, ``rule`` as its recipe says."""

    rule: str | None

    @property
    def calibrations(self) -> Mapping[Place, Calibration]:
        """What its thresholds are taken from."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One place's thresholds at one rate.

    ``clips``: how many calibration scores there are. ``cross_validated``: the share of them above the threshold of the
    other folds; None where nothing was held out. ``false_alarms``, ``hits``: of the test clips, None without such clips
    or without a threshold.
    """

    machine_type: str
    section: str
    domain: Domain
    rule: ThresholdRule
    clips: int
    asked: float
    cross_validated: float | None
    false_alarms: float | None
    false_alarm_interval: Interval | None
    hits: float | None
    hit_interval: Interval | None

    @property
    def place(self) -> Place:
        """Where it was given."""
        return self.machine_type, self.section, self.domain


def promises(calibrations: Mapping[Place, Calibration], scored: Mapping[Place, Sequence[Scored]]) -> Iterator[Promise]:
    """The promises of a system at each of `RATES`, for the places that it has scored clips of."""
    for place, clips in sorted(scored.items()):
        if place not in calibrations or not clips:
            continue
        for asked in RATES:
            calibration = calibrations[place].at(asked)
            alarms = calibration.cross_validated_alarms()
            false_alarms, false_alarm_interval = _share(clips, Condition.NORMAL, calibration.threshold)
            hits, hit_interval = _share(clips, Condition.ANOMALY, calibration.threshold)
            yield Promise(
                *place,
                rule=calibration.rule,
                clips=len(calibration.scores),
                asked=asked,
                cross_validated=None if alarms is None else float(alarms.mean()),
                false_alarms=false_alarms,
                false_alarm_interval=false_alarm_interval,
                hits=hits,
                hit_interval=hit_interval,
            )


def _share(
    clips: Sequence[Scored], condition: Condition, threshold: float | None
) -> tuple[float | None, Interval | None]:
    """The share of clips of one condition above a threshold, with its interval."""
    own = [clip for clip in clips if clip.recording.condition is condition]
    if threshold is None or not own:
        return None, None
    called = [clip.decision_score > threshold for clip in own]
    return sum(called) / len(called), rate_interval(called, [clip.recording.recording for clip in own])
