"""Clips that wait together are scored together, each as what it was asked for."""

import asyncio
from typing import Any

import pytest

from models.assessment import Assessment
from models.bundle import Bundle
from models.detector import Detector
from models.encoder import Device
from models.systems import Features, TargetModel, WindowScores
from models.vocabulary import Domain, SectionKey
from service.detection import Detection
from tests.service.asking import target_clips
from tests.service.bundles import FAN_0, PUMP
from tests.service.holding import Held
from tests.service.servers import PATIENCE_S

FAR = 1e9


def registered(detector: Detector, seed: int) -> TargetModel:
    """Three target clips of fan 00."""
    clips = [detector.decode(content) for content in target_clips(FAN_0, seed)]
    features = Features.joined([detector.analyse(clip) for clip in clips])
    embeddings = detector.encode(detector.inputs(features), FAN_0.machine_type)
    return detector.fit_target(FAN_0, features, embeddings, [clip.level_dbfs for clip in clips])


def test_clips_of_a_batch_are_scored_as_what_each_was_asked_for(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a section, a domain and its target clips together, whoever stands between them; each as it is alone."""
    detector = Detector(bundle, device=Device.CPU, threads=1)
    ways = [
        (FAN_0, Domain.TARGET, registered(detector, 150)),
        (FAN_0, Domain.SOURCE, None),
        (PUMP, Domain.SOURCE, None),
        (FAN_0, Domain.TARGET, registered(detector, 160)),
        (FAN_0, Domain.TARGET, detector.bundle_target(FAN_0)),
    ]
    asked = [(*way, clip) for clip in target_clips(FAN_0, 300, count=2) for way in ways]
    alone = [
        detector.score(detector.decode(clip), key.machine_type, key.section, domain, target=target)
        for key, domain, target, clip in asked
    ]
    sizes, rate = list[int](), Detector.rate

    def rated(*arguments: Any, **options: Any) -> WindowScores:
        scores = rate(*arguments, **options)
        sizes.append(len(scores.decision))
        return scores

    async def scenario() -> None:
        detection = Detection(detector, threads=1, capacity=99, max_batch=32, max_clip_s=60.0)
        detection.batcher.start()
        encoding = Held(monkeypatch, Detector, "encode_by")
        monkeypatch.setattr(Detector, "rate", rated)

        def begin(key: SectionKey, domain: Domain, target: TargetModel | None, clip: bytes) -> asyncio.Task[Assessment]:
            return asyncio.create_task(detection.score(clip, key, domain, target=target, deadline=FAR))

        first = begin(*asked[0])
        await encoding.called()
        tasks = [begin(*one) for one in asked]
        async with asyncio.timeout(PATIENCE_S):
            while detection.batcher.depth < len(asked):
                await asyncio.sleep(0.01)
        encoding.may_end.set()
        await first
        found = await asyncio.gather(*tasks)
        await detection.close(PATIENCE_S)
        assert sorted(sizes) == [1, 2, 2, 2, 2, 2]
        for mine, other in zip(found, alone, strict=True):
            assert mine.decision == other.decision
            assert mine.anomaly_score == pytest.approx(other.anomaly_score, rel=1e-5)
            assert mine.decision_score == pytest.approx(other.decision_score, rel=1e-5)
        assert len({mine.anomaly_score for mine in found}) == len(asked)

    asyncio.run(scenario())
