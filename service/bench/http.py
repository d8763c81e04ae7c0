"""A client that sends clips to a running server: at a rate of its own, or so that some always wait.

Arrivals do not wait for answers: a server that is slow gets no fewer requests, and what each takes is counted from the
moment that it was due. Intervals are even, or those of a Poisson process.

Where the server is on the same machine, what the client takes is missing there. So it sends what Python's own
`http.client` sends, a thread a request in hand and connections that are kept: about a quarter of what httpx takes.
"""

import argparse
import asyncio
import select
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import Self
from urllib.parse import urlencode, urlsplit

import numpy as np

from models.errors import DataError
from service.bench.workload import made_clips, pace

_CLIPS = 8
_TIMEOUT_S = 60.0
_MOST_IN_HAND = 1024
_NO_ANSWER = (OSError, HTTPException)


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
        try:
            place = urlsplit(url)
            host, port = place.hostname, place.port
        except ValueError:
            host = port = None
        if host is None or place.scheme not in {"http", "https"}:
            raise DataError(f"{url!r} is no address. Give one like http://127.0.0.1:8000.")
        self._url, self._address = url, (host, port)
        self._connection = HTTPSConnection if place.scheme == "https" else HTTPConnection
        query = urlencode({"machine_type": machine_type, "section": section, "domain": "source"})
        self._target = f"{place.path.rstrip('/')}/score?{query}"
        self._clips = made_clips(_CLIPS)
        self._idle = SimpleQueue[HTTPConnection]()
        self._pool = ThreadPoolExecutor(_MOST_IN_HAND, thread_name_prefix="client")

    async def __aenter__(self) -> Self:
        try:
            status, text = await self._post(0, None)
        except _NO_ANSWER as error:
            await self.__aexit__()
            raise DataError(f"Nobody answers at {self._url} ({error}). Start the server first.") from error
        if status != 200:
            await self.__aexit__()
            raise DataError(f"{self._url} answers {status}: {text[:200]}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    async def at(self, times: list[float], timeout_ms: int | None = None) -> Load:
        """Send a clip at each of these times from now, and wait for the last answer."""
        latencies: list[float] = []
        others: Counter[str] = Counter()
        loop = asyncio.get_running_loop()
        begun, cpu = loop.time(), time.process_time()

        async def send(place: int, due: float) -> None:
            await asyncio.sleep(begun + due - loop.time())
            try:
                status, _ = await self._post(place, timeout_ms)
            except _NO_ANSWER as error:
                others[type(error).__name__] += 1
                return
            if status == 200:
                latencies.append(loop.time() - begun - due)
            else:
                others[str(status)] += 1

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
            status, text = await self._post(place, None)
            if status != 200:
                raise DataError(f"{self._url} answers {status}: {text[:200]}")

        rate = await pace(score, clips, callers)
        return rate, (time.process_time() - cpu) / (time.perf_counter() - begun)

    async def _post(self, place: int, timeout_ms: int | None) -> tuple[int, str]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._send, place, timeout_ms)

    def _send(self, place: int, timeout_ms: int | None) -> tuple[int, str]:
        headers = {"Content-Type": "audio/wav"}
        if timeout_ms is not None:
            headers["X-Request-Timeout-Ms"] = str(timeout_ms)
        connection = self._connected()
        try:
            connection.request("POST", self._target, self._clips[place % _CLIPS], headers)
            with closing(connection.getresponse()) as answer:
                status, text = answer.status, answer.read().decode(errors="replace")
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)
        return status, text

    def _connected(self) -> HTTPConnection:
        """One that is kept and that the server has not closed since, else a new one."""
        with suppress(Empty):
            while (kept := self._idle.get_nowait()).sock is not None:
                closed = select.poll()
                closed.register(kept.sock, select.POLLIN)
                if not closed.poll(0):
                    return kept
                kept.close()
        return self._connection(*self._address, timeout=_TIMEOUT_S)


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
