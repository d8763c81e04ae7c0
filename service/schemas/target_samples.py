"""What the routes of target clips are told and answer."""

from collections.abc import Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from models.appraisal import Appraisal
from models.vocabulary import Domain, ThresholdRule
from service.adaptation import Target
from service.registered import TargetState
from service.schemas.common import Schema, WarningAnswer
from service.targets import Registration, Sample, Standing


class PreviewParameters(Schema):
    """The query of `POST /target-samples`."""

    preview: bool = False


class RestoreBody(Schema):
    """What `POST /target-samples/{machine_type}/{section}/restore` is told."""

    version: Annotated[int, Field(ge=1)]


class RegistrationParameters(Schema):
    """What `POST /target-samples` is told beside the clips."""

    machine_type: str
    section: str


class QualityAnswer(Schema):
    """How good a registered clip is."""

    level_dbfs: float
    clipped_share: float
    """The share of samples at full scale."""
    silent_share: float | None
    """The share of tenths of a second without sound; this and what follows is null where the clips do not score, as
    those of past versions."""
    similarity: float | None
    """From 0 to 1, which is as near to another of the clips as they are to one another, or as source clips are."""
    source_distance: float | None
    """How far above the section's source clips it scores among them, in their robust standard deviations."""


class SampleAnswer(Schema):
    """One registered clip."""

    sha256: str
    duration_s: float
    quality: QualityAnswer
    warnings: list[WarningAnswer]
    """Empty, too, where the clips do not score."""

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


class TargetSamples(Schema):
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


class TargetVersion(Schema):
    """One registration of a section, in force or not."""

    version: int
    state: Standing
    registered_at: datetime
    restored_from: int | None
    samples: list[SampleAnswer]

    @classmethod
    def of(cls, registration: Registration, appraisals: Sequence[Appraisal]) -> Self:
        """The entry that a registration makes, its clips appraised or not."""
        return cls(
            version=registration.version,
            state=registration.standing,
            registered_at=registration.registered_at,
            restored_from=registration.restored_from,
            samples=[SampleAnswer.of(*one) for one in zip_longest(registration.samples, appraisals)],
        )


class TargetVersionsAnswer(Schema):
    """Every registration of a section that is kept, the newest first."""

    machine_type: str
    section: str
    domain: Domain
    versions: list[TargetVersion]
    bundle: str
    request_id: str


class TargetSamplesListing(Schema):
    """Every registration in force, dormant ones too."""

    target_samples: list[TargetSamples]
    bundle: str
    request_id: str
