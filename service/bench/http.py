"""A client that sends clips to a running server: at a rate of its own, or so that some always wait.

Arrivals do not wait for answers: a server that is slow gets no fewer requests, and what each takes is counted from the
moment that it was due. Intervals are even, or those of a Poisson process.
"""

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

import httpx
import numpy as np

from models.errors import DataError
from service.bench.workload import made_clips, pace

_CLIPS = 8


@dataclass(frozen=True, slots=True)
class Load:
    """What came back: ``latencies_s`` of the answers 200, how many of each other status, ``cpu_s`` of this client."""

    requests: int
    seconds: float
    latencies_s: tuple[float, ...]
    others: Counter[str]
    cpu_s: float


def arrivals_s(kind: str, rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When requests are sent: ``rate`` a second for ``seconds``, evenly ("fixed") or by a Poisson process."""
    count = max(1, round(rate * seconds))
    if kind == "fixed":
        return [place / rate for place in range(count)]
    intervals = np.random.default_rng(seed).exponential(1.0 / rate, count)
    times: list[float] = np.cumsum(intervals).tolist()
    return times


class Client:
    """Sends clips of one section to one server. Use it in an ``async with``.

    Raises
    ------
    DataError : where nobody answers at the address, or the first clip is not scored.
    """

    def __init__(self, url: str, machine_type: str, section: str) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits, trust_env=False)
        self._url = url
        self._query = {"machine_type": machine_type, "section": section, "domain": "source"}
        self._clips = made_clips(_CLIPS)

    async def __aenter__(self) -> Self:
        try:
            first = await self._post(0, None)
        except httpx.TransportError as error:
            raise DataError(f"Nobody answers at {self._url} ({error}). Start the server first.") from error
        if first.status_code != 200:
            raise DataError(f"{self._url} answers {first.status_code}: {first.text[:200]}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def at(self, times: list[float], timeout_ms: int | None = None) -> Load:
        """Send a clip at each of these times from now, and wait for the last answer."""
        latencies: list[float] = []
        others: Counter[str] = Counter()
        loop = asyncio.get_running_loop()
        begun, cpu = loop.time(), time.process_time()

        async def send(place: int, due: float) -> None:
            await asyncio.sleep(begun + due - loop.time())
            try:
                answer = await self._post(place, timeout_ms)
            except httpx.TransportError as error:
                others[type(error).__name__] += 1
                return
            if answer.status_code == 200:
                latencies.append(loop.time() - begun - due)
            else:
                others[str(answer.status_code)] += 1

        await asyncio.gather(*(send(place, due) for place, due in enumerate(times)))
        return Load(len(times), loop.time() - begun, tuple(latencies), others, time.process_time() - cpu)

    async def saturate(self, clips: int, callers: int) -> tuple[float, float]:
        """Clips a second where so many callers always wait, and this client's share of a core meanwhile.

        Raises
        ------
        DataError : where one is not scored.
        """
        cpu, begun = time.process_time(), time.perf_counter()

        async def score(place: int) -> None:
            answer = await self._post(place, None)
            if answer.status_code != 200:
                raise DataError(f"{self._url} answers {answer.status_code}: {answer.text[:200]}")

        rate = await pace(score, clips, callers)
        return rate, (time.process_time() - cpu) / (time.perf_counter() - begun)

    async def _post(self, place: int, timeout_ms: int | None) -> httpx.Response:
        headers = {"Content-Type": "audio/wav"}
        if timeout_ms is not None:
            headers["X-Request-Timeout-Ms"] = str(timeout_ms)
        clip = self._clips[place % _CLIPS]
        return await self._client.post("/score", params=self._query, headers=headers, content=clip)


def drive(options: argparse.Namespace) -> Load:
    """Send them all, and wait for the last answer.

    Raises
    ------
    DataError : where nobody answers at the address, or no machine type is named.
    """
    if options.machine_type is None:
        raise DataError("Name what to score with --machine-type; GET /sections of the server lists them.")

    async def run() -> Load:
        async with Client(options.http, options.machine_type, options.section) as client:
            times = arrivals_s(options.arrivals, options.rate, options.seconds)
            return await client.at(times, options.timeout_ms)

    return asyncio.run(run())


def print_load(load: Load) -> None:
    """For people."""
    print(
        f"{load.requests} requests in {load.seconds:.1f} s: {len(load.latencies_s) / load.seconds:.1f} clips/s scored"
    )
    if load.latencies_s:
        p50, p95, p99 = 1e3 * np.percentile(load.latencies_s, (50, 95, 99))
        print(f"latency p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")
    print("errors: " + (", ".join(f"{name} x {count}" for name, count in load.others.items()) or "none"))
    print(f"client: {load.cpu_s:.1f} s of CPU, {load.cpu_s / load.seconds:.0%} of a core")
