"""Web pages that ask the service by way of somebody's browser, and what they may not where no key is needed.

A browser lets any page send a form to any address, 127.0.0.1 too, and says in ``Origin`` and ``Sec-Fetch-Site`` whose
page it was: what changes something is refused to the pages of others. And a page may let its own name point at
127.0.0.1, so that the browser takes our answers for its own: ``Host`` says that name then, and what reached this
machine over the loopback must have named this machine. Keys need none of this: no browser sends one by itself.
"""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import is_loopback
from service.errors import ForeignHost, ForeignOrigin

_UNCHANGING = frozenset({"GET", "HEAD", "OPTIONS"})


def over_loopback(scope: Scope) -> bool:
    """Whether a request came by an address that only this machine can use; the connection tells, whoever listens."""
    server = scope.get("server")
    return server is not None and is_loopback(server[0])


def check_origin(scope: Scope, hosts: Collection[str]) -> None:
    """Raise `ForeignOrigin` for a request that would change something, and that a page of another origin has sent.

    ``hosts`` are the further names of this service.
    """
    if scope["method"] in _UNCHANGING:
        return
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    place = "" if origin is None else origin.partition("://")[2].lower()
    own = origin is None or (place and (place == headers.get("host", "").lower() or _name(place) in hosts))
    if site == "cross-site" or not (own or site == "same-origin"):
        raise ForeignOrigin(
            f"A web page of {(origin or 'another site')[:120]!r} may not change anything here: where no key is needed, "
            "only pages of this service may. Send the request from a program, or let the service ask for keys."
        )


class NamedHost:
    """ASGI middleware of an app without keys: who comes over the loopback must have named this machine."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises `ForeignHost`."""
        if scope["type"] == "http" and over_loopback(scope):
            host = Headers(scope=scope).get("host", "").lower()
            if host and not (is_loopback(_name(host)) or _name(host) in self._hosts):
                raise ForeignHost(
                    f"{host[:120]!r} is no name of this service, which answers this machine only. Ask for localhost, "
                    "or let the service know the name with EARWITNESS_KNOWN_HOSTS."
                )
        await self._app(scope, receive, send)


def _name(place: str) -> str:
    """The host of ``host:port``."""
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]
