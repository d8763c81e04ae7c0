"""What the routes that exchange the bundle are told and answer."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import ConfigDict, Field

from models.vocabulary import NAME_PATTERN
from service.schemas.common import DeviceAnswer, Schema
from service.serving import Exchange


class ReloadParameters(Schema):
    """What `POST /bundle/reload` is told."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"bundle": "second"}]})

    bundle: Annotated[str, Field(json_schema_extra={"pattern": NAME_PATTERN})]
    """The name of a folder in EARWITNESS_BUNDLES_DIR."""


class DormantAnswer(Schema):
    """A registration that the bundle in service cannot use; it is kept for one that can."""

    machine_type: str
    section: str
    version: int | None


class ReloadAnswer(Schema):
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
