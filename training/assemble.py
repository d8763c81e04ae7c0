"""The last stages of a run: mixtures and calibration of every section from the embeddings, and the bundle of it all."""

import logging
import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ
from models.bundle import LEVEL_QUANTILES, Bundle, CalibrationKey, SectionCalibration, write_bundle
from models.detector import Detector
from models.encoder import Device
from models.frontend import LogMelSpec, temporal_maximum
from models.manifest import (
    ClipCounts,
    FrontEnd,
    MachineTypeEntry,
    Manifest,
    MemberEntry,
    SectionEntry,
    Standardisation,
)
from models.scoring import SectionModel
from models.vocabulary import Domain, LossChoice, SectionKey
from training.backends import MemberCenters, TrainingSet, dropped_components, fit_sections
from training.calibration import calibrate
from training.curves import Curve
from training.export import member_name
from training.features import FeatureStore, TrainingClip
from training.fit import Snapshot
from training.progress import Advance
from training.recipe import Recipe

_log = logging.getLogger(__name__)

LIBRARIES = ("numpy", "scipy", "scikit-learn", "onnxruntime", "keras", "tensorflow-cpu", "tensorflow", "tf2onnx", "jax")


def assemble_bundle(
    store: FeatureStore,
    members: Sequence[tuple[Snapshot, Path]],
    embeddings: NDArray[np.float32],
    recipe: Recipe,
    seed: int,
    folder: Path,
    *,
    limited_epochs: Mapping[str, int],
    curves: Mapping[str, Curve],
    demonstration: bool,
    advance: Advance,
) -> Bundle:
    """Fit, calibrate and write.

    Parameters
    ----------
    store : the features; clips at other speeds than their own enter no section.
    members : each snapshot with its ONNX file, in the order of the manifest.
    embeddings : (clips at their own speed, members, 128), L2-normalised.
    folder : the bundle's, which must not exist yet.
    limited_epochs : by network, in how many epochs an AdaCos scale met its limit.
    curves : by network, how its training went.
    advance : called once a clip for the mixtures and once for the calibration.

    Raises
    ------
    BundleError : where the bundle cannot be written.
    """
    rows = np.flatnonzero([clip.speed == 1.0 for clip in store.clips])
    clips = [store.clips[row] for row in rows]
    sections: dict[SectionKey, SectionModel] = {}
    calibrations: dict[CalibrationKey, SectionCalibration] = {}
    dropped: dict[str, int] = {}
    for machine_type in sorted({clip.recording.machine_type for clip in clips}):
        loss = recipe.loss_of(machine_type)
        own = np.flatnonzero([clip.recording.machine_type == machine_type for clip in clips])
        used = [i for i, (snapshot, _) in enumerate(members) if loss in {LossChoice.SUM, snapshot.network.heads}]
        maxima = [temporal_maximum(store.log_mels[rows[i]], store.mean, store.deviation) for i in own]
        training = TrainingSet(
            clips=[clips[i] for i in own], embeddings=embeddings[own][:, used], t_max=np.stack(maxima)
        )
        centers = [class_centers(members[i][0]) for i in used]
        fitted = fit_sections(
            training,
            centers,
            temporal_maximum_types=recipe.temporal_maximum,
            regularisation=recipe.regularisation,
            backend=recipe.backend,
            target_smote=recipe.target_smote,
            seed=seed,
            advance=advance,
        )
        sections |= fitted
        if n_dropped := dropped_components(training, fitted, centers):
            dropped[machine_type] = n_dropped
        calibrated = calibrate(
            training,
            fitted,
            centers,
            rule=recipe.calibration,
            percentile=recipe.percentile,
            temporal_maximum_types=recipe.temporal_maximum,
            regularisation=recipe.regularisation,
            backend=recipe.backend,
            target_smote=recipe.target_smote,
            seed=seed,
            advance=advance,
        )
        for (key, domain), calibration in calibrated.items():
            if domain is Domain.TARGET and not len(calibration.scores):
                continue  # too few target clips for a mixture: the section has no target domain yet
            facts = [rows[i] for i in own if (clips[i].recording.key, clips[i].recording.domain) == (key, domain)]
            calibrations[key, domain] = SectionCalibration(calibration, *_sound_of(store, facts))
    training_data: dict[str, JsonValue] = {
        "clips": len(clips),
        "recordings": len({clip.recording.path for clip in clips}),
        "contrast_clips": len(store.clips) - len(clips),
        **_reported({"scale_limited_epochs": limited_epochs, "dropped_components": dropped}),
        "curves": {name: {column: [*values] for column, values in curve.items()} for name, curve in curves.items()},
    }
    manifest = _manifest(
        store, members, recipe, seed, clips, sections, calibrations, training_data, demonstration=demonstration
    )
    embedders = {path.name: path.read_bytes() for _, path in members}
    bundle = Bundle(manifest, embedders, sections, calibrations)
    with closing(Detector(bundle, device=Device.CPU)) as detector:
        canary = detector.record_canary(canary_waveforms(), min(sections), Domain.SOURCE)
    return write_bundle(folder, Bundle(manifest, embedders, sections, calibrations, canary))


def _reported(findings: Mapping[str, Mapping[str, int]]) -> dict[str, JsonValue]:
    """What came out otherwise than asked for, by name: in the manifest, and for who trains."""
    found: dict[str, JsonValue] = {}
    for what, counts in findings.items():
        if own := {name: count for name, count in counts.items() if count}:
            _log.warning("%s: %s", what.replace("_", " "), ", ".join(f"{name} {n}" for name, n in own.items()))
            found[what] = dict(own)
    return found


def canary_waveforms() -> NDArray[np.float32]:
    """Two made sounds, (2, 160000): nobody's recordings travel in a bundle to prove that it loads."""
    random = np.random.default_rng(2021)
    time_s = np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ
    hum = sum(0.1 / k * np.sin(2 * np.pi * 49.0 * k * time_s) for k in range(1, 20))
    clicks = 0.3 * (np.sin(2 * np.pi * 3.0 * time_s) > 0.999) * random.normal(size=CLIP_SAMPLES)
    noise = 0.02 * random.normal(size=(2, CLIP_SAMPLES))
    return np.stack([hum + noise[0], clicks + 0.3 * hum + noise[1]]).astype(np.float32)


def class_centers(snapshot: Snapshot) -> MemberCenters:
    """The class centres of a snapshot by section and by attribute class; contrast classes have no section."""
    return MemberCenters(
        sections={SectionKey(*names): c for names, c in snapshot.section_centers.items() if len(names) == 2},
        attributes=snapshot.attribute_centers,
        sub_clusters=snapshot.network.sub_clusters,
    )


def _sound_of(store: FeatureStore, rows: Sequence[int]) -> tuple[NDArray[np.float64], ...]:
    """Mean and deviation of each mel band over the clips' frames, and the quantiles of their levels."""
    total, square, frames = np.zeros(store.log_mels.shape[-1]), np.zeros(store.log_mels.shape[-1]), 0
    for row in rows:
        log_mel = store.log_mels[row].astype(np.float64)
        total, square, frames = total + log_mel.sum(axis=0), square + (log_mel**2).sum(axis=0), frames + len(log_mel)
    mean = total / frames
    deviation = np.sqrt(np.maximum(0.0, square / frames - mean**2))
    return mean, deviation, np.quantile(store.levels_dbfs[list(rows)], LEVEL_QUANTILES)


def _manifest(
    store: FeatureStore,
    members: Sequence[tuple[Snapshot, Path]],
    recipe: Recipe,
    seed: int,
    clips: Sequence[TrainingClip],
    sections: Mapping[SectionKey, SectionModel],
    calibrations: Mapping[CalibrationKey, SectionCalibration],
    training_data: Mapping[str, JsonValue],
    *,
    demonstration: bool,
) -> Manifest:
    return Manifest(
        demonstration=demonstration,
        front_end=FrontEnd.from_spec(LogMelSpec()),
        standardisation=Standardisation(mean=tuple(store.mean.tolist()), deviation=tuple(store.deviation.tolist())),
        members=tuple(
            MemberEntry(
                id=member_name(snapshot),
                file=path.name,
                network=snapshot.network.name,
                sub_clusters=snapshot.network.sub_clusters,
                heads=snapshot.network.heads,
                snapshot_epoch=snapshot.epoch,
                scale_limited=snapshot.limited,
            )
            for snapshot, path in members
        ),
        machine_types={
            machine_type: MachineTypeEntry(
                loss=recipe.loss_of(machine_type),
                sections={
                    key.section: SectionEntry(
                        domains=tuple(domain for domain in Domain if (key, domain) in calibrations),
                        attributes=_attributes(clips, key),
                        clips=ClipCounts(**{domain.value: _count(clips, key, domain) for domain in Domain}),
                    )
                    for key in sections
                    if key.machine_type == machine_type
                },
            )
            for machine_type in sorted({key.machine_type for key in sections})
        },
        target_smote=recipe.target_smote,
        recipe={**recipe.as_json(), "seed": seed},
        training_data=dict(training_data),
        versions={"python": platform.python_version(), **_versions()},
    )


def _count(clips: Sequence[TrainingClip], key: SectionKey, domain: Domain) -> int:
    return sum((clip.recording.key, clip.recording.domain) == (key, domain) for clip in clips)


def _attributes(clips: Sequence[TrainingClip], key: SectionKey) -> tuple[str, ...]:
    """Those of the section's source clips."""
    own = (clip.recording for clip in clips if clip.recording.key == key)
    return tuple(sorted({recording.attribute_name for recording in own if recording.domain is Domain.SOURCE}))


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            _log.debug("%s is not installed", library)
    return found
