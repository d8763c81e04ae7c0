"""What cannot be answered in time is refused at once, and what is taken on is answered."""

import asyncio
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest

from models.detector import Detector
from models.systems import Embeddings, Inputs, window_count
from service.bench.http import drive
from service.bench.workload import made_clips
from service.errors import QueueFull
from service.forecast import Forecast
from tests.service.servers import Server

FAR = 1e9
SECONDS_A_WINDOW = 0.1


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def forecast(clock: Clock) -> Forecast:
    """One that has learned that a window takes a second."""
    forecast = Forecast(clock)
    forecast.learn(2.0, 2)
    return forecast


def test_what_is_in_hand_counts_twice_and_its_own_once(forecast: Forecast) -> None:
    """Two windows in hand: a third is done in five seconds, and one who has less hears when to come back."""
    with forecast.work(FAR), forecast.work(FAR):
        forecast.check(5.0)
        with pytest.raises(QueueFull, match=r"2 windows.*5\.0 s.*1\.5 s") as refused:
            forecast.check(1.5)
        assert refused.value.retry_after_s == 2
        with pytest.raises(QueueFull), forecast.work(5.0, windows=2):
            pass
    forecast.check(0.0)


def test_who_finds_nothing_in_hand_is_taken_on(forecast: Forecast) -> None:
    """However little time they have: a mean that is too long would else refuse everybody for ever."""
    with forecast.work(0.1):
        pass
    with forecast.work(0.1, windows=50):
        pass


def test_nothing_is_refused_before_anything_is_known(clock: Clock) -> None:
    """The first requests of a service that has measured nothing."""
    forecast = Forecast(clock)
    with forecast.work(0.0), forecast.work(0.0):
        pass


def test_a_clip_of_several_windows_counts_as_that_many(forecast: Forecast) -> None:
    """From when they are known, also against itself where others are in hand; what it leaves is what it had."""
    with forecast.work(FAR) as grow:
        grow(4)
        with pytest.raises(QueueFull, match="4 windows"):
            forecast.check(8.9)
        forecast.check(9.0)
        with pytest.raises(QueueFull, match="4 windows"), forecast.work(10.0) as other:
            other(3)
    forecast.check(0.0)
    with forecast.work(FAR):
        forecast.check(3.0)


def test_answers_teach_how_long_a_window_takes(clock: Clock, forecast: Forecast) -> None:
    """A service that slows to a quarter refuses within a few answers what it had taken on, and takes it on again."""

    def needed_s() -> float:
        with forecast.work(FAR), pytest.raises(QueueFull) as refused:
            forecast.check(-FAR)
        return float(str(refused.value).split("may take ")[1].split(" s")[0])

    assert needed_s() == 3.0
    for seconds, expected in ((4.0, 12.0), (1.0, 3.0)):
        for _ in range(30):
            with forecast.work(FAR):
                clock.now_s += seconds
        assert abs(needed_s() - expected) < 0.5
    for seconds in (0.01, 9.0):  # one that failed for another reason, and one whose time was up
        with pytest.raises(ZeroDivisionError), forecast.work(clock.now_s + 1.0):  # noqa: PT012
            clock.now_s += seconds
            raise ZeroDivisionError
    assert needed_s() > 5.0


def test_work_beyond_one_s_own_is_what_makes_an_answer_late(clock: Clock, forecast: Forecast) -> None:
    """Three seconds with two windows before one's own are a second a window."""
    with ExitStack() as before:
        for _ in range(2):
            before.enter_context(forecast.work(FAR))
        with forecast.work(FAR):
            clock.now_s += 3.0
        with pytest.raises(QueueFull, match=r"may take 5\.0 s"):
            forecast.check(clock.now_s)


@pytest.fixture(scope="module")
def slow(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service whose networks take a tenth of a second a window, whatever the machine."""
    folder = tmp_path_factory.mktemp("slow")
    with Server(bundle_folder, folder / "db", folder / "log", "tests.service.test_forecast") as server:
        yield server


@pytest.mark.alone
def test_at_twice_the_capacity_the_only_error_is_429(slow: Server) -> None:
    """Twenty clips a second for a service that scores ten: each is answered 200 within its time, or 429."""
    options = Namespace(
        http=slow.url,
        machine_type="fan",
        section="01",
        rate=20.0,
        arrivals="poisson",
        seconds=6.0,
        timeout_ms=6000,
    )
    load = drive(options)
    print(f"{len(load.latencies_s)} x 200, {dict(load.others)}, {max(load.latencies_s):.2f} s at most")
    assert set(load.others) == {"429"}
    assert len(load.latencies_s) + load.others["429"] == load.requests == 120
    assert len(load.latencies_s) >= 30
    assert max(load.latencies_s) < 6.5  # of the client's clock, which begins when the request was due


@pytest.mark.alone
def test_a_burst_is_answered_or_told_when_to_come_back(slow: Server) -> None:
    """All at once: those with time enough are all scored, and of those without as many as can be."""
    query, headers = {"machine_type": "fan", "section": "01", "domain": "source"}, {"Content-Type": "audio/wav"}
    clip = made_clips(1)[0]

    async def burst(clips: int, timeout_ms: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=slow.url, timeout=60.0, trust_env=False) as client:
            return await asyncio.gather(
                *(
                    client.post(
                        "/score",
                        params=query,
                        content=clip,
                        headers={**headers, "X-Request-Timeout-Ms": str(timeout_ms)},
                    )
                    for _ in range(clips)
                )
            )

    patient = asyncio.run(burst(20, 60_000))
    assert [one.status_code for one in patient] == [200] * 20
    hasty = asyncio.run(burst(40, 4000))
    statuses = {one.status_code for one in hasty}
    assert statuses == {200, 429}
    for one in hasty:
        if one.status_code == 429:
            assert one.json()["type"] == "urn:earwitness:problem:queue-full"
            assert int(one.headers["Retry-After"]) >= 1


def main() -> int:
    """``python -m tests.service.test_forecast serve``: the service, with networks that take their time."""
    from service import cli

    embed = Detector.encode_by

    def slowly(
        detector: Detector, inputs: Inputs, members: Sequence[int], free: Callable[[], None] | None = None
    ) -> Embeddings:
        time.sleep(SECONDS_A_WINDOW * window_count(inputs))
        return embed(detector, inputs, members, free)

    with patch.object(Detector, "encode_by", slowly):
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
