"""Batches of whatever is waiting: when the device is free it takes what is there, without an artificial delay.

One queue a key (a set of ensemble members), all of them bounded together. Each caller waits for its own result until
its own deadline; one that is cancelled or expires leaves the queue before it costs anything, and what happens to it
never reaches its neighbours. A batch that fails is run again one by one, so that only the culprit's caller hears of it.

A run tells when the device has begun the last of its work: some of its cores would soon be idle, and until what is left
has been done and scored. The next batch is taken then.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final, Generic, Protocol, TypeVar

from service.errors import DeadlinePassed, Draining, QueueFull

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_HAND = 2
"""Batches: one that ends, and the next; where ``free`` is not called, as on a GPU, there is one."""


class BatchObserver(Protocol):
    """Who is told how long clips waited, how long a run took and how large it was."""

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the duration of a stage."""

    def observe_batch(self, size: int) -> None:
        """Record the size of a batch."""


class _Nobody:
    """An observer that keeps nothing: commands and tests have no metrics."""

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Nothing."""

    def observe_batch(self, size: int) -> None:
        """Nothing."""


NOBODY: Final = _Nobody()


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    size: int
    deadline: float
    since: float
    result: asyncio.Future[Result]


class Batcher(Generic[Key, Item, Result]):
    """Runs ``run(key, items, free) -> results`` in threads of its own, oldest caller first.

    A batch is taken when the one before has called ``free``, or has ended; two are in hand at most. ``capacity`` bounds
    the callers that wait; ``max_batch`` the sum of sizes in a run (a larger item runs alone).
    """

    def __init__(
        self,
        run: Callable[[Key, Sequence[Item], Callable[[], None]], Sequence[Result]],
        *,
        capacity: int,
        max_batch: int,
        observer: BatchObserver = NOBODY,
    ) -> None:
        self._run = run
        self._capacity = capacity
        self._max_batch = max_batch
        self._observer = observer
        self._queues: dict[Key, deque[_Waiting[Item, Result]]] = {}
        self._arrived = asyncio.Event()
        self._draining = False
        self._threads = ThreadPoolExecutor(_IN_HAND, thread_name_prefix="batch")
        self._worker: asyncio.Task[None] | None = None
        self._running: dict[asyncio.Task[None], list[_Waiting[Item, Result]]] = {}

    @property
    def running(self) -> bool:
        """Whether batches are being run: false before `start` and after `drain`."""
        return self._worker is not None and not self._worker.done()

    @property
    def depth(self) -> int:
        """How many callers wait for a run."""
        return sum(len(queue) for queue in self._queues.values())

    def start(self) -> None:
        """Begin to run batches, in the running event loop."""
        self._worker = asyncio.create_task(self._work())

    async def submit(self, key: Key, item: Item, *, deadline: float, size: int = 1) -> Result:
        """Wait for the result of ``item``, until ``deadline`` (of the event loop's clock).

        Raises
        ------
        QueueFull, Draining, DeadlinePassed; whatever ``run`` raises for this item.
        """
        loop = asyncio.get_running_loop()
        if self._draining:
            raise Draining
        if self.depth >= self._capacity:
            raise QueueFull(f"{self._capacity} clips are waiting already. Send the request again in a moment.")
        waiting = _Waiting(item, size, deadline, loop.time(), loop.create_future())
        queue = self._queues.setdefault(key, deque())
        queue.append(waiting)
        self._arrived.set()
        try:
            async with asyncio.timeout_at(deadline) as limit:
                result: Result = await waiting.result
                return result
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlinePassed("The request's time was up while its clip waited for the networks.") from error
        finally:
            if waiting in queue:
                queue.remove(waiting)

    async def drain(self, grace_s: float) -> None:
        """Accept nothing more, finish what waits for up to ``grace_s``, refuse the rest."""
        self._draining = True
        self._arrived.set()
        if self._worker is not None:
            await asyncio.wait({self._worker}, timeout=grace_s)
            self._worker.cancel()
        for waiting in chain(*self._running.values(), *self._queues.values()):
            if not waiting.result.done():
                waiting.result.set_exception(Draining())
        for running in self._running:
            running.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if len(self._running) == _IN_HAND:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            taken = self._next(loop.time())
            if taken is None:
                if self._draining:
                    if self._running:
                        await asyncio.wait(self._running)
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            key, batch = taken
            free = asyncio.Event()
            running = asyncio.create_task(self._run_batch(key, batch, free))
            self._running[running] = batch
            running.add_done_callback(self._running.pop)
            await free.wait()

    async def _run_batch(self, key: Key, batch: list[_Waiting[Item, Result]], free: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def freed() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(free.set)

        try:
            items = [waiting.item for waiting in batch]
            results = await loop.run_in_executor(self._threads, self._results, key, items, freed)
            for waiting, result in zip(batch, results, strict=True):
                if waiting.result.done():  # its caller left while the batch ran
                    continue
                if isinstance(result, BaseException):
                    waiting.result.set_exception(result)
                else:
                    waiting.result.set_result(result)
        except BaseException as error:  # a thread's SystemExit, say: nobody is to wait for what will not come
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(Draining() if isinstance(error, asyncio.CancelledError) else error)
            raise
        finally:
            free.set()

    def _next(self, now: float) -> tuple[Key, list[_Waiting[Item, Result]]] | None:
        """Take the batch of the queue whose first caller has waited longest; callers who left are passed over."""
        for queue in self._queues.values():
            while queue and (queue[0].result.done() or queue[0].deadline <= now):
                queue.popleft()
        heads = [(queue[0].since, key) for key, queue in self._queues.items() if queue]
        if not heads:
            return None
        key = min(heads, key=lambda head: head[0])[1]
        queue, size = self._queues[key], 0
        batch: list[_Waiting[Item, Result]] = []
        while queue and (not batch or size + queue[0].size <= self._max_batch):
            waiting = queue.popleft()
            if waiting.result.done() or waiting.deadline <= now:
                continue
            batch.append(waiting)
            size += waiting.size
        for waiting in batch:
            self._observer.observe_stage("queue", now - waiting.since)
        self._observer.observe_batch(size)
        return key, batch

    def _results(self, key: Key, items: list[Item], freed: Callable[[], None]) -> list[Result | BaseException]:
        try:
            results = [result for _, result in zip(items, self._run(key, items, freed), strict=True)]
        except Exception as error:  # noqa: BLE001  it is handed to the caller whose item it is
            if len(items) == 1:
                return [error]
            return [result for item in items for result in self._results(key, [item], freed)]
        return list[Result | BaseException](results)
