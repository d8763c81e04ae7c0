"""The bodies of answers and the parameters of requests: the names of the HTTP contract and no others."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from itertools import zip_longest
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from models.appraisal import Appraisal
from models.assessment import Assessment
from models.decision import Calibration
from models.encoder import DeviceInfo
from models.explanation import ChangeKind, Explanation
from models.vocabulary import Decision, Domain, ThresholdRule, WarningCode
from service.adaptation import Target
from service.registered import TargetState
from service.serving import Exchange
from service.targets import Registration, Sample, Standing

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
_PROBLEM_EXAMPLE: JsonDict = {
    "type": "urn:earwitness:problem:unknown-section",
    "title": "Unknown section",
    "status": 404,
    "detail": "Machine type 'fan' has no section '07' in the loaded bundle. Its sections: '00', '01'.",
    "instance": "/score",
    "request_id": "3f9b1c52d7f94e0a8f0f4b7b1f6d2a11",
    "known": ["00", "01"],
}


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ScoreParameters(_Schema):
    """What `POST /score` is told beside the clip; names are checked where they are looked up."""

    machine_type: str
    section: str
    domain: Domain
    explain: bool = False
    """Asks for an explanation of a normal clip too."""


class PreviewParameters(_Schema):
    """The query of `POST /target-samples`."""

    preview: bool = False


class RestoreBody(_Schema):
    """What `POST /target-samples/{machine_type}/{section}/restore` is told."""

    version: Annotated[int, Field(ge=1)]


class RegistrationParameters(_Schema):
    """What `POST /target-samples` is told beside the clips."""

    machine_type: str
    section: str


class SystemAnswer(_Schema):
    """One system's part of a score."""

    score: float
    p_value: float | None
    terms: dict[str, float | None]


class WindowAnswer(_Schema):
    """The score of one ten-second window."""

    start_s: float
    decision_score: float


class ClipAnswer(_Schema):
    """The facts of the clip as it was received."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    level_dbfs: float
    sha256: str
    windows: int


class WarningAnswer(_Schema):
    """Something to know about a score."""

    code: WarningCode
    detail: str


class BandAnswer(_Schema):
    """Frequencies that deviate."""

    low_hz: float
    high_hz: float
    deviation: float
    """Standard deviations of normal clips; below 0 is less than normal."""


class MomentAnswer(_Schema):
    """A part of the clip that deviates."""

    start_s: float
    end_s: float
    deviation: float


class ChangeAnswer(_Schema):
    """In what way the sound changed."""

    kind: ChangeKind
    """How loud a band is, how much its level changes from frame to frame, or how much it pulsates at a rate."""
    rate_hz: float | None
    """Of a modulation."""
    deviation: float


class ExplanationAnswer(_Schema):
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


class ScoreAnswer(_Schema):
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


class QualityAnswer(_Schema):
    """How good a registered clip is."""

    level_dbfs: float
    clipped_share: float
    """The share of samples at full scale."""
    silent_share: float | None
    """The share of tenths of a second without sound; this and what follows is null where the clips do not score."""
    similarity: float | None
    """From 0 to 1, which is as near to another of the clips as they are to one another, or as source clips are."""
    source_distance: float | None
    """How far above the section's source clips it scores among them, in their robust standard deviations."""


class SampleAnswer(_Schema):
    """One registered clip."""

    sha256: str
    duration_s: float
    quality: QualityAnswer
    warnings: list[WarningAnswer]

    @classmethod
    def of(cls, sample: Sample, appraisal: Appraisal | None = None) -> Self:
        """The answer that a clip makes, appraised or not."""
        return cls(
            sha256=sample.sha256,
            duration_s=sample.duration_s,
            quality=QualityAnswer(
                level_dbfs=sample.level_dbfs,
                clipped_share=sample.clipped_share,
                silent_share=None if appraisal is None else appraisal.silent_share,
                similarity=None if appraisal is None else appraisal.similarity,
                source_distance=None if appraisal is None else appraisal.source_distance,
            ),
            warnings=[
                WarningAnswer(code=one.code, detail=one.detail)
                for one in (() if appraisal is None else appraisal.warnings)
            ],
        )


class TargetSamples(_Schema):
    """The target clips in force for a section."""

    machine_type: str
    section: str
    domain: Domain
    version: int | None
    """0: those the bundle was trained with; 1 and up: registrations; null: none, or a preview."""
    state: Literal["in_force", "dormant", "none", "superseded", "withdrawn", "preview"]
    """Dormant: the loaded bundle lacks the section or cannot use the clips; under one that can they score again.
    Superseded or withdrawn: a repeated registration that is not in force any more, by a later one or by DELETE."""
    threshold: float | None
    threshold_rule: ThresholdRule | None
    calibration_clips: int
    samples: list[SampleAnswer]
    """Empty for version 0: a bundle does not hold the clips it was trained with."""
    registered_at: datetime | None
    restored_from: int | None
    """The earlier version that these clips were taken over from."""
    target_state: TargetState | None

    @classmethod
    def facts(cls, target: Target) -> dict[str, Any]:
        """The fields that a target has in every answer."""
        registration = target.registration
        calibration = None if target.model is None else target.model.calibration
        return {
            "machine_type": target.key.machine_type,
            "section": target.key.section,
            "domain": Domain.TARGET,
            "version": target.version,
            "state": _state(target),
            "threshold": None if calibration is None else calibration.threshold,
            "threshold_rule": None if calibration is None else calibration.rule,
            "calibration_clips": 0 if calibration is None else len(calibration.scores),
            "samples": [
                SampleAnswer.of(sample, appraisal)
                for sample, appraisal in zip_longest(target.samples, target.appraisals)
            ],
            "registered_at": None if registration is None else registration.registered_at,
            "restored_from": None if registration is None else registration.restored_from,
            "target_state": target.state,
        }

    @classmethod
    def of(cls, target: Target) -> Self:
        """The listing's entry for a target."""
        return cls(**cls.facts(target))


def _state(target: Target) -> str:
    if target.registration is not None and target.registration.standing is not Standing.IN_FORCE:
        return target.registration.standing
    if target.model is not None:
        return "preview" if target.version is None else "in_force"
    return "none" if target.registration is None else "dormant"


class TargetSamplesAnswer(TargetSamples):
    """The target clips in force for the section that was asked about."""

    bundle: str
    request_id: str


class TargetVersion(_Schema):
    """One registration that a section has had."""

    version: int
    state: Standing
    registered_at: datetime
    restored_from: int | None
    samples: list[SampleAnswer]

    @classmethod
    def of(cls, registration: Registration) -> Self:
        """The entry that a registration makes."""
        return cls(
            version=registration.version,
            state=registration.standing,
            registered_at=registration.registered_at,
            restored_from=registration.restored_from,
            samples=[SampleAnswer.of(sample) for sample in registration.samples],
        )


class TargetVersionsAnswer(_Schema):
    """Every registration that a section has had, the newest first."""

    machine_type: str
    section: str
    domain: Domain
    versions: list[TargetVersion]
    bundle: str
    request_id: str


class TargetSamplesListing(_Schema):
    """Every registration in force, dormant ones too."""

    target_samples: list[TargetSamples]
    bundle: str
    request_id: str


class DomainAnswer(_Schema):
    """What scores of one domain are measured by."""

    threshold: float | None
    threshold_rule: ThresholdRule
    calibration_clips: int

    @classmethod
    def of(cls, calibration: Calibration) -> Self:
        """The answer that a calibration makes."""
        return cls(
            threshold=calibration.threshold,
            threshold_rule=calibration.rule,
            calibration_clips=len(calibration.scores),
        )


class SectionAnswer(_Schema):
    """One section that can be scored."""

    machine_type: str
    section: str
    attributes: list[str]
    domains: dict[Domain, DomainAnswer]
    target_version: int | None
    target_state: TargetState | None


class SectionsAnswer(_Schema):
    """Every machine type and section of the loaded bundle."""

    sections: list[SectionAnswer]
    bundle: str
    request_id: str


class DeviceAnswer(_Schema):
    """Where the networks really run."""

    requested: str
    running: str
    providers: list[str]
    fallback: bool
    """True where a GPU was hoped for and the CPU took over."""
    reason: str | None
    """Why it fell back."""

    @classmethod
    def of(cls, device: DeviceInfo) -> Self:
        """The answer that a device makes."""
        return cls(
            requested=str(device.requested),
            running=str(device.running),
            providers=list(device.providers),
            fallback=device.fallback,
            reason=device.reason,
        )


class BundleAnswer(_Schema):
    """What is loaded, where it runs, since when."""

    bundle: str
    name: str | None
    path: str
    format_version: int
    demonstration: bool
    systems: list[str]
    fusion: str | None
    members: int
    machine_types: list[str]
    device: DeviceAnswer
    threads: int
    loaded_at: datetime
    recipe: Mapping[str, Any]
    training_data: Mapping[str, Any]
    versions: Mapping[str, str]
    metrics: Mapping[str, Any] | None
    request_id: str


class ReloadParameters(_Schema):
    """What `POST /bundle/reload` is told."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"bundle": "second"}]})

    bundle: str
    """The name of a folder in EARWITNESS_BUNDLES_DIR."""


class DormantAnswer(_Schema):
    """A registration that the bundle in service cannot use; it is kept for one that can."""

    machine_type: str
    section: str
    version: int | None


class ReloadAnswer(_Schema):
    """What serves now, in place of what."""

    bundle: str
    name: str | None
    """Of the folder in EARWITNESS_BUNDLES_DIR; null for the bundle that the service was started with."""
    replaced: str
    """The id of the bundle that served before."""
    dormant: list[DormantAnswer]
    """Registrations whose section the new bundle lacks, or whose clips it cannot use."""
    device: DeviceAnswer
    loaded_at: datetime
    request_id: str

    @classmethod
    def of(cls, exchange: Exchange, request_id: str) -> Self:
        """The answer that an exchange makes."""
        return cls(
            bundle=exchange.loaded.bundle_id,
            name=exchange.name,
            replaced=exchange.replaced,
            dormant=[
                DormantAnswer(machine_type=one.key.machine_type, section=one.key.section, version=one.version)
                for one in exchange.dormant
            ],
            device=DeviceAnswer.of(exchange.loaded.detector.device),
            loaded_at=exchange.loaded.loaded_at,
            request_id=request_id,
        )


class AliveAnswer(_Schema):
    """The process answers."""

    status: Literal["alive"] = "alive"
    request_id: str


class ReadyAnswer(_Schema):
    """Clips can be scored."""

    status: Literal["ready"] = "ready"
    bundle: str
    device: DeviceAnswer
    request_id: str


class Problem(BaseModel):
    """An error, as RFC 9457 defines it; some kinds add `known`, `position` or `fields`."""

    model_config = ConfigDict(
        extra="allow", use_attribute_docstrings=True, json_schema_extra={"examples": [_PROBLEM_EXAMPLE]}
    )

    type: str
    """Stable: `urn:earwitness:problem:` and the kind."""
    title: str
    status: int
    detail: str
    """The value that was wrong, and what to do."""
    instance: str
    request_id: str
