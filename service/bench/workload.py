"""What is measured: clips of made sound, and a bundle of as many members as one likes.

The bundle's networks are the demonstration bundle's, again and again: each runs in a session of its own with weights of
its own memory, so that the arithmetic, the threads and the caches are those of an ensemble that was trained. Its
mixtures are of random unit vectors about random centres, in the sizes of the paper: S in {1, 2, 4, 8, 16} in turn, one
mixture a section and one an attribute.
"""

import asyncio
import io
import time
import wave
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ
from models.bundle import Bundle, SectionCalibration, read_bundle, write_bundle
from models.decision import Calibration
from models.detector import Detector
from models.encoder import EMBEDDING_SIZE, Device
from models.manifest import ClipCounts, MachineTypeEntry, Manifest, SectionEntry
from models.mixtures import REGULARISATION, Mixture, clip_mixture, low_rank_mixture
from models.scoring import MemberModel, SectionModel
from models.vocabulary import Domain, LossChoice, SectionKey, ThresholdRule

KEY: Final = SectionKey("bench", "00")
ATTRIBUTES: Final = tuple(f"load-{number}" for number in range(5))
TARGET_CLIPS: Final = 3
_SUB_CLUSTERS: Final = (1, 2, 4, 8, 16)
_NOISE: Final = 0.3


def made_clips(count: int, seed: int = 0) -> list[bytes]:
    """Ten-second WAV files, 16 bit, of hum and noise."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ
    clips = []
    for _ in range(count):
        hum = sum(0.1 / k * np.sin(2 * np.pi * rng.uniform(45, 55) * k * time_s) for k in range(1, 12))
        samples = hum + 0.02 * rng.standard_normal(CLIP_SAMPLES)
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(SAMPLE_RATE_HZ)
            out.writeframes((samples * 32767.0).astype("<i2").tobytes())
        clips.append(file.getvalue())
    return clips


def write_made_bundle(folder: Path, demonstration: Path, members: int, clips: int) -> Bundle:
    """Write a bundle of ``members`` networks and one section that was fitted on ``clips`` clips, made up."""
    known = read_bundle(demonstration)
    rng = np.random.default_rng(members)
    files = [list(known.embedders.values())[place % len(known.embedders)] for place in range(members)]
    entries = [
        replaced.model_copy(update={"id": f"m{place}", "file": f"m{place}.onnx", "sub_clusters": _sub_clusters(place)})
        for place in range(members)
        for replaced in [known.manifest.members[place % len(known.manifest.members)]]
    ]
    counts = ClipCounts(source=clips, target=TARGET_CLIPS)
    section = SectionEntry(domains=tuple(Domain), attributes=ATTRIBUTES, clips=counts)
    manifest = Manifest.model_validate(
        dict(known.manifest)
        | {
            "members": tuple(entries),
            "machine_types": {KEY.machine_type: MachineTypeEntry(loss=LossChoice.SUM, sections={KEY.section: section})},
            "files": {},
        }
    )
    model = SectionModel(
        tuple(_member(rng, _sub_clusters(place), clips) for place in range(members)), temporal_maximum=None
    )
    sound = next(iter(known.calibrations.values()))
    calibrations = {
        (KEY, domain): _calibration(sound, rng, count)
        for domain, count in ((Domain.SOURCE, clips), (Domain.TARGET, TARGET_CLIPS))
    }
    embedders = {entry.file: content for entry, content in zip(entries, files, strict=True)}
    bundle = Bundle(manifest, embedders, {KEY: model}, calibrations)
    detector = Detector(bundle, device=Device.CPU)
    assert known.canary is not None, "a bundle that was read has one"
    canary = detector.record_canary(known.canary.waveforms, KEY, Domain.SOURCE)
    detector.close()
    return write_bundle(folder, replace(bundle, canary=canary))


def _sub_clusters(place: int) -> int:
    return _SUB_CLUSTERS[place % len(_SUB_CLUSTERS)]


def _member(rng: np.random.Generator, sub_clusters: int, clips: int) -> MemberModel:
    centers = _unit(rng.standard_normal((sub_clusters, EMBEDDING_SIZE)))
    owners = rng.integers(sub_clusters, size=clips)
    x = _unit(centers[owners] + _NOISE * rng.standard_normal((clips, EMBEDDING_SIZE)) / np.sqrt(EMBEDDING_SIZE))
    attribute_of = np.arange(clips) % len(ATTRIBUTES)
    return MemberModel(
        section=_mixture(x, owners),
        attributes={
            name: _mixture(x[attribute_of == place], owners[attribute_of == place])
            for place, name in enumerate(ATTRIBUTES)
        },
        target=clip_mixture(x[:TARGET_CLIPS]),
    )


def _mixture(x: NDArray[np.float64], owners: NDArray[np.int64]) -> Mixture:
    """What EM would end at where every clip belongs to one component."""
    groups = [x[owners == owner] for owner in np.unique(owners)]
    noise = REGULARISATION * np.eye(x.shape[1])
    return low_rank_mixture(
        np.array([len(group) / len(x) for group in groups]),
        np.stack([group.mean(axis=0) for group in groups]),
        np.stack([np.cov(group, rowvar=False, ddof=0) + noise for group in groups]),
        REGULARISATION,
        np.float32,
    )


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def _calibration(sound: SectionCalibration, rng: np.random.Generator, count: int) -> SectionCalibration:
    return replace(sound, calibration=Calibration.from_scores(rng.standard_normal(count), ThresholdRule.PAPER))


def key_of(sections: Sequence[SectionKey]) -> SectionKey:
    """The section that is measured: the first."""
    return min(sections)


async def pace(score: Callable[[int], Awaitable[None]], clips: int, callers: int) -> float:
    """Clips a second where ``callers`` always wait for one each, of whom the first and the last do not count.

    Answers come in batches: the pace is the slope of their number over time, which no batch's end can move much.
    """
    left, ends = iter(range(clips + 2 * callers)), list[float]()

    async def caller() -> None:
        for place in left:
            await score(place)
            ends.append(time.perf_counter())

    await asyncio.gather(*(caller() for _ in range(callers)))
    steady = np.array(ends[callers:-callers])
    slope: float = np.polyfit(steady - steady[0], np.arange(len(steady)), 1)[0]
    return slope
