"""What `POST /score` is told and answers."""

import dataclasses
from typing import Annotated, Self

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from models.assessment import Assessment
from models.explanation import ChangeKind, Explanation
from models.vocabulary import Decision, Domain, ThresholdRule
from service.registered import TargetState
from service.schemas.common import Schema, WarningAnswer

_SCORE_EXAMPLE: JsonDict = {
    "machine_type": "fan",
    "section": "00",
    "domain": "source",
    "decision": "anomalous",
    "anomaly_score": -9412.6,
    "decision_score": -9412.6,
    "threshold": -11530.2,
    "threshold_rule": "held_out",
    "p_value": 0.014,
    "calibration_clips": 70,
    "deviation": 4.2,
    "systems": {
        "adacos_resnet": {
            "score": -9412.6,
            "p_value": 0.014,
            "terms": {"section": -4650.1, "attribute": -4762.5, "target": None, "temporal_maximum": None},
        }
    },
    "explanation": None,
    "window_scores": None,
    "clip": {
        "duration_s": 10.0,
        "sample_rate_hz": 16000,
        "channels": 1,
        "level_dbfs": -31.2,
        "sha256": "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
        "windows": 1,
    },
    "warnings": [],
    "bundle": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "target_version": None,
    "target_state": None,
    "request_id": "3f9b1c52d7f94e0a8f0f4b7b1f6d2a11",
}


class ScoreParameters(Schema):
    """What `POST /score` is told beside the clip; names are checked where they are looked up."""

    machine_type: str
    section: str
    domain: Domain
    explain: bool = False
    """Asks for an explanation of a normal clip too."""


class SystemAnswer(Schema):
    """One system's part of a score."""

    score: float
    p_value: float | None
    terms: dict[str, float | None]


class WindowAnswer(Schema):
    """The score of one ten-second window."""

    start_s: float
    decision_score: float


class ClipAnswer(Schema):
    """The facts of the clip as it was received."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    level_dbfs: float
    sha256: str
    windows: int


class BandAnswer(Schema):
    """Frequencies that deviate."""

    low_hz: float
    high_hz: float
    deviation: float
    """Standard deviations of normal clips; below 0 is less than normal."""


class MomentAnswer(Schema):
    """A part of the clip that deviates."""

    start_s: float
    end_s: float
    deviation: float


class ChangeAnswer(Schema):
    """In what way the sound changed."""

    kind: ChangeKind
    """How loud a band is, how much its level changes from frame to frame, or how much it pulsates at a rate."""
    rate_hz: float | None
    """Of a modulation."""
    deviation: float


class ExplanationAnswer(Schema):
    """What deviates most from the section's normal clips, the strongest first."""

    bands: list[BandAnswer]
    times: list[MomentAnswer]
    changes: list[ChangeAnswer]
    nearest_attribute: str | None
    """The operating condition that the clip is most like."""

    @classmethod
    def of(cls, explanation: Explanation) -> Self:
        """The answer that an explanation makes."""
        return cls.model_validate(dataclasses.asdict(explanation))


class ScoreAnswer(Schema):
    """How anomalous a clip is, and whether that is normal for its section."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SCORE_EXAMPLE]})

    machine_type: str
    section: str
    domain: Domain
    decision: Decision | None
    """Null, with the warning `no_threshold`, where no clip stands behind a threshold."""
    anomaly_score: float
    """For ranking; in nats, higher is more anomalous, comparable within one bundle, section and domain only."""
    decision_score: float
    """What is compared with the threshold."""
    threshold: float | None
    threshold_rule: ThresholdRule
    p_value: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """How rarely a normal clip scores this high."""
    calibration_clips: int
    """How many clips stand behind the p-value and the threshold."""
    deviation: float | None
    """Robust standard deviations above the calibration median."""
    systems: dict[str, SystemAnswer]
    explanation: ExplanationAnswer | None
    """Of an anomalous clip, or asked for with `explain`."""
    window_scores: list[WindowAnswer] | None
    """For a clip of several ten-second windows."""
    clip: ClipAnswer
    warnings: list[WarningAnswer]
    bundle: str
    target_version: int | None
    """0: the target clips the bundle was trained with; 1 and up: registrations; null in the source domain."""
    target_state: TargetState | None
    """Stale: the database of target clips does not answer, and this is the last known version."""
    request_id: str

    @classmethod
    def of(
        cls,
        assessment: Assessment,
        *,
        bundle: str,
        target_version: int | None,
        target_state: TargetState | None,
        request_id: str,
    ) -> Self:
        """The answer that an assessment makes."""
        return cls(
            machine_type=assessment.machine_type,
            section=assessment.section,
            domain=assessment.domain,
            decision=assessment.decision,
            anomaly_score=assessment.anomaly_score,
            decision_score=assessment.decision_score,
            threshold=assessment.threshold,
            threshold_rule=assessment.threshold_rule,
            p_value=assessment.p_value,
            calibration_clips=assessment.calibration_clips,
            deviation=assessment.deviation,
            systems={
                name: SystemAnswer(score=one.score, p_value=one.p_value, terms=dict(one.terms))
                for name, one in assessment.systems.items()
            },
            explanation=None if assessment.explanation is None else ExplanationAnswer.of(assessment.explanation),
            window_scores=None
            if assessment.window_scores is None
            else [
                WindowAnswer(start_s=one.start_s, decision_score=one.decision_score) for one in assessment.window_scores
            ],
            clip=ClipAnswer(**dataclasses.asdict(assessment.clip)),
            warnings=[WarningAnswer(code=one.code, detail=one.detail) for one in assessment.warnings],
            bundle=bundle,
            target_version=target_version,
            target_state=target_state,
            request_id=request_id,
        )
