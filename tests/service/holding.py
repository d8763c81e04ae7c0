"""A method that is kept from going on, so that what happens meanwhile can be tested."""

import asyncio
import threading
from typing import Any

import pytest

from tests.service.servers import PATIENCE_S


class Held:
    """Each call of a method of ``owner`` waits until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        method = getattr(owner, name)

        def held(*arguments: Any, **options: Any) -> Any:
            self.begun.set()
            assert self.may_end.wait(PATIENCE_S)
            return method(*arguments, **options)

        monkeypatch.setattr(owner, name, held)

    async def called(self) -> None:
        """Wait until a call waits."""
        assert await asyncio.to_thread(self.begun.wait, PATIENCE_S)
