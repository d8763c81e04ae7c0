"""The batcher gives each caller its own result, whatever its neighbours do."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import Batcher
from service.errors import DeadlinePassed, Draining, QueueFull

FAR = 1e9


def doubled(_key: str, items: Sequence[int]) -> list[int]:
    return [2 * item for item in items]


class Device:
    """A device that runs only when it is let, and remembers what it ran."""

    def __init__(self, run: Callable[[str, Sequence[int]], list[int]] = doubled) -> None:
        self.free = threading.Event()
        self.begun = threading.Event()
        self.runs: list[tuple[str, list[int]]] = []
        self._run = run

    def __call__(self, key: str, items: Sequence[int], _free: Callable[[], None]) -> list[int]:
        self.begun.set()
        assert self.free.wait(180)
        self.runs.append((key, list(items)))
        return self._run(key, items)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(180):
        while not condition():
            await asyncio.sleep(0.001)


async def occupied(
    device: Device, *, capacity: int = 8, max_batch: int = 4
) -> tuple[Batcher[str, int, int], asyncio.Task[int]]:
    """A batcher whose device is busy with one first item (0, of key "a")."""
    batcher = Batcher(device, capacity=capacity, max_batch=max_batch)
    batcher.start()
    first = asyncio.create_task(batcher.submit("a", 0, deadline=FAR))
    await wait_until(device.begun.is_set)
    return batcher, first


def test_what_waits_runs_together_when_the_device_is_free() -> None:
    """Three that wait while the device is busy go through it in one run."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device)
        waiting = [asyncio.create_task(batcher.submit("a", item, deadline=FAR)) for item in (1, 2, 3)]
        await wait_until(lambda: batcher.depth == 3)
        device.free.set()
        assert await asyncio.gather(first, *waiting) == [0, 2, 4, 6]
        assert device.runs == [("a", [0]), ("a", [1, 2, 3])]
        await batcher.drain(1)

    asyncio.run(scenario())


@pytest.mark.alone
def test_a_caller_alone_waits_for_nobody() -> None:
    """Through the queue within a tenth of the run itself, at best of several: there is no artificial delay."""

    def run(_key: str, items: Sequence[int], _free: Callable[[], None]) -> list[int]:
        time.sleep(0.1)
        return list(items)

    async def scenario() -> list[float]:
        batcher = Batcher(run, capacity=8, max_batch=4)
        batcher.start()
        seconds = []
        for item in range(5):
            begun = time.perf_counter()
            assert await batcher.submit("a", item, deadline=FAR) == item
            seconds.append(time.perf_counter() - begun)
        await batcher.drain(1)
        return seconds

    assert min(asyncio.run(scenario())) < 0.11


def test_the_next_batch_begins_when_the_device_is_told_to_be_free() -> None:
    """Two are in hand and no more: the third waits for the first to end, and each caller has its own result."""

    async def scenario() -> None:
        going = {item: threading.Event() for item in range(3)}
        begun: list[int] = []

        def run(_key: str, items: Sequence[int], free: Callable[[], None]) -> list[int]:
            (item,) = items
            begun.append(item)
            free()
            assert going[item].wait(180)
            return [2 * item]

        batcher = Batcher(run, capacity=8, max_batch=1)
        batcher.start()
        tasks = [asyncio.create_task(batcher.submit("a", item, deadline=FAR)) for item in range(3)]
        await wait_until(lambda: begun == [0, 1])
        await asyncio.sleep(0.05)
        assert begun == [0, 1]
        assert batcher.depth == 1
        going[1].set()  # the second may end before the first
        assert await tasks[1] == 2
        await wait_until(lambda: begun == [0, 1, 2])
        drained = asyncio.create_task(batcher.drain(60))
        going[0].set()
        going[2].set()
        assert [await tasks[0], await tasks[2]] == [0, 4]
        await drained
        assert not batcher.running

    asyncio.run(scenario())


def test_member_sets_do_not_mix_and_the_oldest_caller_goes_first() -> None:
    """Items of different keys never share a run."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device)
        waiting = []
        for key, item in (("b", 1), ("a", 2), ("b", 3)):
            waiting.append(asyncio.create_task(batcher.submit(key, item, deadline=FAR)))
            await asyncio.sleep(0)
        device.free.set()
        await asyncio.gather(first, *waiting)
        assert device.runs[1:] == [("b", [1, 3]), ("a", [2])]
        await batcher.drain(1)

    asyncio.run(scenario())


def test_a_run_is_no_larger_than_it_may_be_but_a_long_clip_still_runs() -> None:
    """Sizes are summed; an item larger than the limit runs alone."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device, max_batch=4)
        sizes = {1: 3, 2: 2, 3: 2, 4: 11}
        waiting = []
        for item, size in sizes.items():
            waiting.append(asyncio.create_task(batcher.submit("a", item, size=size, deadline=FAR)))
            await asyncio.sleep(0)
        device.free.set()
        await asyncio.gather(first, *waiting)
        assert [items for _, items in device.runs[1:]] == [[1], [2, 3], [4]]
        await batcher.drain(1)

    asyncio.run(scenario())


def test_a_cancelled_caller_costs_nothing_and_the_others_get_their_results() -> None:
    """MLServer's lesson: cancelling one batched caller must not leave the others waiting."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device)
        waiting = [asyncio.create_task(batcher.submit("a", item, deadline=FAR)) for item in (1, 2, 3)]
        await wait_until(lambda: batcher.depth == 3)
        waiting[1].cancel()
        await wait_until(lambda: batcher.depth == 2)
        device.free.set()
        assert [await one for one in (first, waiting[0], waiting[2])] == [0, 2, 6]
        assert device.runs[1:] == [("a", [1, 3])]
        await batcher.drain(1)

    asyncio.run(scenario())


def test_a_caller_cancelled_while_its_batch_runs_does_not_disturb_it() -> None:
    """The result of one who left is dropped; the next run goes on."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device)
        first.cancel()
        second = asyncio.create_task(batcher.submit("a", 5, deadline=FAR))
        await wait_until(lambda: batcher.depth == 1)
        device.free.set()
        assert await second == 10
        with pytest.raises(asyncio.CancelledError):
            await first
        await batcher.drain(1)

    asyncio.run(scenario())


def test_an_expired_caller_is_told_and_never_runs() -> None:
    """A deadline is kept while the device is busy."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device)
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlinePassed):
            await batcher.submit("a", 1, deadline=now + 0.02)
        with pytest.raises(DeadlinePassed):
            await batcher.submit("a", 2, deadline=now - 1.0)
        assert batcher.depth == 0
        device.free.set()
        await first
        await batcher.drain(1)
        assert device.runs == [("a", [0])]

    asyncio.run(scenario())


def test_a_full_queue_refuses() -> None:
    """The queue is bounded over all keys together."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device, capacity=2)
        waiting = [asyncio.create_task(batcher.submit(key, 1, deadline=FAR)) for key in ("a", "b")]
        await wait_until(lambda: batcher.depth == 2)
        with pytest.raises(QueueFull):
            await batcher.submit("c", 1, deadline=FAR)
        device.free.set()
        assert await asyncio.gather(first, *waiting) == [0, 2, 2]
        await batcher.drain(1)

    asyncio.run(scenario())


def test_only_the_culprit_of_a_failed_batch_hears_of_it() -> None:
    """Its neighbours get their results all the same."""

    def fails_on_two(key: str, items: Sequence[int]) -> list[int]:
        if 2 in items:
            raise ValueError("two")
        return doubled(key, items)

    async def scenario() -> None:
        device = Device(fails_on_two)
        batcher, first = await occupied(device)
        waiting = [asyncio.create_task(batcher.submit("a", item, deadline=FAR)) for item in (1, 2, 3)]
        await wait_until(lambda: batcher.depth == 3)
        device.free.set()
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert results[:2] == [0, 2]
        assert results[3] == 6
        assert isinstance(results[2], ValueError)
        await batcher.drain(1)

    asyncio.run(scenario())


def test_draining_finishes_what_waits_and_accepts_nothing_more() -> None:
    """Nobody who was accepted is dropped while there is time."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device)
        second = asyncio.create_task(batcher.submit("a", 1, deadline=FAR))
        await wait_until(lambda: batcher.depth == 1)
        drained = asyncio.create_task(batcher.drain(180))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await batcher.submit("a", 2, deadline=FAR)
        device.free.set()
        assert [await first, await second] == [0, 2]
        await drained
        assert not batcher.running

    asyncio.run(scenario())


def test_a_drain_that_runs_out_of_time_leaves_nobody_waiting() -> None:
    """Both who is in the run and who waits for the next are told."""

    async def scenario() -> None:
        device = Device()
        batcher, first = await occupied(device)
        second = asyncio.create_task(batcher.submit("a", 1, deadline=FAR))
        await wait_until(lambda: batcher.depth == 1)
        await batcher.drain(0.01)
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [Draining, Draining]
        device.free.set()

    asyncio.run(scenario())


CALLERS = st.lists(
    st.tuples(
        st.sampled_from("ab"),  # key
        st.integers(1, 5),  # size
        st.sampled_from([0.0, 0.0, 0.001, 0.003]),  # when it comes
        st.one_of(st.none(), st.sampled_from([0.0, 0.001, 0.002, 0.004])),  # when it is cancelled
        st.one_of(st.none(), st.sampled_from([0.0, 0.001, 0.003])),  # its deadline
    ),
    max_size=14,
)


@given(callers=CALLERS, run_s=st.sampled_from([0.0, 0.001, 0.002]), culprit=st.integers(0, 30), overlap=st.booleans())
@settings(max_examples=60)
def test_any_interleaving_gives_each_caller_its_own_result(
    callers: list[tuple[str, int, float, float | None, float | None]], run_s: float, culprit: int, overlap: bool
) -> None:
    """Whoever is not cancelled, expired or the culprit gets the double of its own item; nobody waits for ever."""
    overlarge: list[list[int]] = []
    sizes = {item: caller[1] for item, caller in enumerate(callers)}

    def run(key: str, items: Sequence[int], free: Callable[[], None]) -> list[tuple[str, int]]:
        if overlap:
            free()
        time.sleep(run_s)
        if len(items) > 1 and sum(sizes[item] for item in items) > 6:
            overlarge.append(list(items))
        if culprit in items:
            raise ZeroDivisionError
        return [(key, 2 * item) for item in items]

    async def call(batcher: Batcher[str, int, tuple[str, int]], item: int) -> object:
        key, size, comes, cancelled, expires = callers[item]
        await asyncio.sleep(comes)
        now = asyncio.get_running_loop().time()
        deadline = FAR if expires is None else now + expires
        task = asyncio.create_task(batcher.submit(key, item, size=size, deadline=deadline))
        if cancelled is not None:
            await asyncio.sleep(cancelled)
            task.cancel()
        try:
            return await task
        except (asyncio.CancelledError, DeadlinePassed, ZeroDivisionError) as error:
            return type(error)

    async def scenario() -> list[object]:
        batcher = Batcher(run, capacity=100, max_batch=6)
        batcher.start()
        async with asyncio.timeout(180):
            results = await asyncio.gather(*(call(batcher, item) for item in range(len(callers))))
        assert batcher.depth == 0
        await batcher.drain(5)
        return results

    for item, result in enumerate(asyncio.run(scenario())):
        key, _, _, cancelled, expires = callers[item]
        possible: list[object] = [ZeroDivisionError] if item == culprit else [(key, 2 * item)]
        possible += [asyncio.CancelledError] if cancelled is not None else []
        possible += [DeadlinePassed] if expires is not None else []
        assert result in possible
    assert not overlarge


def test_cancelled_callers_never_harm_the_others(soak: bool) -> None:
    """A thousand rounds on one batcher: some callers leave at any moment, each of the others gets its own mark back."""
    rounds = 10_000 if soak else 1_000
    rng = random.Random(2021)
    cancelled = 0

    def run(key: str, items: Sequence[int], free: Callable[[], None]) -> list[tuple[str, int]]:
        if rng.random() < 0.5:
            free()
        time.sleep(0.0002)  # long enough that some leave while it runs
        return [(key, item) for item in items]

    async def one_round(batcher: Batcher[str, int, tuple[str, int]], number: int) -> None:
        nonlocal cancelled
        callers = []
        for place in range(rng.randrange(2, 9)):
            key, mark = rng.choice("ab"), 100 * number + place
            task = asyncio.create_task(batcher.submit(key, mark, size=rng.randrange(1, 4), deadline=FAR))
            callers.append((task, (key, mark)))
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        leaving = rng.sample(callers, rng.randrange(len(callers)))
        for task, _ in leaving:
            await asyncio.sleep(rng.choice((0, 0, 0.0001, 0.0003)))
            task.cancel()
        results = await asyncio.gather(*(task for task, _ in callers), return_exceptions=True)
        for caller, result in zip(callers, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                assert caller in leaving
                cancelled += 1
            else:
                assert result == caller[1]

    async def scenario() -> None:
        batcher = Batcher(run, capacity=100, max_batch=6)
        batcher.start()
        async with asyncio.timeout(600):
            for number in range(rounds):
                await one_round(batcher, number)
        assert batcher.depth == 0
        await batcher.drain(5)

    asyncio.run(scenario())
    assert cancelled > rounds
