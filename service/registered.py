"""The registrations in force, as this instance knows them: read again several times a second, kept in memory.

So several instances on one database see each other's registrations within a second, a score asks no database, and
scoring goes on with the last known state while the database is away. Its own change is known as soon as it is made.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, Self, TypeVar

from models.vocabulary import SectionKey
from service.audit import Change
from service.errors import StoreError
from service.targets import Idempotency, Registration, Sample, State, TargetStore

POLL_S = 0.2
"""How long another instance's registration may go unnoticed, with the time of one small query."""
_FRESH_S = 3.0
"""What was read longer ago is stale, whatever keeps the database from answering."""
_MOST_PAUSE_S = 30.0
_NOTHING_READ = State(-1, ())

_log = logging.getLogger("service.registered")

Result = TypeVar("Result")


class TargetState(StrEnum):
    """Whether the registrations that an answer is given by are surely those of the database."""

    CURRENT = "current"
    STALE = "stale"
    """The database does not answer: they are the last known."""


class Registered:
    """What is in force in one store, and the way to change it.

    The database has threads of its own: nothing that is read there waits for clips that are decoded, nor the reverse.
    One writer at a time, since one that waits for another program's lock keeps its thread.
    """

    def __init__(self, store: TargetStore) -> None:
        self.store = store
        self._known = _NOTHING_READ
        self._by_key: Mapping[SectionKey, Registration] = {}
        self._highest: dict[SectionKey, int] = {}
        """The highest version that each section is known to have had, should a backup take the database's place."""
        self._reachable = False
        self._read_at = -_FRESH_S
        self._writing = asyncio.Lock()
        self._begun: set[asyncio.Task[Any]] = set()
        self._poller = ThreadPoolExecutor(1, thread_name_prefix="registrations")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="registering")
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="target-clips")

    async def open(self) -> Self:
        """Read what is in force.

        Raises
        ------
        StoreError : where the database cannot be used: there is no last known state yet.
        """
        try:
            self._learn(await asyncio.get_running_loop().run_in_executor(self._poller, self.store.state))
        except StoreError:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ask no more; a query that hangs is not waited for."""
        for threads in (self._poller, self._writer, self._readers):
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def state(self) -> TargetState:
        """Whether what is known is what the database says now."""
        fresh = self._reachable and time.monotonic() - self._read_at < _FRESH_S
        return TargetState.CURRENT if fresh else TargetState.STALE

    @property
    def all(self) -> Sequence[Registration]:
        """Every registration in force, in the order of machine types and sections."""
        return self._known.in_force

    def in_force(self, key: SectionKey) -> Registration | None:
        """The registration that scores this section, if there is one."""
        return self._by_key.get(key)

    async def refresh(self) -> None:
        """Ask the database once; where it does not answer, what is known is stale from then on."""
        known = self._known
        asking = asyncio.get_running_loop().run_in_executor(self._poller, self.store.state, known.changes)
        try:
            self._learn(await asking, since=known)
        except StoreError as error:
            if self._reachable:
                _log.error("registrations are the last known from now on: %s", error)
            self._reachable = False

    async def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Ask for ever; ``changed`` is called after each change, one call at a time, and never waited for.

        What nobody foresaw is logged, and asked for again a little later each time: until then what is known is stale.
        """
        told, telling = self._known.changes, asyncio.ensure_future(asyncio.sleep(0.0))
        pause_s = POLL_S
        try:
            while True:
                try:
                    await self.refresh()
                    pause_s = POLL_S
                except Exception:  # noqa: BLE001  it is in the log, and who does not ask again never learns
                    self._reachable = False
                    pause_s = min(2.0 * pause_s, _MOST_PAUSE_S)
                    _log.exception("registrations could not be read; they are asked for again in %g s", pause_s)
                if self._known.changes != told and telling.done():
                    told, telling = self._known.changes, asyncio.ensure_future(_call(changed))
                await asyncio.sleep(pause_s)
        finally:
            telling.cancel()

    async def read(self, ask: Callable[..., Result], *arguments: object) -> Result:
        """Call a method of the store that changes nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, ask, *arguments)

    async def register(
        self, key: SectionKey, clips: Sequence[tuple[Sample, bytes]], *, idempotency: Idempotency | None
    ) -> Registration:
        """`TargetStore.register`; known here when it returns."""
        return await self._change(
            lambda audited: _told(
                audited, *self.store.register(key, clips, idempotency=idempotency, after=self._highest.get(key, 0))
            )
        )

    async def restore(self, key: SectionKey, version: int, *, idempotency: Idempotency | None) -> Registration:
        """`TargetStore.restore`; known here when it returns."""
        return await self._change(
            lambda audited: _told(
                audited,
                *self.store.restore(key, version, idempotency=idempotency, after=self._highest.get(key, 0)),
            )
        )

    async def withdraw(self, key: SectionKey) -> bool:
        """`TargetStore.withdraw`; known here when it returns."""

        def change(audited: Change) -> tuple[bool, State]:
            withdrawn, state = self.store.withdraw(key)
            if withdrawn:
                audited.made()
            return withdrawn, state

        return await self._change(change)

    async def _change(self, change: Callable[[Change], tuple[Result, State]]) -> Result:
        """What ``change`` gives; once begun, it is done to its end and then known, whoever waits for it."""
        await self._writing.acquire()
        changing = asyncio.create_task(self._changed(change))
        self._begun.add(changing)
        changing.add_done_callback(self._over)
        return await asyncio.shield(changing)

    async def _changed(self, change: Callable[[Change], tuple[Result, State]]) -> Result:
        audited = Change()

        def run() -> tuple[Result, State]:
            with audited:  # in the thread, which may outlive the event loop
                return change(audited)

        try:
            result, state = await asyncio.get_running_loop().run_in_executor(self._writer, run)
            self._learn(state)
        finally:
            self._writing.release()
        return result

    def _over(self, changing: "asyncio.Task[Any]") -> None:
        self._begun.remove(changing)
        if not changing.cancelled():
            changing.exception()  # who waits is told; asyncio would complain where nobody does

    def _learn(self, state: State | None, since: State | None = None) -> None:
        """Take over a newer state; None: nothing is new.

        A state that was read before this instance's own change may arrive after it. One that was asked for ``since``
        what is still known is the newest whatever its number, which a restored backup sets back.
        """
        if not self._reachable and self._known is not _NOTHING_READ:
            _log.info("the database of target clips answers again")
        self._reachable, self._read_at = True, time.monotonic()
        if state is not None and (state.changes > self._known.changes or self._known is since):
            if state.changes < self._known.changes:
                _log.warning("the database of target clips went back: a backup has taken its place")
            self._known = state
            self._by_key = {one.key: one for one in state.in_force}
            for one in state.in_force:
                self._highest[one.key] = max(one.version, self._highest.get(one.key, 0))


async def _call(changed: Callable[[], Awaitable[None]]) -> None:
    try:
        await changed()
    except Exception:  # noqa: BLE001  it is in the log
        _log.exception("a change of registrations could not be made ready for scores; the first score will try again")


def _told(audited: Change, registration: Registration, state: State) -> tuple[Registration, State]:
    if not registration.replayed:
        audited.made(version=registration.version)
    return registration, state
