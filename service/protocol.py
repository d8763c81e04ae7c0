"""uvicorn's HTTP protocol, with a bound on heads and trailers, and our problem for what is no HTTP."""

import time
import uuid

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import MalformedRequest
from service.middleware import MALFORMED, SECURITY_HEADERS, UNKNOWN_ROUTE, record
from service.problems import problem

MOST_HEAD_BYTES = 64 * 1024
"""The parser keeps a request line, headers and trailers of any length; a client that never ends them would fill the
memory."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _begun: float | None = None
    """When the first byte of the message came that is being read."""
    _head_bytes = 0
    _in_head = False
    """Whether what comes is kept by the parser: a head or trailers, or may be trailers."""
    _in_body = False
    """Whether the application has the head of the message that is being read."""
    _refused = False
    url = b""

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

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        super().on_headers_complete()
        self._in_head, self._in_body = False, True

    def on_chunk_header(self) -> None:
        """A chunk begins, or with the last one, which is empty, the trailers."""
        self._in_head, self._head_bytes = True, 0

    def on_body(self, body: bytes) -> None:
        """No trailers, then."""
        self._in_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        self._in_head, self._in_body, self._begun, self.url = False, False, None, b""
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses, and close the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        error = MalformedRequest(f"{msg} See RFC 9112, and /docs for what is expected.")
        if not self._in_body:
            self._answer(error)
        elif self.cycle.response_complete:
            self.transport.close()
        else:  # the application answers, with the request's own id and route
            self.scope["state"][MALFORMED] = error
            self.cycle.keep_alive = False
            self.cycle.message_event.set()

    def _answer(self, error: MalformedRequest) -> None:
        """The answer to a head that never reaches the application, counted and logged as the others are."""
        request_id = uuid.uuid4().hex
        path = self.url.decode("latin-1").partition("?")[0]
        answer = problem({"state": {"request_id": request_id}, "path": path}, error)
        lines = [*answer.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        lines += [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
        record(
            self.config.app.state.resources.metrics,  # type: ignore[union-attr]  # it serves ours
            route=UNKNOWN_ROUTE,
            method="-",
            path=path,
            status=answer.status_code,
            seconds=time.perf_counter() - (self._begun or time.perf_counter()),
            request_id=request_id,
        )
