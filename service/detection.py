"""From the bytes of a clip to its assessment: decode, features, batch, assess. Knows nothing of HTTP.

Everything heavy runs in threads: decoding, features and scores in a pool, the networks in the batcher's own thread.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from models.assessment import Assessment
from models.audio import Clip, first_clip
from models.detector import Detector
from models.systems import Embeddings, Features, Inputs, TargetModel, joined, split, window_count
from models.vocabulary import Decision, Domain, SectionKey
from service.batching import Batcher, BatchObserver
from service.forecast import Forecast
from service.tracing import stage

Result = TypeVar("Result")
_CANARY_WINDOWS: Final = 2


class Detection:
    """One loaded detector with its threads and its queue."""

    def __init__(
        self,
        detector: Detector,
        *,
        threads: int,
        capacity: int,
        max_batch: int,
        max_clip_s: float,
        observer: BatchObserver,
    ) -> None:
        self.detector = detector
        self._max_clip_s = max_clip_s
        self._observer = observer
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clip")
        self.forecast = Forecast()
        self.batcher: Batcher[tuple[int, ...], Inputs, Embeddings] = Batcher(
            partial(_encode, detector), capacity=capacity, max_batch=max_batch, observer=observer
        )

    async def score(
        self,
        audio: bytes,
        key: SectionKey,
        domain: Domain,
        *,
        target: TargetModel | None,
        deadline: float,
        explain: bool = False,
    ) -> Assessment:
        """Score one clip, and explain it where it is anomalous or ``explain`` asks.

        ``target`` holds the target clips in force where the domain asks for them. Raises `QueueFull` where it cannot be
        done by the deadline with what is in hand.
        """

        def assess() -> Assessment:
            begun = time.perf_counter()
            assessment = self.detector.assess(key, domain, clip, features, embeddings, target=target)
            if explain or assessment.decision is Decision.ANOMALOUS:
                why = self.detector.explain(key, domain, clip, features, embeddings, target=target)
                assessment = dataclasses.replace(assessment, explanation=why)
            self._observer.observe_stage("score", time.perf_counter() - begun)
            return assessment

        with self.forecast.work(deadline) as grow:
            with stage("hear"):
                clip, features = await self.in_thread(self._hear, audio)
            grow(len(features.log_mels))
            with stage("embed"):
                embeddings = await self.embed(key, self.detector.inputs(features), deadline)
            with stage("assess"):
                return await self.in_thread(assess)

    async def check_canary(self) -> None:
        """Raise `CanaryError` where the bundle's clips have other scores here; what they took is the first forecast."""
        begun = time.perf_counter()
        await asyncio.to_thread(self.detector.check_canary)
        self.forecast.learn(time.perf_counter() - begun, _CANARY_WINDOWS)

    async def hear_first(self, audio: bytes, max_clip_s: float | None = None) -> tuple[Clip, Features]:
        """A target clip cut to its first ten seconds, and the features of that one window."""
        return await self.in_thread(self._hear, audio, max_clip_s, _cut)

    async def embed(self, key: SectionKey, inputs: Inputs, deadline: float) -> Embeddings:
        """The embeddings of windows, through the queue; none wait where no network needs to run."""
        if not inputs:
            return {}
        members = self.detector.members_of(key.machine_type)
        return await self.batcher.submit(members, inputs, size=window_count(inputs), deadline=deadline)

    async def in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call ``function`` in the pool; not at all if the caller is cancelled before a thread is free."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def close(self, grace_s: float) -> None:
        """Finish what is in hand, then stop the threads."""
        await self.batcher.drain(grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.detector.close)  # it waits for threads, and they may hang

    def _hear(
        self, audio: bytes, max_clip_s: float | None = None, fit: Callable[[Clip], Clip] | None = None
    ) -> tuple[Clip, Features]:
        begun = time.perf_counter()
        clip = self.detector.decode(audio, max_clip_s=max_clip_s or self._max_clip_s)
        decoded = time.perf_counter()
        clip = fit(clip) if fit is not None else clip
        features = self.detector.analyse(clip)
        self._observer.observe_stage("decode", decoded - begun)
        self._observer.observe_stage("features", time.perf_counter() - decoded)
        return clip, features


def _encode(detector: Detector, members: tuple[int, ...], clips: Sequence[Inputs]) -> list[Embeddings]:
    """No method: a batcher that held what holds it would keep a bundle out of service in memory."""
    embeddings = detector.encode_by(joined(clips), members)
    return split(embeddings, [window_count(clip) for clip in clips])


def _cut(clip: Clip) -> Clip:
    return dataclasses.replace(clip, waveform=first_clip(clip.waveform))
