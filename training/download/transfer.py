"""Files over HTTP, whole and verified, however often the connection is cut.

What has arrived stays in a partial file, and the next request asks for the rest of it (RFC 9110, section 14: ``Range``,
and ``If-Range`` with the server's entity tag where it gave a strong one, so that a file that has changed meanwhile
starts again). A server that ignores the range starts the file again, too. A file gets its name when its size and MD5
are those of its record, and not before.
"""

import asyncio
import hashlib
import os
import re
import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from models.errors import DownloadError
from models.folders import sync_folder
from training.download.patience import FAILURES, Again, Patience, check_status
from training.download.places import Place
from training.download.records import RemoteFile
from training.storage import write_atomically

Advance = Callable[[int], object]
"""Called with the number of bytes that have come; negative where they must come again."""

TIMEOUT_S = 60.0
"""How long nothing at all may come."""

FILE_TRIES = 8
"""Failures in a row, without one new byte, after which a file is given up: two minutes, or as the server asks."""

RECORD_TRIES = 3
"""The same for a record: a person waits, and nothing has been done yet."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Server:
    """A records API and the files that it links to. Use as an asynchronous context manager."""

    def __init__(self, api: str) -> None:
        self._api = api.rstrip("/")
        self._client = httpx.AsyncClient(
            verify=_tls(),
            follow_redirects=True,
            timeout=TIMEOUT_S,
            headers={"User-Agent": "earwitness", "Accept-Encoding": "identity"},  # ranges count the file's own bytes
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def record(self, number: int) -> bytes:
        """The API's answer for a record.

        Raises
        ------
        DownloadError : where there is none; `ServerUnreachable` where nobody answers.
        """
        what, url = f"Record {number}", f"{self._api}/records/{number}"
        patience = Patience(what, RECORD_TRIES)
        while True:
            try:
                response = await self._client.get(url, headers={"Accept": "application/json"})
                check_status(response, what)
            except FAILURES as error:
                await patience.bear(error, url)
            else:
                return response.content

    async def fetch(self, file: RemoteFile, place: Place, advance: Advance) -> None:
        """Fetch ``file`` to ``place.archive``, going on from what is there of it.

        Raises
        ------
        DownloadError : where it is not there, or comes twice with another checksum than its record's.
        ServerUnreachable : where the server does not answer, or cuts the connection again and again.
        """
        if place.archive.is_file():
            return  # it has its name, so it is verified
        place.partial.parent.mkdir(parents=True, exist_ok=True)
        found = await self._fetch_whole(file, place, advance)
        if found != file.md5:  # perhaps what was there before is of another version
            _discard(place, advance)
            found = await self._fetch_whole(file, place, advance)
        if found != file.md5:
            _discard(place, advance)
            raise DownloadError(
                f"{file.name} came twice with another checksum than its record's: MD5 {found}, expected {file.md5}. "
                "What came was deleted. Try again later; a proxy on the way may change files."
            )
        place.partial.replace(place.archive)
        sync_folder(place.archive.parent)
        place.etag.unlink(missing_ok=True)

    async def _fetch_whole(self, file: RemoteFile, place: Place, advance: Advance) -> str:
        """Make the partial file as long as the file, and return its MD5."""
        if _size(place.partial) > file.size:
            _discard(place, advance)
        patience, most = Patience(file.name, FILE_TRIES), _size(place.partial)
        while (size := _size(place.partial)) < file.size or not place.partial.exists():
            try:
                await self._fetch_rest(file, place, size, advance)
            except FAILURES as error:
                longest, most = most, max(most, _size(place.partial))
                await patience.bear(error, file.url, progressed=most > longest)
        return await asyncio.to_thread(_sync_and_digest, place.partial)

    async def _fetch_rest(self, file: RemoteFile, place: Place, size: int, advance: Advance) -> None:
        """One request for all from byte ``size`` on."""
        async with self._client.stream("GET", file.url, headers=_range_headers(place, size)) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                _discard(place, advance)
                raise Again("the server's file is shorter than what has come of it")
            check_status(response, file.name)
            start = _start(response)
            if start not in {0, size}:
                _discard(place, advance)
                raise Again(f"the server answers with another range than was asked for, from byte {size} on")
            if start == 0:
                advance(-size)
                size = 0
            with place.partial.open("ab" if start else "wb") as out:
                if start == 0:
                    _remember_version(place, response.headers.get("ETag", ""))
                async for piece in response.aiter_raw():
                    size += len(piece)
                    if size > file.size:
                        break
                    out.write(piece)
                    out.flush()  # what has come is there for the next run, whatever ends this one
                    advance(len(piece))
        if size > file.size:
            _discard(place, advance)
            raise DownloadError(
                f"{file.name} is longer than the {file.size} bytes that its record says. What came was deleted. Try "
                "again later; a proxy on the way may change files."
            )
        if size < file.size:
            raise Again(f"it ended after {size} of {file.size} bytes")


@cache
def _tls() -> ssl.SSLContext:
    """Of all connections of a process: to read the certificates of the world takes 30 ms."""
    return httpx.create_ssl_context()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(place: Place, advance: Advance) -> None:
    advance(-_size(place.partial))
    place.partial.unlink(missing_ok=True)
    place.etag.unlink(missing_ok=True)


def _range_headers(place: Place, size: int) -> dict[str, str]:
    if size == 0:
        return {}
    version = {"If-Range": place.etag.read_text("ascii")} if place.etag.exists() else {}
    return {"Range": f"bytes={size}-", **version}


def _remember_version(place: Place, etag: str) -> None:
    """Only a strong tag may stand in ``If-Range``; without one the checksum has the last word alone."""
    if etag.isascii() and not etag.startswith("W/") and etag:
        write_atomically(place.etag, lambda file: file.write(etag.encode()))
    else:
        place.etag.unlink(missing_ok=True)


def _start(response: httpx.Response) -> int:
    """Which byte of the file the answer begins with."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _sync_and_digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
