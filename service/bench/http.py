"""A client that sends clips to a running server at a rate of its own, whether answers come or not.

Arrivals do not wait for answers: a server that is slow gets no fewer requests, and what each takes is counted from the
moment that it was due. Intervals are even, or those of a Poisson process.
"""

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass

import httpx
import numpy as np

from models.errors import DataError
from service.bench.workload import made_clips

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


def drive(options: argparse.Namespace) -> Load:
    """Send them all, and wait for the last answer.

    Raises
    ------
    DataError : where nobody answers at the address, or no machine type is named.
    """
    if options.machine_type is None:
        raise DataError("Name what to score with --machine-type; GET /sections of the server lists them.")
    return asyncio.run(_drive(options))


async def _drive(options: argparse.Namespace) -> Load:
    query = {"machine_type": options.machine_type, "section": options.section, "domain": "source"}
    headers = {"Content-Type": "audio/wav"}
    if options.timeout_ms is not None:
        headers["X-Request-Timeout-Ms"] = str(options.timeout_ms)
    clips = made_clips(_CLIPS)
    latencies: list[float] = []
    others: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=options.http, timeout=60.0, limits=limits, trust_env=False) as client:
        try:
            first = await client.post("/score", params=query, headers=headers, content=clips[0])
        except httpx.TransportError as error:
            raise DataError(f"Nobody answers at {options.http} ({error}). Start the server first.") from error
        if first.status_code != 200:
            raise DataError(f"{options.http} answers {first.status_code}: {first.text[:200]}")
        loop = asyncio.get_running_loop()
        begun, cpu = loop.time(), time.process_time()

        async def send(due: float, clip: bytes) -> None:
            await asyncio.sleep(begun + due - loop.time())
            try:
                answer = await client.post("/score", params=query, headers=headers, content=clip)
            except httpx.TransportError as error:
                others[type(error).__name__] += 1
                return
            if answer.status_code == 200:
                latencies.append(loop.time() - begun - due)
            else:
                others[str(answer.status_code)] += 1

        times = arrivals_s(options.arrivals, options.rate, options.seconds)
        await asyncio.gather(*(send(due, clips[place % _CLIPS]) for place, due in enumerate(times)))
        return Load(len(times), loop.time() - begun, tuple(latencies), others, time.process_time() - cpu)


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
