"""A service in a process of its own, driven in turns with the encoder alone: what of its pace is left over HTTP.

Each round measures the encoder, then the service saturated, which is its capacity in this round; a clip alone; half of
the capacity with even and with Poisson arrivals; and twice the capacity with a deadline. All of it shares the machine's
cores with the client, whose own CPU is told.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np

from models.bundle import read_bundle
from models.errors import DataError
from service.bench.contender import CALLERS, Contender
from service.bench.http import Client, arrivals_s
from service.bench.report import spread
from service.bench.workload import key_of

_READY_S: Final = 120.0
_ALONE: Final = 9
_DEADLINE_MS: Final = 5000
_BATCH: Final = 8
"""The encoder's best on a CPU."""


class _Service:
    """``python -m service serve`` over a bundle, on a free port. Use it in a ``with``."""

    def __init__(self, folder: Path, work: Path, threads: int) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = work / "log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EARWITNESS_")}
        environment = {"EARWITNESS_DATABASE": str(work / "db"), "EARWITNESS_THREADS": str(threads)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  this program, on a folder that the user named
                [sys.executable, "-m", "service", "serve", "--bundle", str(folder), "--port", str(port)],
                env={**inherited, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        until = time.monotonic() + _READY_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return self
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.05)
        self._process.kill()
        raise DataError(f"The service did not come up: {self._log.read_text()[-400:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def resident_mib(self) -> float:
        """Its memory, without the files that it maps."""
        words = dict(line.split(":", 1) for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines())
        return int(words["RssAnon"].split()[0]) / 1024.0


@dataclass(slots=True)
class Served:
    """What each round gave; latencies in times of a clip alone in the same round."""

    encoder: list[float] = field(default_factory=list)  # clips a second
    direct: list[float] = field(default_factory=list)
    saturated: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)  # its share of a core at saturation
    alone_s: list[float] = field(default_factory=list)
    half: dict[str, list[float]] = field(default_factory=lambda: {"fixed": [], "poisson": []})
    twice_s: list[float] = field(default_factory=list)  # latencies of those that were scored
    twice: Counter[str] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)


def measure(folder: Path, threads: int, rounds: int, seconds: float) -> Served:
    """Let the encoder and the service take turns."""
    key, served = key_of(read_bundle(folder).manifest.sections), Served()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(Contender("ours", "ours", folder, threads=threads, blas_threads=1))
        service = stack.enter_context(_Service(folder, work, threads))
        for place in range(rounds):
            run: dict[str, Any] = ours.ask("run", batch=_BATCH)
            served.encoder.append(_BATCH / run["parts"]["encode"])
            served.direct.append(ours.ask("answers", batch=_BATCH))
            asyncio.run(_round(served, Client(service.url, key.machine_type, key.section), seconds, place))
            served.memory_mib.append(service.resident_mib())
    return served


async def _round(served: Served, client: Client, seconds: float, seed: int) -> None:
    async with client:
        capacity, own = await client.saturate(4 * CALLERS, CALLERS)
        served.saturated.append(capacity)
        served.client.append(own)
        alone_s = float(np.median([(await client.at([0.0])).latencies_s for _ in range(_ALONE)]))
        served.alone_s.append(alone_s)
        for kind, latencies in served.half.items():
            half = await client.at(arrivals_s(kind, capacity / 2.0, seconds, seed))
            latencies.extend(latency / alone_s for latency in half.latencies_s)
        twice = await client.at(arrivals_s("poisson", 2.0 * capacity, seconds, seed), _DEADLINE_MS)
        served.twice_s.extend(twice.latencies_s)
        served.twice.update({"200": len(twice.latencies_s)}, **twice.others)


def print_served(served: Served, threads: int) -> None:
    """For people."""
    saturated = np.array(served.saturated)
    print(f"A service with {threads} threads and its client on one machine; {len(saturated)} rounds in turns.")
    print(f"Load average {os.getloadavg()[0]:.1f} after. Medians (quartiles), ratios within a round.")
    print(
        f"saturated: {spread(saturated)} clips/s, {spread(100 * saturated / np.array(served.encoder), 0)} % of the "
        f"encoder alone at batch {_BATCH}, {spread(100 * saturated / np.array(served.direct), 0)} % of the direct way "
        f"with explanations; the client takes {spread(100 * np.array(served.client), 0)} % of a core"
    )
    print(f"one clip alone: {spread(1e3 * np.array(served.alone_s), 1)} ms")
    for kind, latencies in served.half.items():
        p50, p99 = np.percentile(latencies, (50, 99))
        print(f"half load, {kind}: p50 {p50:.2f}, p99 {p99:.2f} times a clip alone, of {len(latencies)}")
    print(
        f"twice the capacity, {_DEADLINE_MS} ms: "
        + ", ".join(f"{name} x {count}" for name, count in sorted(served.twice.items()))
        + f"; scored within {max(served.twice_s, default=0.0):.2f} s"
    )
    print("memory after each round, MiB: " + ", ".join(f"{one:.0f}" for one in served.memory_mib))
