"""What the probes are answered."""

from typing import Literal

from service.schemas.common import DeviceAnswer, Schema


class AliveAnswer(Schema):
    """The process answers."""

    status: Literal["alive"] = "alive"
    request_id: str


class ReadyAnswer(Schema):
    """Clips can be scored."""

    status: Literal["ready"] = "ready"
    bundle: str
    device: DeviceAnswer
    request_id: str
