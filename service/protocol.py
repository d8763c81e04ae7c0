"""uvicorn's HTTP protocol, with a bound on the head of a request and our problem for what is no HTTP."""

import uuid

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import MalformedRequest
from service.problems import problem

MOST_HEAD_BYTES = 64 * 1024
"""The parser keeps a request line and headers of any length; a client that never ends them would fill the memory."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _in_head = False

    def data_received(self, data: bytes) -> None:
        """Count what has come of an unfinished head, then read on."""
        self._head_bytes += len(data)
        if self._in_head and self._head_bytes > MOST_HEAD_BYTES:
            self.send_400_response(f"The request line and headers have more than {MOST_HEAD_BYTES} bytes. Send fewer.")
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses, and close the connection."""
        if self.transport.is_closing():
            return
        request_id = uuid.uuid4().hex
        path = getattr(self, "url", b"").decode("latin-1").partition("?")[0]
        error = MalformedRequest(f"{msg} See RFC 9112, and /docs for what is expected.")
        answer = problem({"state": {"request_id": request_id}, "path": path}, error)
        lines = [*answer.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
