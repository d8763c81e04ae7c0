"""What the service has taken on: how many requests, how many bytes of their bodies, and how long each may take.

What would be too much is refused at once. A service that drains takes on nothing more, and what it has in hand must be
done by the end of the drain.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from service.errors import DeadlinePassed, Draining, QueueFull

Hold = Callable[[int], None]


class Admission:
    """The places, bytes and deadlines of one app; used from its event loop alone.

    ``capacity`` bounds the requests that hold a place, ``most_bytes`` the bytes of their bodies together.
    """

    def __init__(self, capacity: int, most_bytes: int) -> None:
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._places = 0
        self._bytes = 0
        self._limits: set[asyncio.Timeout] = set()
        self._done = asyncio.Event()
        self._done.set()
        self._drained_by = math.inf

    @property
    def in_hand(self) -> int:
        """How many places are held."""
        return self._places

    def check_open(self) -> None:
        """Raise `Draining` where nothing more is taken on."""
        if self._drained_by < math.inf:
            raise Draining

    @contextmanager
    def place(self) -> Iterator[Hold]:
        """Hold one of the places; what this gives is told the size of each part of the body before it is kept.

        A body that is alone is never too large here: its route bounds it.

        Raises
        ------
        Draining
        QueueFull : where all places are taken, and later where the bytes would be too many.
        """
        own = 0

        def hold(size: int) -> None:
            nonlocal own
            if self._bytes > own and self._bytes + size > self._most_bytes:
                raise QueueFull(
                    f"Bodies of {self._bytes} bytes are in hand, and this service holds {self._most_bytes} at most. "
                    "Send this one again in a moment."
                )
            own += size
            self._bytes += size

        self.check_open()
        if self._places >= self._capacity:
            raise QueueFull(
                f"{self._capacity} requests are in hand, the most this service holds. Send this one again in a moment."
            )
        self._places += 1
        try:
            yield hold
        finally:
            self._places -= 1
            self._bytes -= own

    @asynccontextmanager
    async def until(self, due: float) -> AsyncIterator[None]:
        """Cancel what happens inside at ``due`` (of the event loop's clock), or at the end of a drain.

        Raises
        ------
        DeadlinePassed, Draining : when that time has come.
        """
        try:
            async with asyncio.timeout_at(min(due, self._drained_by)) as limit:
                self._limits.add(limit)
                self._done.clear()
                try:
                    yield
                finally:
                    self._limits.remove(limit)
                    if not self._limits:
                        self._done.set()
        except TimeoutError as error:
            if not limit.expired():
                raise
            if self._drained_by < due:
                raise Draining from error
            raise DeadlinePassed(
                "The request's time was up before its answer was ready. Allow more with X-Request-Timeout-Ms, send "
                "shorter clips, or send fewer at once."
            ) from error

    async def drain(self, grace_s: float) -> None:
        """Take on nothing more; wait until what is in hand is done, or its time is up: ``grace_s`` from now at most."""
        if self._drained_by == math.inf:
            self._drained_by = asyncio.get_running_loop().time() + grace_s
            for limit in self._limits:
                if not limit.expired() and (limit.when() or 0.0) > self._drained_by:
                    limit.reschedule(self._drained_by)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._drained_by):
                await self._done.wait()
