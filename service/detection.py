"""From the bytes of a clip to its assessment: decode, features, batch, assess. Knows nothing of HTTP.

Everything heavy runs in threads: decoding, features and answers in a pool, networks and scores in the batcher's own
threads, where the clips of a section share what is read of its model.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from models.assessment import Assessment
from models.audio import Clip, first_clip
from models.detector import Detector
from models.systems import (
    Embeddings,
    Features,
    Inputs,
    TargetModel,
    WindowScores,
    joined,
    places,
    split,
    window_count,
)
from models.vocabulary import Decision, Domain, SectionKey
from service.batching import NOBODY, Batcher, BatchObserver
from service.forecast import Forecast
from service.tracing import stage

Result = TypeVar("Result")
_CANARY_WINDOWS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Rated:
    """Windows to score."""

    key: SectionKey
    domain: Domain
    target: TargetModel | None
    features: Features


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Those of a clip that waits for the networks; ``rated``: what they are to be scored as, None where not at all."""

    inputs: Inputs
    rated: _Rated | None = None


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
        observer: BatchObserver = NOBODY,
    ) -> None:
        self.detector = detector
        self._max_clip_s = max_clip_s
        self._observer = observer
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clip")
        self.forecast = Forecast()
        self.batcher: Batcher[tuple[int, ...], _Windows, tuple[Embeddings, WindowScores | None]] = Batcher(
            partial(_run, detector, observer), capacity=capacity, max_batch=max_batch, observer=observer
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

        def assess(scores: WindowScores) -> Assessment:
            assessment = self.detector.assess(key, domain, clip, scores, target=target)
            if explain or assessment.decision is Decision.ANOMALOUS:
                why = self.detector.explain(key, domain, clip, features, scores)
                assessment = dataclasses.replace(assessment, explanation=why)
            return assessment

        with self.forecast.work(deadline) as grow:
            with stage("hear"):
                clip, features = await self.in_thread(self._hear, audio)
            grow(len(features.log_mels))
            with stage("rate"):
                windows = _Windows(self.detector.inputs(features), _Rated(key, domain, target, features))
                _, scores = await self._submit(key, windows, deadline)
                assert scores is not None, "they were asked for"
            with stage("assess"):
                return await self.in_thread(assess, scores)

    async def check_canary(self) -> None:
        """Raise `CanaryError` where the bundle's clips have other scores here; what they took is the first forecast."""
        begun = time.perf_counter()
        await asyncio.to_thread(self.detector.check_canary)
        self.forecast.learn(time.perf_counter() - begun, _CANARY_WINDOWS)

    async def hear_first(self, audio: bytes, max_clip_s: float | None = None) -> tuple[Clip, Features]:
        """A target clip cut to its first ten seconds, and the features of that one window."""
        return await self.in_thread(self._hear, audio, max_clip_s, _cut)

    async def embed(self, key: SectionKey, inputs: Inputs, deadline: float) -> Embeddings:
        """The embeddings of windows, through the queue."""
        embeddings, _ = await self._submit(key, _Windows(inputs), deadline)
        return embeddings

    async def in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call ``function`` in the pool; not at all if the caller is cancelled before a thread is free."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def close(self, grace_s: float) -> None:
        """Finish what is in hand, then stop the threads."""
        await self.batcher.drain(grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.detector.close)  # it waits for threads, and they may hang

    async def _submit(
        self, key: SectionKey, windows: _Windows, deadline: float
    ) -> tuple[Embeddings, WindowScores | None]:
        """None wait where no network needs to run."""
        members = self.detector.members_of(key.machine_type)
        if not windows.inputs:
            return (await self.in_thread(_run, self.detector, self._observer, members, [windows]))[0]
        return await self.batcher.submit(members, windows, size=window_count(windows.inputs), deadline=deadline)

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


def _run(
    detector: Detector,
    observer: BatchObserver,
    members: tuple[int, ...],
    batch: Sequence[_Windows],
    free: Callable[[], None] | None = None,
) -> list[tuple[Embeddings, WindowScores | None]]:
    """No method: a batcher that held what holds it would keep a bundle out of service in memory."""
    begun = time.perf_counter()
    sizes = [window_count(clip.inputs) if clip.inputs else 0 for clip in batch]
    embeddings = split(detector.encode_by(joined([clip.inputs for clip in batch]), members, free), sizes)
    encoded = time.perf_counter()
    scores = _rate(detector, [clip.rated for clip in batch], embeddings)
    if any(clip.inputs for clip in batch):
        observer.observe_stage("encode", encoded - begun)
    if any(clip.rated is not None for clip in batch):
        observer.observe_stage("score", time.perf_counter() - encoded)
    return list(zip(embeddings, scores, strict=True))


def _rate(
    detector: Detector, batch: Sequence[_Rated | None], embeddings: Sequence[Embeddings]
) -> list[WindowScores | None]:
    """The scores of each clip; those of one section, domain and target are scored together."""
    alike: dict[object, list[tuple[int, _Rated]]] = {}
    for place, one in enumerate(batch):
        if one is not None:
            alike.setdefault((one.key, one.domain, id(one.target)), []).append((place, one))
    scores: list[WindowScores | None] = [None] * len(batch)
    for own in alike.values():
        _, first = own[0]
        together = detector.rate(
            first.key,
            first.domain,
            Features.joined([one.features for _, one in own]),
            joined([embeddings[place] for place, _ in own]),
            target=first.target,
        )
        sizes = [len(one.features.log_mels) for _, one in own]
        for (place, _), rows in zip(own, places(sizes), strict=True):
            scores[place] = together.of(rows)
    return scores


def _cut(clip: Clip) -> Clip:
    return dataclasses.replace(clip, waveform=first_clip(clip.waveform))
