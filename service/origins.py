"""Web pages that ask the service by way of somebody's browser, and what they may not where no key is needed.

A browser lets any page send a form to any address, 127.0.0.1 too, and says in ``Origin`` and ``Sec-Fetch-Site`` whose
page it was: what changes something is refused to the pages of others. And a page may let its own name point at us, so
that the browser takes our answers for its own: ``Host`` says that name then. It has a dot, as every public name has;
addresses and names without one (``localhost``, ``plant-pc``, a container's) are nobody else's. With a dot, a name must
be known to the service: over the loopback always, and over any connection where it has been told one. Which names a
network has for it nobody else can know. Keys need none of this: no browser sends one by itself.
"""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import as_address, host_name, is_loopback
from service.audit import UNCHANGING
from service.errors import ForeignHost, ForeignOrigin

_HEALTH = frozenset({"/livez", "/readyz"})
"""Answered whatever name they are asked by: a probe that is refused would have the service restarted."""


def over_loopback(scope: Scope) -> bool:
    """Whether a request came by an address that only this machine can use; the connection tells, whoever listens."""
    server = scope.get("server")
    return server is not None and is_loopback(server[0])


def check_origin(scope: Scope, hosts: Collection[str]) -> None:
    """Raise `ForeignOrigin` for a request that would change something, and that a page of another origin has sent.

    ``hosts`` are the further names of this service.
    """
    if scope["method"] in UNCHANGING:
        return
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    place = "" if origin is None else origin.partition("://")[2].lower()
    own = origin is None or (place and (place == headers.get("host", "").lower() or host_name(place) in hosts))
    if site == "cross-site" or not (own or site == "same-origin"):
        raise ForeignOrigin(
            f"A web page of {(origin or 'another site')[:120]!r} may not change anything here: where no key is needed, "
            "only pages of this service may. Send the request from a program, or let the service ask for keys."
        )


class NamedHost:
    """ASGI middleware of an app without keys: who asks must have asked for it, and not for a name that points here."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises `ForeignHost`."""
        looked_at = scope["type"] == "http" and scope["path"] not in _HEALTH
        if looked_at and (self._hosts or over_loopback(scope)):
            place = Headers(scope=scope).get("host", "")
            host = host_name(place)
            if "." in host and not (as_address(host) or host in self._hosts):
                raise ForeignHost(
                    f"{place[:120]!r} is no name that this service knows: where no key is needed, it could be a web "
                    "page's that points here. Ask for the service's address (localhost, on its own machine), or let it "
                    "know the name with EARWITNESS_KNOWN_HOSTS."
                )
        await self._app(scope, receive, send)
