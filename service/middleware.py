"""Around every request: its id, its clock, its line in the log, its metrics, and a problem where something breaks."""

import asyncio
import logging
import re
import time
import uuid
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.audit import Act, attempt, tell_request
from service.errors import Draining
from service.telemetry import Metrics
from service.tracing import WATCHING

REQUEST_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
UNKNOWN_ROUTE = "unknown"
"""The `route` of paths that nothing serves: paths that clients invent must not become labels."""

MALFORMED = "malformed"
"""The key in ``scope["state"]`` under which the HTTP protocol leaves the error of a body that is none."""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer that has none of its own: nothing in it is to be kept, framed, run or guessed at."""

_log = logging.getLogger("service.requests")


class RequestContext:
    """ASGI middleware; ``scope["state"]`` then holds ``request_id`` and ``arrived`` (of the event loop's clock)."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if re.fullmatch(REQUEST_ID_PATTERN, given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"], state["arrived"] = request_id, asyncio.get_running_loop().time()
        with structlog.contextvars.bound_contextvars(request_id=request_id), attempt() as act:
            await self._serve(scope, receive, send, request_id, act)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str, act: Act) -> None:
        state = scope["state"]
        begun, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        async def body() -> Message:
            message = await receive()
            if MALFORMED in state:
                raise state[MALFORMED]
            return message

        try:
            await self._app(scope, body, answer)
        except asyncio.CancelledError:  # by a server that stops, and has waited as long as it may
            if status:
                raise
            await problems.problem(scope, Draining())(scope, receive, answer)
        except Exception as error:
            if status:  # half an answer is out: only closing the connection can tell the client
                raise
            await problems.problem(scope, error)(scope, receive, answer)
        finally:
            route, status = getattr(scope.get("route"), "path", UNKNOWN_ROUTE), status or problems.CLIENT_GONE
            tell_request(act, scope, route, status)
            record(
                self._metrics,
                route=route,
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=time.perf_counter() - begun,
                request_id=request_id,
            )


def record(
    metrics: Metrics, *, route: str, method: str, path: str, status: int, seconds: float, request_id: str
) -> None:
    """Count one request and write its line in the log."""
    metrics.observe_request(route, status, seconds)
    # who watches asks every few seconds: their successes would bury the rest of the log
    level = logging.DEBUG if route in WATCHING and status < 400 else logging.INFO
    # quoted: a line break in a path must not write a line of the log
    facts = {"method": method, "path": quote(path), "route": route, "status": status, "request_id": request_id}
    _log.log(
        level,
        "%s %s %s %.1f ms",
        *(method, quote(path), status, 1000.0 * seconds),
        extra={**facts, "seconds": round(seconds, 6)},
    )
