"""How long a server is borne with, and what a person is told when that ends."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import httpx

from models.errors import DownloadError, ServerUnreachable

_log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""The wait after a failure; it doubles with each failure in a row."""

LONGEST_RETRY_AFTER_S = 900.0
"""The longest wait that a server is granted."""

_TOLD_WAIT_S = 5.0
"""From here on a person wonders why nothing moves."""

_PASSING = {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS}


class Again(Exception):
    """An answer that may be another one next time; ``wait_s``: as the server asks."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__(reason)


FAILURES = (Again, httpx.HTTPError, httpx.InvalidURL)
"""What `Patience` judges."""


class Patience:
    """Counts the failures in a row over ``what``, and waits between them; at ``tries`` it ends."""

    def __init__(self, what: str, tries: int) -> None:
        self._what, self._tries = what, tries
        self._failures = 0

    async def bear(self, error: Exception, url: str, *, progressed: bool = False) -> None:
        """Wait after a failure; ``progressed``: that new bytes have come since the last one.

        Raises
        ------
        ServerUnreachable : where there is no sense in waiting, or no more.
        """
        self._failures = 1 if progressed else self._failures + 1
        asked_s = error.wait_s if isinstance(error, Again) else 0.0
        if not _may_pass(error) or self._failures >= self._tries or asked_s > LONGEST_RETRY_AFTER_S:
            raise ServerUnreachable(f"{self._what}: {_sentence(error, url)}") from error
        wait_s = max(asked_s, min(FIRST_WAIT_S * 2 ** (self._failures - 1), LONGEST_WAIT_S))
        if wait_s >= _TOLD_WAIT_S:
            _log.warning("%s: %s; the next try is in %.0f s", self._what, _reason(error), wait_s)
        await asyncio.sleep(wait_s)


def check_status(response: httpx.Response, what: str) -> None:
    """Let a success pass.

    Raises
    ------
    Again : for what may pass: 408, 425, 429 and 5xx.
    DownloadError : for any other answer, with what to do.
    """
    status = response.status_code
    if response.is_success:
        return
    if status in _PASSING or response.is_server_error:
        raise Again(f"the server answers {status} {response.reason_phrase}".rstrip(), _retry_after_s(response))
    if status in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
        reason = "is not there. See whether the record has a newer version, and whether --api names the API itself"
    elif status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        reason = "is not given to everybody. See whether the record is restricted, or a proxy stands in the way"
    else:
        reason = "cannot be had. See whether --api names the API itself"
    raise DownloadError(f"{what} {reason} ({status} at {response.url}).")


def _retry_after_s(response: httpx.Response) -> float:
    """``Retry-After``, in either of its forms (RFC 9110, section 10.2.3); 0 where there is none that can be read."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _may_pass(error: Exception) -> bool:
    if isinstance(error, Again):
        return True
    lasting = any(
        isinstance(cause, ssl.SSLCertVerificationError)
        or (isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME)
        for cause in _causes(error)
    )
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol) and not lasting


def _sentence(error: Exception, url: str) -> str:
    go_on = "Start the same command again: it goes on from here."
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return f"{url!r} is no address that can be fetched ({error}). Give --api as https://HOST/PATH."
    host = httpx.URL(url).host
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return (
                f"the name {host!r} cannot be resolved ({cause.strerror}). Check the network, HTTPS_PROXY where you "
                "need one, and --api."
            )
        if isinstance(cause, ssl.SSLError):
            return (
                f"no safe connection to {host} ({cause}). Check this machine's clock and, behind a proxy that opens "
                "TLS, name its certificate in SSL_CERT_FILE."
            )
    if isinstance(error, httpx.TimeoutException):
        return f"{host} has not answered for a minute. {go_on}"
    if isinstance(error, Again):
        asked = f" and asks to wait {error.wait_s:.0f} s" if error.wait_s else ""
        return f"{error}{asked}. {go_on}"
    return f"the connection to {host} fails ({_reason(error)}). Check the network. {go_on}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """``error``, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
