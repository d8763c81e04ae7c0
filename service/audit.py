"""A line in the log ``service.audit`` for whatever changes what the service does: who asked for what, and the outcome.

Whichever way it came: by a request, by a link that is watched, by a command. A request that is answered before its
change has ended, because its time was up or its client is gone, has the outcome ``unknown`` there, and a second line,
of the same request id, once the change has ended. The lines are written whatever EARWITNESS_LOG_LEVEL says. Refused
attempts are there too.
"""

import logging
import os
import pwd
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from starlette.types import Scope as HttpScope

from models.errors import EarwitnessError
from service.errors import ServiceError

UNCHANGING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of requests that change nothing."""
_SCORING = frozenset({"/score"})
_LONGEST = 200
"""Of what is said, in characters: names that clients send are here before anything has checked them."""

LOG: Final = logging.getLogger("service.audit")
LOG.setLevel(logging.INFO)


class Outcome(StrEnum):
    """What became of an attempt."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    """It was refused, it failed, or there was nothing to do."""
    UNKNOWN = "unknown"
    """It is under way; or it was cut off, and may have been done."""


class Act:
    """One attempt at a change, from its beginning to its line; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcome = Outcome.UNCHANGED
        self._about: dict[str, Any] = {}
        self._told: tuple[str, dict[str, Any], dict[str, Any]] | None = None

    def note(self, **about: Any) -> None:
        """Have its line say this too."""
        with self._lock:
            self._about.update(about)

    def become(self, outcome: Outcome) -> None:
        """Have this outcome; it is told at once where the line of the attempt is written already."""
        with self._lock:
            self._outcome = outcome
            if self._told is not None and outcome is not Outcome.UNKNOWN:
                self._write(*self._told)

    def tell(self, what: str, who: dict[str, Any], fields: dict[str, Any]) -> None:
        """Write the line: ``what`` was tried by ``who``; ``fields`` are of the line's JSON alone."""
        with self._lock:
            self._told = what, who, fields
            self._write(*self._told)

    def _write(self, what: str, who: dict[str, Any], fields: dict[str, Any]) -> None:
        about = {
            name: value if isinstance(value, int) else str(value)[:_LONGEST] for name, value in self._about.items()
        }
        facts = {**who, **about, "outcome": self._outcome.value}
        said = " ".join(f"{name}={quote('-' if value is None else str(value))}" for name, value in facts.items())
        LOG.info("%s %s", what, said, extra={**fields, **facts})


class Change:
    """What an act changes, entered and left by whoever makes it, in any thread.

    The act's outcome is unknown from the making of this on. In the end it is changed where `made` was called, else
    unchanged; after an error of ours too, unless that leaves it in doubt; and it stays unknown after any other.
    """

    def __init__(self) -> None:
        self._act = _at_hand.get() or Act()  # without an act nobody is told
        self._made = False
        self._act.become(Outcome.UNKNOWN)

    def made(self, **about: Any) -> None:
        """Something was changed; ``about`` is what there is to say of it."""
        self._made = True
        self._act.note(**about)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        in_doubt = not isinstance(error, EarwitnessError) or (isinstance(error, ServiceError) and error.in_doubt)
        if error is None:
            self._act.become(Outcome.CHANGED if self._made else Outcome.UNCHANGED)
        elif not in_doubt:
            self._act.become(Outcome.UNCHANGED)


_at_hand: ContextVar[Act | None] = ContextVar("act", default=None)


@contextmanager
def attempt() -> Iterator[Act]:
    """What happens inside, in tasks and threads that are begun there too, is one act."""
    act = Act()
    token = _at_hand.set(act)
    try:
        yield act
    finally:
        _at_hand.reset(token)


def note(**about: Any) -> None:
    """Have the line of the act at hand say this too."""
    (_at_hand.get() or Act()).note(**about)


@contextmanager
def attempt_by(what: str, user: str | None, **about: Any) -> Iterator[None]:
    """An act that no request asks for: a command's, or that of who changed a link; its line is written at the end."""
    with attempt() as act:
        act.note(**about)
        try:
            yield
        finally:
            act.tell(what, {"user": user}, {"command": what})


def tell_request(act: Act, scope: HttpScope, route: str, status: int) -> None:
    """Write the line of a request, if it is one that changes something."""
    method = scope["method"]
    if method in UNCHANGING or route in _SCORING or not getattr(scope.get("route"), "path", None):
        return
    client = scope.get("client")
    who = {"key": scope["state"].get("key"), "client": client[0] if client else None}
    act.note(**scope.get("path_params", {}))
    act.tell(f"{method} {route} {status}", who, {"method": method, "route": route, "status": status})


def user_name(uid: int | None = None) -> str:
    """The name of a user of this machine, by default of who runs this process; the number where there is no name."""
    uid = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
