"""What surrounds a request: clients that leave, deadlines, and errors that nobody foresaw."""

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from fastapi import Request
from starlette.types import Message, Receive, Scope, Send

from service.admission import Admission
from service.errors import ClientGone, DeadlinePassed, MalformedRequest
from service.middleware import RequestContext
from service.requests import read_audio, read_form, read_json, while_connected
from service.schemas.target_samples import RestoreBody
from service.telemetry import Metrics

MIB = 1024 * 1024


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


@pytest.mark.parametrize(
    ("body", "repeated"),
    [
        (b'{"version": 2}', None),
        (b'{"version": 1, "version": 2}', "version"),
        (b'{"version": 2, "\\u0076ersion": 2}', "version"),
    ],
)
def test_a_json_body_says_each_name_once(body: bytes, repeated: str | None) -> None:
    """Of two, one would be ignored in silence: which, parsers do not agree on."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    one = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)
    with Admission(1, 1).place() as hold:
        if repeated is None:
            assert asyncio.run(read_json(one, RestoreBody, hold)).version == 2
        else:
            with pytest.raises(MalformedRequest, match=f"more than once: {repeated}"):
                asyncio.run(read_json(one, RestoreBody, hold))


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
    """With the error that becomes 504."""
    work = Work()

    async def scenario() -> None:
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlinePassed):
            async with Admission(1, 1).until(now + 0.01):
                await while_connected(request(30), work())

    asyncio.run(scenario())
    assert work.cancelled


@pytest.mark.parametrize("form", [True, False], ids=["multipart", "raw"])
def test_a_body_is_held_once(form: bool) -> None:
    """While it is read, and when it has been: 24 MiB take little more than 24 MiB."""
    kind = b"multipart/form-data; boundary=x" if form else b"audio/wav"
    head = b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n' if form else b""
    tail = b"\r\n--x--\r\n" if form else b""
    sent = 0

    async def receive() -> Message:
        nonlocal sent
        sent += 1
        body = head if sent == 1 else tail if sent == 386 else b"a" * (MIB // 16)
        return {"type": "http.request", "body": body, "more_body": sent < 386}

    contents: list[bytes] = []  # not a task's result, which asyncio.run would write out

    async def read() -> None:
        one = Request({"type": "http", "headers": [(b"content-type", kind)]}, receive)
        with Admission(1, 1).place() as hold:
            if form:
                contents.extend(content for _, content in (await read_form(one, 32 * MIB, hold)).files)
            else:
                contents.append(await read_audio(one, 32 * MIB, hold))

    tracemalloc.start()
    try:
        asyncio.run(read())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert contents == [b"a" * (24 * MIB)]
    assert peak < 30 * MIB


def answers_of(app: Callable[[Scope, Receive, Send], Awaitable[None]], scope: Scope) -> list[Message]:
    """What an app, in our middleware and cancelled once it sleeps, sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def scenario() -> None:
        serving = asyncio.create_task(RequestContext(app, Metrics())(scope, receive, send))
        await asyncio.sleep(0)
        serving.cancel()
        await serving

    asyncio.run(scenario())
    return sent


def test_a_request_that_a_stopping_server_cancels_is_answered() -> None:
    """503 draining, not the server's own 500; where half an answer is out, the connection must tell."""
    scope = {"type": "http", "method": "GET", "path": "/score", "headers": []}

    async def sleeps(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(30)

    start, body = answers_of(sleeps, dict(scope))
    assert start["status"] == 503
    assert json.loads(body["body"])["type"] == "urn:earwitness:problem:draining"
    assert {b"retry-after", b"x-request-id"} <= {name.lower() for name, _ in start["headers"]}

    async def begins(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(30)

    with pytest.raises(asyncio.CancelledError):
        answers_of(begins, dict(scope))


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
