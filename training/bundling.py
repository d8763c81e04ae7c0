"""What every bundle says of its training clips, and how it is given its canary and written."""

import io
import logging
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from pydantic import JsonValue

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ, Clip
from models.bundle import LEVEL_QUANTILES, Bundle, CalibrationKey, SectionCalibration, write_bundle
from models.decision import Calibration
from models.detector import Detector
from models.encoder import Device
from models.errors import BundleError
from models.frontend import LogMelSpec
from models.manifest import ClipCounts, FrontEnd, MachineTypeEntry, SectionEntry, Standardisation
from models.vocabulary import Domain, LossChoice, SectionKey
from training.features import FeatureStore, TrainingClip
from training.recipe import Recipe

_log = logging.getLogger(__name__)

LIBRARIES = ("numpy", "scipy", "scikit-learn", "onnxruntime", "keras", "tensorflow-cpu", "tensorflow", "tf2onnx", "jax")


def common_facts(
    store: FeatureStore,
    recipe: Recipe,
    seed: int,
    training_data: Mapping[str, JsonValue],
    *,
    demonstration: bool,
) -> dict[str, Any]:
    """What every manifest says."""
    return {
        "demonstration": demonstration,
        "front_end": FrontEnd.from_spec(LogMelSpec()),
        "standardisation": Standardisation(mean=tuple(store.mean.tolist()), deviation=tuple(store.deviation.tolist())),
        "recipe": {**recipe.as_json(), "seed": seed},
        "training_data": dict(training_data),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def machine_types_of(
    clips: Sequence[TrainingClip],
    keys: Collection[SectionKey],
    calibrations: Mapping[CalibrationKey, SectionCalibration],
    loss_of: Callable[[str], LossChoice],
) -> dict[str, MachineTypeEntry]:
    """The sections, by machine type; ``loss_of``: whose members score a machine type."""
    return {
        machine_type: MachineTypeEntry(
            loss=loss_of(machine_type),
            sections={
                key.section: SectionEntry(
                    domains=tuple(domain for domain in Domain if (key, domain) in calibrations),
                    attributes=_attributes(clips, key),
                    clips=ClipCounts(**{domain.value: _count(clips, key, domain) for domain in Domain}),
                )
                for key in keys
                if key.machine_type == machine_type
            },
        )
        for machine_type in sorted({key.machine_type for key in keys})
    }


def refuse_place(out: Path) -> None:
    """Say before any work, not after it, that no bundle can be written there.

    Raises
    ------
    BundleError : where the folder is there, or none can be made.
    """
    if os.path.lexists(out):
        raise BundleError(out, "exists already, and a bundle is never changed. Name another folder.")
    place = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise BundleError(out, f"{place} is no folder that can be written to. Name another place for the bundle.")


def with_sounds(
    store: FeatureStore, calibrated: Mapping[CalibrationKey, Calibration]
) -> dict[CalibrationKey, SectionCalibration]:
    """Calibrations beside what their clips sound like; a target domain without scores has too few clips to be one."""
    rows: defaultdict[CalibrationKey, list[int]] = defaultdict(list)
    for row, clip in enumerate(store.clips):
        if clip.speed == 1.0:
            rows[clip.recording.key, clip.recording.domain].append(row)
    return {
        (key, domain): SectionCalibration(calibration, *_sound_of(store, rows[key, domain]))
        for (key, domain), calibration in calibrated.items()
        if domain is Domain.SOURCE or len(calibration.scores)
    }


def _sound_of(store: FeatureStore, rows: Sequence[int]) -> tuple[NDArray[np.float64], ...]:
    """Mean and deviation of each mel band over the clips' frames, and the quantiles of their levels."""
    total, square, frames = np.zeros(store.log_mels.shape[-1]), np.zeros(store.log_mels.shape[-1]), 0
    for row in rows:
        log_mel = store.log_mels[row].astype(np.float64)
        total, square, frames = total + log_mel.sum(axis=0), square + (log_mel**2).sum(axis=0), frames + len(log_mel)
    mean = total / frames
    deviation = np.sqrt(np.maximum(0.0, square / frames - mean**2))
    return mean, deviation, np.quantile(store.levels_dbfs[list(rows)], LEVEL_QUANTILES)


def write_with_canary(folder: Path, bundle: Bundle) -> Bundle:
    """Give the bundle its canary, and write it."""
    with closing(Detector(bundle, device=Device.CPU)) as detector:
        canary = detector.record_canary(canary_waveforms(), min(bundle.sections), Domain.SOURCE)
    return write_bundle(folder, replace(bundle, canary=canary))


def made_clip(detector: Detector) -> Clip:
    """Ten made seconds as a detector decodes a recording, to measure what a clip takes."""
    file = io.BytesIO()
    soundfile.write(file, canary_waveforms()[0], SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return detector.decode(file.getvalue())


def canary_waveforms() -> NDArray[np.float32]:
    """Two made sounds, (2, 160000): nobody's recordings travel in a bundle to prove that it loads."""
    random = np.random.default_rng(2021)
    time_s = np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ
    hum = sum(0.1 / k * np.sin(2 * np.pi * 49.0 * k * time_s) for k in range(1, 20))
    clicks = 0.3 * (np.sin(2 * np.pi * 3.0 * time_s) > 0.999) * random.normal(size=CLIP_SAMPLES)
    noise = 0.02 * random.normal(size=(2, CLIP_SAMPLES))
    return np.stack([hum + noise[0], clicks + 0.3 * hum + noise[1]]).astype(np.float32)


def n_recordings(clips: Sequence[TrainingClip]) -> int:
    """How many files the clips are of."""
    return len({clip.recording.path for clip in clips})


def _attributes(clips: Sequence[TrainingClip], key: SectionKey) -> tuple[str, ...]:
    """Those of the section's source clips."""
    own = (clip.recording for clip in clips if clip.recording.key == key)
    return tuple(sorted({recording.attribute_name for recording in own if recording.domain is Domain.SOURCE}))


def _count(clips: Sequence[TrainingClip], key: SectionKey, domain: Domain) -> int:
    return sum((clip.recording.key, clip.recording.domain) == (key, domain) for clip in clips)


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            _log.debug("%s is not installed", library)
    return found
