"""A way in a process of its own, which is stopped while it is not its turn.

The naive way's threads spin while they wait, and its matrix library takes all cores: in one process with ours, or
beside it, each would slow the other. So each contender is a process; the parent lets one of them run at a time
(SIGSTOP, SIGCONT) and asks it, by a line of JSON, for one measurement, which comes back as a line of JSON.

``python -m service.bench.contender ours|naive BUNDLE THREADS`` is what `Contender` starts.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final, Self

from models.errors import DataError

_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_PEAK_SIZE = 1024
"""Of the matrices whose product is the machine's peak: 2.1 GFLOP, 12 MB."""
CALLERS: Final = 16
"""At once, where a service is saturated: while a batch of the most that a CPU takes runs, as many wait."""
_ALONE: Final = 5
_MIXTURES: Final = 20
_ELSEWHERE: Final = 6_000_000
"""Numbers of 8 bytes: more than a cache holds."""


class Contender:
    """The parent's side: a process that measures when it is asked. Use it in a ``with``."""

    def __init__(self, name: str, way: str, bundle: Path, *, threads: int, blas_threads: int | None) -> None:
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key not in _BLAS}
        if blas_threads is not None:
            environment |= dict.fromkeys(_BLAS, str(blas_threads))
        self._process = subprocess.Popen(  # noqa: S603  this program, on a folder that the user named
            [sys.executable, "-m", "service.bench.contender", way, str(bundle), str(threads)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._answer()
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, what: str, **arguments: Any) -> Any:
        """Let the process run until it has answered."""
        assert self._process.stdin is not None, "it is a pipe"
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
            self._process.stdin.flush()
            return self._answer()
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None, "it is a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise DataError(f"The process of {self.name!r} ended with {self._process.wait()}; its words stand above.")
        return json.loads(line)


def _serve(way_name: str, folder: Path, threads: int) -> None:
    """The child's side: one line in, one line out, until the parent ends it."""
    import numpy as np  # noqa: PLC0415  after the environment is set

    from models.encoder import EMBEDDING_SIZE, l2_normalised  # noqa: PLC0415
    from models.vocabulary import SubSystem  # noqa: PLC0415
    from service.bench.ways import Naive, Ours, Way, librosa_front_end  # noqa: PLC0415
    from service.bench.workload import made_clips  # noqa: PLC0415

    way: Way = Ours(folder, threads) if way_name == "ours" else Naive(folder)
    clips = made_clips(32)

    def run(batch: int) -> dict[str, Any]:
        way.run(clips[:batch])  # what was stopped finds caches cold and, in some sandboxes, none of its pages mapped
        cpu = time.process_time()
        begun = time.perf_counter()
        scores, parts = way.run(clips[:batch])
        return {
            "wall_s": time.perf_counter() - begun,
            "cpu_s": time.process_time() - cpu,
            "parts": parts,
            "scores": scores.tolist(),
        }

    def mixtures(members: int) -> dict[str, float]:
        x = l2_normalised(np.random.default_rng(0).standard_normal((1, members, EMBEDDING_SIZE), np.float32))
        seconds, elsewhere = [], np.zeros(_ELSEWHERE)
        for _ in range(_MIXTURES):
            elsewhere += 1.0  # the networks leave nothing of the mixtures in the caches
            begun = time.thread_time()
            score = way.rate(x)
            seconds.append(time.thread_time() - begun)
        return {"seconds": median(seconds), "score": float(score[0])}

    asked: Mapping[str, Callable[..., Any]] = {
        "run": run,
        "mixtures": mixtures,
        "memory": _memory_mib,
        "peak": lambda: _peak(threads),
    }
    facts: dict[str, Any] = {}
    if isinstance(way, Ours):

        def answers(batch: int) -> float:
            begun = time.perf_counter()
            way.run(clips[:batch], explained=True)
            return batch / (time.perf_counter() - begun)

        queue = _Queue(way, clips, threads)
        asked = {**asked, "alone": queue.alone, "saturated": queue.saturated, "answers": answers}
        manifest = way.detector.bundle.manifest
        of_folds = sum(network.kind is SubSystem.R for network in manifest.fold_networks)
        facts["members"] = len(manifest.members_of(way.key.machine_type)) if manifest.members else of_folds
    elif isinstance(way, Naive):
        facts["librosa"] = librosa_front_end(way.spec) is not None
    way.run(clips[:1])
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(asked[request.pop("what")](**request)), flush=True)


class _Queue:
    """Ours as the service runs it: through its threads and its batcher, without HTTP."""

    def __init__(self, way: Any, clips: list[bytes], threads: int) -> None:
        from service.detection import Detection  # noqa: PLC0415
        from service.settings import Settings  # noqa: PLC0415

        settings = Settings()
        self._loop = asyncio.new_event_loop()
        self._way = way
        self._clips = clips
        self._key = way.key
        self._detection = Detection(
            way.detector,
            threads=threads,
            capacity=settings.queue_capacity,
            max_batch=settings.max_batch_windows,
            max_clip_s=settings.max_clip_s,
        )
        self._loop.run_until_complete(self._start())

    async def _start(self) -> None:
        self._detection.batcher.start()

    async def _score(self, place: int) -> None:
        from models.vocabulary import Domain  # noqa: PLC0415

        due = self._loop.time() + 600.0
        await self._detection.score(
            self._clips[place % len(self._clips)], self._key, Domain.SOURCE, target=None, deadline=due
        )

    def alone(self) -> dict[str, float]:
        """Seconds of one clip that nobody else is beside, through the queue and by a direct call, in turns."""
        queued, direct = [], []
        for place in range(_ALONE):
            begun = time.perf_counter()
            self._loop.run_until_complete(self._score(place))
            answered = time.perf_counter()
            self._way.run(self._clips[place : place + 1], explained=True)
            queued.append(answered - begun)
            direct.append(time.perf_counter() - answered)
        return {"queued": median(queued), "direct": median(direct)}

    def saturated(self) -> float:
        """Clips a second of callers of whom one more always waits."""
        from service.bench.workload import pace  # noqa: PLC0415

        return self._loop.run_until_complete(pace(self._score, 4 * CALLERS, CALLERS))


def _peak(threads: int) -> float:
    """GFLOP a second of the machine's matrix product in float32, on every core at once."""
    import numpy as np  # noqa: PLC0415

    a = np.random.default_rng(0).standard_normal((_PEAK_SIZE, _PEAK_SIZE), np.float32)

    def product() -> float:
        begun = time.perf_counter()
        a @ a
        return time.perf_counter() - begun

    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        for one in [pool.submit(product) for _ in range(threads)]:
            one.result()
        return threads * 2.0 * _PEAK_SIZE**3 / (time.perf_counter() - begun) / 1e9


def _memory_mib() -> dict[str, float]:
    """Resident memory now and at most."""
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(words[name].split()[0]) / 1024.0 for name in ("VmRSS", "VmHWM")}


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
