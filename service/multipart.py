"""A multipart body, taken apart while it arrives; each file is held once, in memory, and never on a disk.

The framework's own reader keeps every part in a temporary file, from which its content must be copied.
"""

import io
from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedRequest

MOST_PARTS = 200
_MOST_TEXT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body: text fields in their order, and the bytes of each file by its field."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)


async def read_parts(content_type: str, chunks: AsyncIterable[bytes]) -> Form:
    """The form that ``chunks`` spell; raises `MalformedRequest` where they spell none."""
    _, options = parse_options_header(content_type)
    if not options.get(b"boundary"):
        raise MalformedRequest("The multipart body cannot be read: its Content-Type names no boundary.")
    parts = _Parts()
    try:
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_field,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_headers_finished": parts.headers_finished,
                "on_part_data": parts.data,
                "on_part_end": parts.end,
                "on_end": parts.all,
            },
        )
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise MalformedRequest(f"The multipart body cannot be read: {error}.") from error
    if not parts.ended:
        raise MalformedRequest("The multipart body ends before its last boundary. Send all of it.")
    return parts.form


class _Parts:
    """What python-multipart calls while it reads."""

    def __init__(self) -> None:
        self.form = Form()
        self.ended = False
        self.begin()

    def begin(self) -> None:
        self._field, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._name, self._is_file = "", False
        self._content = io.BytesIO()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field, self._value = b"", b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise MalformedRequest("A part of the multipart body has no name. Give each a Content-Disposition.")
        if len(self.form.texts) + len(self.form.files) >= MOST_PARTS:
            raise MalformedRequest(f"The multipart body has more than {MOST_PARTS} parts. Send fewer.")
        self._name = options[b"name"].decode(errors="replace")
        self._is_file = b"filename" in options

    def data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file and self._content.tell() + end - start > _MOST_TEXT_BYTES:
            raise MalformedRequest(
                f"The text field {self._name[:80]!r} has more than {_MOST_TEXT_BYTES} bytes. A clip is sent as a file: "
                f"give it a file name (with curl: -F {self._name[:80]}=@clip.wav).",
                [self._name[:80]],
            )
        self._content.write(memoryview(data)[start:end])

    def end(self) -> None:
        content = self._content.getvalue()  # the buffer itself, not a copy of it
        if self._is_file:
            self.form.files.append((self._name, content))
        else:
            self.form.texts.append((self._name, content.decode(errors="replace")))

    def all(self) -> None:
        self.ended = True
