"""What is taken on: places, bytes and deadlines, and what a drain makes of them."""

import asyncio

import pytest

from service.admission import Admission
from service.errors import DeadlinePassed, Draining, QueueFull

FAR = 1e9


def test_one_more_than_there_are_places_is_refused() -> None:
    """Until one of those who have a place leaves it, however it does."""
    admission = Admission(capacity=2, most_bytes=100)
    with admission.place():
        with pytest.raises(ZeroDivisionError), admission.place():
            raise ZeroDivisionError
        with admission.place(), pytest.raises(QueueFull, match="2 requests"), admission.place():
            pass
        with admission.place():
            pass


def test_bodies_are_bounded_together() -> None:
    """The part that would be too much is refused, what it had is given back, and a body alone has its own limit."""
    admission = Admission(capacity=9, most_bytes=100)
    with admission.place() as first:
        first(60)
        first(60)
        with admission.place() as second, pytest.raises(QueueFull, match=r"120 bytes are in hand.*100"):
            second(1)
    with admission.place() as first, admission.place() as second:
        first(60)
        second(40)
        with pytest.raises(QueueFull):
            first(1)
    with admission.place() as first, admission.place() as second:
        first(100)
        with pytest.raises(QueueFull):
            second(1)


def test_a_deadline_is_kept() -> None:
    """Another timeout than ours stays what it is."""

    async def scenario() -> None:
        admission = Admission(1, 1)
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlinePassed):
            async with admission.until(now + 0.01):
                await asyncio.sleep(FAR)
        with pytest.raises(TimeoutError):
            async with admission.until(now + FAR):
                raise TimeoutError

    asyncio.run(scenario())


def test_a_drain_takes_on_nothing_and_waits_for_what_is_in_hand() -> None:
    """It is over as soon as the last is done, long before its limit."""

    async def scenario() -> None:
        admission = Admission(9, 100)
        go_on = asyncio.Event()

        async def request() -> str:
            with admission.place():
                async with admission.until(FAR):
                    await go_on.wait()
                    return "done"

        requests = [asyncio.create_task(request()) for _ in range(2)]
        await asyncio.sleep(0)
        draining = asyncio.create_task(admission.drain(FAR))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            admission.check_open()
        with pytest.raises(Draining), admission.place():
            pass
        assert not draining.done()
        go_on.set()
        async with asyncio.timeout(60):
            await draining
        assert [await one for one in requests] == ["done", "done"]

    asyncio.run(scenario())


def test_a_drain_shortens_every_deadline() -> None:
    """Who is not done at its end hears that the service drains; a deadline that came before is still one."""

    async def scenario() -> None:
        admission = Admission(9, 100)

        async def request(due: float) -> None:
            async with admission.until(due):
                await asyncio.sleep(FAR)

        now = asyncio.get_running_loop().time()
        requests = [asyncio.create_task(request(due)) for due in (FAR, now + 0.02, now - 1.0)]
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await admission.drain(0.1)
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert [type(one) for one in results] == [Draining, DeadlinePassed, DeadlinePassed]
            with pytest.raises(Draining):
                await request(FAR)
            await admission.drain(FAR)

    asyncio.run(scenario())
