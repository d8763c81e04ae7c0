"""What is said of a clip: the answer's fields, and the warnings that go with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from models.audio import CLIP_S, CLIP_SAMPLES, SAMPLE_RATE_HZ, Clip
from models.decision import Calibration, smallest_false_alarm_rate
from models.explanation import Explanation
from models.vocabulary import Decision, Domain, ThresholdRule, WarningCode

FEW_CLIPS: Final = 30
"""Under so many calibration clips an answer carries a warning."""
TARGET_ADVICE: Final = (
    "where 10 % false alarms were asked, three target clips gave 3 to 67 % on two measured machines and nineteen 3 to "
    "23 %, so register about 20"
)
"""What few target clips can do with fused systems, as `tests.studies.target_clips` measured it."""
LEVEL_MARGIN_DB: Final = 6.0
"""A clip so far under the lowest level of the training clips is probably recorded otherwise than they were."""
CLIPPED_SHARE: Final = 0.001
"""A larger share of raw samples at full scale is heard as broad-band noise, which no training clip has."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning: a documented code, and a sentence with the values and what to do."""

    code: WarningCode
    detail: str


@dataclass(frozen=True, slots=True)
class WindowScore:
    """The decision score of one ten-second window of a longer clip, nats."""

    start_s: float
    decision_score: float


@dataclass(frozen=True, slots=True)
class SystemAssessment:
    """What one system says: its anomaly score, and the terms it is the sum of (None: a term that does not apply)."""

    score: float
    p_value: float | None
    terms: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """The clip as it was received; ``windows`` is how many ten-second windows were scored."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    level_dbfs: float
    sha256: str
    windows: int


@dataclass(frozen=True, slots=True)
class Assessment:
    """How anomalous a clip is, and whether that is normal for its section and domain.

    ``anomaly_score`` (Z, for ranking) and ``decision_score`` (which the threshold is for) are nats, higher is more
    anomalous, comparable only within one bundle, section and domain. ``p_value``: how rarely a normal clip scores this
    high. ``deviation``: how many robust standard deviations above the calibration's median. ``decision``,
    ``threshold``, ``p_value`` and ``deviation`` are None where no clip stands behind them. ``window_scores``: None for
    a single window. ``explanation``: None where none was asked for.
    """

    machine_type: str
    section: str
    domain: Domain
    decision: Decision | None
    anomaly_score: float
    decision_score: float
    threshold: float | None
    threshold_rule: ThresholdRule
    p_value: float | None
    calibration_clips: int
    deviation: float | None
    systems: Mapping[str, SystemAssessment]
    window_scores: tuple[WindowScore, ...] | None
    clip: ClipFacts
    warnings: tuple[Notice, ...]
    explanation: Explanation | None = None


def notices(
    clip: Clip,
    calibration: Calibration,
    lowest_level_dbfs: float | None,
    *,
    target_clips: int | None = None,
    false_alarm_rate: float | None = None,
    demonstration: bool,
) -> tuple[Notice, ...]:
    """The warnings that go with an answer.

    ``lowest_level_dbfs``: the lowest of the clips it is compared with. ``target_clips``: how many clips of the target
    domain stand behind it, None for the source domain. ``false_alarm_rate``: the one asked for.
    """
    found: list[Notice] = []
    n_clips = len(calibration.scores)
    behind = n_clips if target_clips is None else min(n_clips, target_clips)
    smallest = smallest_false_alarm_rate(n_clips)
    if calibration.threshold is None:
        found.append(
            Notice(
                WarningCode.NO_THRESHOLD,
                f"{n_clips} calibration clips stand behind this section and domain, too few for a threshold: the score "
                "ranks clips but decides nothing. Train with more recordings, or register target clips.",
            )
        )
    elif behind < FEW_CLIPS:
        of_target = "" if target_clips is None else " of the target domain"
        measured = target_clips is not None and calibration.rule is not ThresholdRule.PAPER
        advice = TARGET_ADVICE if measured else f"{FEW_CLIPS} or more make it reliable"
        found.append(
            Notice(
                WarningCode.FEW_CALIBRATION_CLIPS,
                f"{behind} clips{of_target} stand behind the threshold; {advice}. No "
                f"p-value under {smallest:.3f} can be given.",
            )
        )
    if calibration.threshold is not None and false_alarm_rate is not None and false_alarm_rate < smallest:
        found.append(
            Notice(
                WarningCode.RATE_NOT_SUPPORTED,
                f"A false-alarm rate of {false_alarm_rate:g} was asked for; {n_clips} calibration clips can promise "
                f"{smallest:.3f} at the least: that share of normal clips may alarm. Fewer need more recordings.",
            )
        )
    found += clip_notices(clip, lowest_level_dbfs)
    if demonstration:
        found.append(
            Notice(
                WarningCode.DEMONSTRATION_BUNDLE,
                "The demonstration bundle knows generated sounds only. Train a bundle on your own recordings.",
            )
        )
    return tuple(found)


def clip_notices(clip: Clip, lowest_level_dbfs: float | None) -> tuple[Notice, ...]:
    """The warnings that a clip's own sound gives; ``lowest_level_dbfs`` as for `notices`."""
    found: list[Notice] = []
    if lowest_level_dbfs is not None and clip.level_dbfs < lowest_level_dbfs - LEVEL_MARGIN_DB:
        found.append(
            Notice(
                WarningCode.LEVEL_BELOW_NORMAL,
                f"The clip's level is {clip.level_dbfs:.1f} dBFS, the quietest normal clip's {lowest_level_dbfs:.1f}. "
                "Check the microphone, its gain, and that the machine runs.",
            )
        )
    if clip.clipped_share > CLIPPED_SHARE:
        found.append(
            Notice(
                WarningCode.CLIPPED,
                f"{clip.clipped_share:.2%} of the samples are at full scale. Lower the microphone's gain.",
            )
        )
    if clip.sample_rate_hz < SAMPLE_RATE_HZ:
        found.append(
            Notice(
                WarningCode.RATE_BELOW_16_KHZ,
                f"The clip was recorded at {clip.sample_rate_hz} Hz: sound above {clip.sample_rate_hz // 2} Hz is "
                f"missing. Record at {SAMPLE_RATE_HZ} Hz or more.",
            )
        )
    if round(clip.duration_s * SAMPLE_RATE_HZ) < CLIP_SAMPLES:  # the waveform may be repeated already
        found.append(
            Notice(
                WarningCode.REPEATED_TO_10_S,
                f"The clip lasts {clip.duration_s:.3f} s and was repeated to {CLIP_S:g} s. Record {CLIP_S:g} s.",
            )
        )
    return tuple(found)
