"""Bodies that several routes answer with."""

from typing import Self

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

from models.encoder import DeviceInfo
from models.vocabulary import WarningCode

_PROBLEM_EXAMPLE: JsonDict = {
    "type": "urn:earwitness:problem:unknown-section",
    "title": "Unknown section",
    "status": 404,
    "detail": "Machine type 'fan' has no section '07' in the loaded bundle. Its sections: '00', '01'.",
    "instance": "/score",
    "request_id": "3f9b1c52d7f94e0a8f0f4b7b1f6d2a11",
    "known": ["00", "01"],
}


class Schema(BaseModel):
    """The names of the contract and no others; never changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class WarningAnswer(Schema):
    """Something to know about a score."""

    code: WarningCode
    detail: str


class DeviceAnswer(Schema):
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
