"""The floor against a plain writing of its distance, and thresholds against slow re-fits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from threadpoolctl import threadpool_limits

from models.errors import NotTrainable
from models.vocabulary import Condition, Domain, SectionKey, Split
from tests.training.small import small_store
from training.baselines import floor
from training.baselines.contender import open_baseline
from training.baselines.floor import FloorScorer, SectionFloor, temporal_statistics
from training.baselines.run import BaselineRun, train_baseline
from training.calibration import deal_folds
from training.features import FeatureStore
from training.metrics import auc
from training.recordings import read_recordings
from training.scored import SystemName

REAL = Path(__file__).parents[2].parent / "shared" / "recordings"
FIRST, SECOND = SectionKey("fan", "00"), SectionKey("fan", "01")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as there are cores only wait for each other at these sizes."""
    with threadpool_limits(limits=1):
        yield


def store_with_target(*, target: int = 3) -> FeatureStore:
    """20 clips of two sections; the first section's last ones are of the target domain."""
    store = small_store()
    changed = [row for row in range(20) if row % 2 == 0][-target:] if target else []
    clips = tuple(
        replace(clip, recording=replace(clip.recording, domain=Domain.TARGET)) if row in changed else clip
        for row, clip in enumerate(store.clips)
    )
    return replace(store, clips=clips)


def plain_distance(x: NDArray[np.float64], y: NDArray[np.float64], source: NDArray[np.float64]) -> float:
    """sqrt((x - y)' S^-1 (x - y)), S the shrunk covariance of ``source``, by solving."""
    covariance, _ = ledoit_wolf(source)
    return float(np.sqrt((x - y) @ np.linalg.solve(covariance, x - y)))


def test_statistics_are_mean_and_deviation_of_each_bin_over_time() -> None:
    log_mels = small_store(2).log_mels
    found = temporal_statistics(log_mels)
    assert found.shape == (2, 256)
    for clip, row in zip(log_mels.astype(np.float64), found, strict=True):
        np.testing.assert_allclose(row[:128], [sum(clip[:, mel]) / 313 for mel in range(128)], rtol=1e-6)
        deviations = [np.sqrt(sum((clip[:, mel] - row[mel]) ** 2) / 313) for mel in range(128)]
        np.testing.assert_allclose(row[128:], deviations, rtol=1e-5)


def test_the_distance_is_a_plain_writings() -> None:
    """Source: to the source model. Target: the nearest of that and each target clip, under the same covariance."""
    random = np.random.default_rng(0)
    source, target = random.normal(0, 3, (9, 256)), random.normal(2, 3, (3, 256))
    clips = np.concatenate([source[:1], target[:1] + 0.1, random.normal(0, 3, (4, 256))])
    section = SectionFloor.of(source, target)
    for domain in Domain:
        references = [source.mean(axis=0), *(target if domain is Domain.TARGET else [])]
        expected = [min(plain_distance(clip, reference, source) for reference in references) for clip in clips]
        np.testing.assert_allclose(section.score(clips, domain), expected, rtol=1e-8)
    assert section.score(target, Domain.TARGET).max() == 0.0
    assert (section.score(target, Domain.SOURCE) > 1.0).all()


def test_thresholds_are_of_clips_that_the_model_has_not_seen() -> None:
    """Source: 90th percentile over the folds. Target: each clip compared with the other target clips alone."""
    store = store_with_target()
    done: list[int] = []
    arrays, thresholds = floor.fit(store, 4, done.append)
    assert sum(done) == 20
    assert set(thresholds) == {(FIRST, Domain.SOURCE), (FIRST, Domain.TARGET), (SECOND, Domain.SOURCE)}
    statistics, folds = temporal_statistics(store.log_mels), deal_folds(store.clips, 4)
    source, changed = [0, 2, 4, 6, 8, 10, 12], [14, 16, 18]
    held_out = []
    for row in source:
        seen = statistics[[other for other in source if folds[other] != folds[row]]]
        held_out.append(plain_distance(statistics[row], seen.mean(axis=0), seen))
    assert thresholds[FIRST, Domain.SOURCE] == pytest.approx(np.percentile(held_out, 90), rel=1e-8)
    left_out = []
    for row in changed:
        references = [statistics[source].mean(axis=0), *(statistics[other] for other in changed if other != row)]
        left_out.append(min(plain_distance(statistics[row], one, statistics[source]) for one in references))
    assert thresholds[FIRST, Domain.TARGET] == pytest.approx(np.percentile(left_out, 90), rel=1e-8)
    scorer = FloorScorer(arrays)
    assert scorer.score(store.log_mels[changed], FIRST, Domain.TARGET).max() < min(left_out)
    np.testing.assert_allclose(
        scorer.score(store.log_mels[:1], FIRST, Domain.SOURCE),
        [plain_distance(statistics[0], statistics[source].mean(axis=0), statistics[source])],
        rtol=1e-8,
    )


def test_a_lone_target_clip_is_compared_with_the_source_model() -> None:
    """Nothing else can be known of how far apart such clips are."""
    store = store_with_target(target=1)
    _, thresholds = floor.fit(store, 0, lambda _: None)
    statistics = temporal_statistics(store.log_mels)
    source = statistics[0:18:2]
    expected = plain_distance(statistics[18], source.mean(axis=0), source)
    assert thresholds[FIRST, Domain.TARGET] == pytest.approx(expected, rel=1e-8)


def test_sections_of_too_few_clips(caplog: pytest.LogCaptureFixture) -> None:
    """One source clip has no covariance; two have one, but none to hold out: a score without threshold."""
    store = small_store(4)
    pair = (store.clips[0], store.clips[2])
    alone = replace(store.clips[1], recording=replace(store.clips[1].recording, section="07"))
    some = replace(store, clips=(*pair, alone), log_mels=store.log_mels[[0, 2, 1]])
    arrays, thresholds = floor.fit(some, 0, lambda _: None)
    assert thresholds == {(FIRST, Domain.SOURCE): None}
    assert "fan section 07 has fewer than two source clips and is left out" in caplog.text
    assert np.isfinite(FloorScorer(arrays).score(some.log_mels, FIRST, Domain.SOURCE)).all()
    with pytest.raises(NotTrainable, match="No section has two clips"):
        floor.fit(replace(store, clips=(alone,), log_mels=store.log_mels[1:2]), 0, lambda _: None)


@pytest.mark.skipif(not REAL.exists(), reason="real recordings are not part of the project")
def test_real_sliders_faults_are_far_away(tmp_path: Path) -> None:
    """On slider 00 the floor is high: nine in ten faults lie farther than nine in ten normal clips."""
    recordings = [one for one in read_recordings([REAL / "dev_data" / "slider"]) if one.section == "00"]
    train_baseline(BaselineRun.of(recordings, SystemName.FLOOR, 0, tmp_path))
    floor_system = open_baseline(tmp_path)
    test = [one for one in recordings if one.split is Split.TEST]
    assert {floor_system.lacks(one) for one in test} == {None}
    scored = list(floor_system.score(test, lambda _: None))
    normal, anomalous = (
        np.array([clip.anomaly_score for clip in scored if clip.recording.condition is condition])
        for condition in (Condition.NORMAL, Condition.ANOMALY)
    )
    area = auc(normal, anomalous)
    assert area is not None
    assert area > 0.9
    assert all(clip.threshold is not None for clip in scored)
