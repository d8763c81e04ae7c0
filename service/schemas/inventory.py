"""What can be scored, and by what."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from models.decision import Calibration
from models.vocabulary import Domain, ThresholdRule
from service.registered import TargetState
from service.schemas.common import DeviceAnswer, Schema


class DomainAnswer(Schema):
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


class SectionAnswer(Schema):
    """One section that can be scored."""

    machine_type: str
    section: str
    attributes: list[str]
    domains: dict[Domain, DomainAnswer]
    target_version: int | None
    target_state: TargetState | None


class SectionsAnswer(Schema):
    """Every machine type and section of the loaded bundle."""

    sections: list[SectionAnswer]
    bundle: str
    request_id: str


class BundleAnswer(Schema):
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
