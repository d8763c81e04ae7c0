"""What surrounds a request: clients that leave, deadlines, and errors that nobody foresaw."""

import asyncio
import json

import pytest
from fastapi import Request
from starlette.types import Message, Receive, Scope, Send

from service.errors import ClientGone, DeadlinePassed
from service.middleware import RequestContext
from service.requests import until, while_connected
from service.telemetry import Metrics


class Work:
    """Something slow that notices when it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = False

    async def __call__(self) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


def request(leaves_after_s: float) -> Request:
    """A request whose body was read and whose client leaves."""

    async def receive() -> Message:
        await asyncio.sleep(leaves_after_s)
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "path": "/score", "headers": []}, receive)


def test_work_for_a_client_that_left_is_cancelled() -> None:
    """So that its clip leaves the queue."""
    work = Work()

    async def scenario() -> None:
        with pytest.raises(ClientGone):
            await while_connected(request(0.01), work())

    asyncio.run(scenario())
    assert work.cancelled


def test_work_for_a_client_that_waits_gives_its_result() -> None:
    """And its errors."""

    async def fails() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        assert await while_connected(request(30), asyncio.sleep(0.01, "done")) == "done"
        with pytest.raises(ZeroDivisionError):
            await while_connected(request(30), fails())

    asyncio.run(scenario())


def test_work_past_its_deadline_is_cancelled() -> None:
    """With the error that becomes 504; a timeout of its own is not mistaken for it."""
    work = Work()

    async def scenario() -> None:
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlinePassed):
            async with until(now + 0.01):
                await while_connected(request(30), work())
        with pytest.raises(TimeoutError):
            async with until(now + 30):
                raise TimeoutError

    asyncio.run(scenario())
    assert work.cancelled


def test_an_unforeseen_error_is_a_problem_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """500 with the request id; what happened stands in the log alone."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the password is swordfish")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/a\nb", "headers": [(b"x-request-id", b"abc")]}
    metrics = Metrics()
    asyncio.run(RequestContext(broken, metrics)(scope, receive, send))
    assert sent[0]["status"] == 500
    problem = json.loads(sent[1]["body"])
    assert problem["type"] == "urn:earwitness:problem:internal-error"
    assert problem["request_id"] == "abc"
    assert problem["instance"] == "/a%0Ab"
    assert "swordfish" not in str(sent)
    assert "swordfish" in caplog.text
    assert b'earwitness_requests_total{outcome="failed",route="unknown"} 1.0' in metrics.exposition()
