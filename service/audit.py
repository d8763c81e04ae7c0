"""A line in the log ``service.audit`` for whatever changes what the service does: who asked for what, and the outcome.

It is written whatever EARWITNESS_LOG_LEVEL says. Refused attempts are there too.
"""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.types import Scope as HttpScope

FACTS = "audit"
"""The key in ``scope["state"]`` under which a route leaves what its path does not say."""
_UNCHANGING = frozenset({"GET", "HEAD", "OPTIONS"})
_SCORING = frozenset({"/score"})

_log = logging.getLogger("service.audit")
_log.setLevel(logging.INFO)


def note(scope: HttpScope, **facts: Any) -> None:
    """Have the line of this request say ``facts`` too."""
    scope["state"].setdefault(FACTS, {}).update(facts)


def audit(scope: HttpScope, route: str, status: int) -> None:
    """Write the line of a request, if it is one that changes something."""
    if scope["method"] in _UNCHANGING or route in _SCORING or not getattr(scope.get("route"), "path", None):
        return
    state = scope["state"]
    client = scope.get("client")
    facts: Mapping[str, Any] = {**scope.get("path_params", {}), **state.get(FACTS, {})}
    said = " ".join(f"{name}={quote(str(value))}" for name, value in facts.items())
    _log.info(
        "%s %s %s key=%s client=%s %s",
        *(scope["method"], route, status, state.get("key") or "-", client[0] if client else "-", said),
        extra={
            "method": scope["method"],
            "route": route,
            "status": status,
            "key": state.get("key"),
            "client": client[0] if client else None,
            **facts,
        },
    )
