"""uvicorn's HTTP protocol, with bounds on what a connection may take, and our problem for what is no HTTP.

uvicorn closes a connection that is idle after an answer, and no other: one that never says a word, one that sends its
head a byte a minute or goes on with a body that nobody reads, and one that never reads its answers would stay for ever.
Here time runs whenever no request is being answered on a connection; while one is, its own deadline bounds it.
"""

import asyncio
import logging
import math
import time
import uuid
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import MalformedRequest, RequestTooSlow, ServiceError, TooManyConnections
from service.middleware import MALFORMED, SECURITY_HEADERS, UNKNOWN_ROUTE, record
from service.problems import problem
from service.settings import Settings
from service.telemetry import Metrics
from service.tracing import WATCHING

MOST_HEAD_BYTES = 64 * 1024
"""The parser keeps a request line, headers and trailers of any length; a client that never ends them would fill the
memory."""
SURPLUS = 32
"""How many connections beyond `Settings.max_connections` are heard out: whoever watches the service is among them."""
SURPLUS_HEAD_S = 1.0
"""How long one of those may take to say what it wants: the next one waits for its place."""
_TOLD_S = 60.0
"""How often it is logged that connections are closed unheard."""
_log = logging.getLogger("service")


class Protocol(HttpToolsProtocol):
    """One connection."""

    _told_at: ClassVar[float] = -math.inf
    """When it was last logged, of any connection, that one was closed unheard."""
    _begun: float | None = None
    """When the first byte of the message came that is being read."""
    _head_bytes = 0
    _in_head = False
    """Whether what comes is kept by the parser: a head or trailers, or may be trailers."""
    _in_body = False
    """Whether the application has the head of the message that is being read."""
    _refused = False
    _surplus = False
    """Whether there were as many connections as may be when it was opened."""
    _heard_out: asyncio.TimerHandle | None = None
    """Runs while no request is being answered."""
    _read_out: asyncio.TimerHandle | None = None
    """Runs while the client does not read its answers."""
    url = b""

    @property
    def _settings(self) -> Settings:
        settings: Settings = self.config.app.state.resources.settings  # type: ignore[union-attr]  # it serves ours
        return settings

    @property
    def _metrics(self) -> Metrics:
        metrics: Metrics = self.config.app.state.resources.metrics  # type: ignore[union-attr]
        return metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """A connection opens, and has its time to say what it wants."""
        super().connection_made(transport)
        beyond = len(self.connections) - self._settings.max_connections
        self._surplus = beyond > 0
        if beyond > SURPLUS:
            self._refused = True
            transport.abort()
            self._tell_unheard()
        self._keep_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        super().connection_lost(exc)
        for timer in (self._heard_out, self._read_out):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on, and count what has come of an unfinished head since the read in which it began."""
        if self._refused:
            return
        if self._begun is None:
            self._begun = time.perf_counter()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MOST_HEAD_BYTES:
            self.send_400_response(f"The head or the trailers have more than {MOST_HEAD_BYTES} bytes. Send fewer.")
        self._keep_time()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._refused:
            return
        surplus = self._is_surplus
        if surplus and self._path not in WATCHING:
            self._refuse(
                TooManyConnections(
                    f"{self._settings.max_connections} connections are open, the most this service holds. Close those "
                    "that are not used, and send the request again in a moment."
                )
            )
            return
        super().on_headers_complete()
        self._in_head, self._in_body = False, True
        self.cycle.keep_alive = self.cycle.keep_alive and not surplus

    def on_chunk_header(self) -> None:
        """A chunk begins, or with the last one, which is empty, the trailers."""
        self._in_head, self._head_bytes = True, 0

    def on_body(self, body: bytes) -> None:
        """No trailers, then."""
        self._in_head = False
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        self._in_head, self._in_body, self._begun, self.url = False, False, None, b""
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out, or in the buffer."""
        super().on_response_complete()
        self._await_reader()

    def timeout_keep_alive_handler(self) -> None:
        """No further request has come."""
        super().timeout_keep_alive_handler()
        self._await_reader()

    def pause_writing(self) -> None:
        """The client reads more slowly than it asks."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has read again."""
        super().resume_writing()
        if self._read_out is not None:
            self._read_out.cancel()
            self._read_out = None
        self._await_reader()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses, and close the connection."""
        if self._refused or self.transport.is_closing():
            return
        error = MalformedRequest(f"{msg} See RFC 9112, and /docs for what is expected.")
        if not self._in_body:
            self._refuse(error)
            return
        self._refused = True
        if self.cycle.response_complete:
            self.transport.close()
        else:  # the application answers, with the request's own id and route
            self.scope["state"][MALFORMED] = error
            self.cycle.keep_alive = False
            self.cycle.message_event.set()

    @property
    def _is_surplus(self) -> bool:
        """Whether there are still more connections than may be, and this is one of those that came too late."""
        return self._surplus and len(self.connections) > self._settings.max_connections

    @property
    def _head_s(self) -> float:
        """How long a head may take."""
        allowed = self._settings.head_timeout_s
        return min(SURPLUS_HEAD_S, allowed) if self._is_surplus else allowed

    @property
    def _path(self) -> str:
        return self.url.decode("latin-1").partition("?")[0]

    def _keep_time(self) -> None:
        """Let time run out for a connection on which no request is being answered, however much it sends."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._heard_out is not None:
            self._heard_out.cancel()
            self._heard_out = None
        elif not answering and self._heard_out is None:
            allowed_s = self._head_s
            self._heard_out = self.loop.call_later(allowed_s, self._too_slow, allowed_s)

    def _too_slow(self, allowed_s: float) -> None:
        if self._begun is None or self._in_body or self._refused:  # there is nothing to answer
            self.transport.close()
            self._await_reader()
        else:
            self._refuse(
                RequestTooSlow(f"The head of the request was not whole after {allowed_s:g} s. Send it at once.")
            )

    def _tell_unheard(self) -> None:
        now = time.monotonic()
        if now - Protocol._told_at >= _TOLD_S:
            Protocol._told_at = now
            _log.warning(
                "%d connections are open, and %d more wait to be heard: others are closed unheard, health probes among "
                "them. Find who opens so many, or raise EARWITNESS_MAX_CONNECTIONS",
                self._settings.max_connections,
                SURPLUS,
            )

    def _await_reader(self) -> None:
        """Give a client time to read what it was answered; a connection is not closed before, whoever closes it."""
        unread = self.flow.write_paused or self.transport.is_closing()
        if unread and self._read_out is None:
            self._read_out = self.loop.call_later(self._settings.head_timeout_s, self.transport.abort)

    def _refuse(self, error: ServiceError) -> None:
        """Answer a head that never reaches the application, counted and logged as the others are, and hang up.

        Behind a request that is being answered it gets no answer: that request's own is the last of the connection.
        """
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        request_id = uuid.uuid4().hex
        path = self._path
        answer = problem({"state": {"request_id": request_id}, "path": path}, error)
        lines = [*answer.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        lines += [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
        self._await_reader()
        record(
            self._metrics,
            route=UNKNOWN_ROUTE,
            method="-",
            path=path,
            status=answer.status_code,
            seconds=time.perf_counter() - (self._begun or time.perf_counter()),
            request_id=request_id,
        )
