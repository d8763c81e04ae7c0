"""New or refreshed sections on a bundle's own networks: a machine added on a Monday, without training.

The networks have never heard the new clips: they are analysed, embedded by the bundle's own encoder and modelled as a
training run would model them, and their thresholds come from folds dealt anew. All other sections stay as they are,
byte for byte. In a bundle of fused systems the new section's geometry pools its siblings' residuals, and the dynamics
always count for it: networks that have not heard a machine tell less of it.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, CalibrationKey, SectionCalibration, read_bundle, write_bundle
from models.compact import FOLDS, CompactSection, Heard
from models.decision import PERCENTILE, Calibration
from models.detector import Detector
from models.encoder import Device
from models.frontend import temporal_maximum
from models.manifest import Manifest
from models.scoring import SectionModel
from models.systems import Embeddings, joined
from models.vocabulary import LossChoice, SectionKey, SubSystem, ThresholdRule
from training import backends, calibration, references
from training.bundling import machine_types_of, n_recordings, refuse_place, with_sounds, write_with_canary
from training.dynamics import residuals
from training.features import FeatureStore, extract_features
from training.folds import clip_folds, condition_folds
from training.progress import Advance
from training.recordings import Recording, training_recordings

Section = SectionModel | CompactSection

_ENCODED_CLIPS = 64


def extend(bundle: Path, recordings: Sequence[Recording], out: Path, work: Path, *, advance: Advance) -> Bundle:
    """Write ``bundle`` with the sections of ``recordings`` added, or put in place of what it knew of them.

    Parameters
    ----------
    recordings : only those for training count.
    out : the new bundle's folder, which must not exist yet.
    work : folder for the features; a killed run goes on there.
    advance : called with the number of clips done, twice for each.

    Raises
    ------
    NotTrainable : where none is for training, or none of a section's usual condition.
    BundleError : where the bundle cannot be read or the new one written.
    """
    refuse_place(out)
    old = read_bundle(bundle)
    training = training_recordings(recordings)
    fused = old.manifest.fusion is not None
    with closing(Detector(old, device=Device.CPU)) as detector:
        store = extract_features(
            training,
            work / "features",
            spec=detector.front_end,
            contrast=False,
            statistics=fused,
            workers=None,
            advance=advance,
        )
        added: dict[SectionKey, Section]
        calibrated: dict[CalibrationKey, Calibration]
        added, calibrated = _fused(detector, store, advance) if fused else _mixtures(detector, store, advance)
    calibrations = {
        **{(key, domain): one for (key, domain), one in old.calibrations.items() if key not in added},
        **with_sounds(store, calibrated),
    }
    manifest = _extended(old.manifest, store, added, calibrations)
    new = replace(old, manifest=manifest, sections={**old.sections, **added}, calibrations=calibrations, folder=None)
    if old.canary is None or old.canary.key in added:
        return write_with_canary(out, new)
    return write_bundle(out, new)


def _fused(
    detector: Detector, store: FeatureStore, advance: Advance
) -> tuple[dict[SectionKey, Section], dict[CalibrationKey, Calibration]]:
    """Sections on references: by clip folds what serves, by condition folds what the thresholds are made of."""
    bundle, seed = detector.bundle, backends.Fitting.of_bundle(detector.bundle.manifest).seed
    heard = Heard(_embed(detector, store, advance), np.asarray(store.inputs(SubSystem.A)))
    new = {clip.recording.key for clip in store.clips}
    pool: dict[str, list[NDArray[np.float64]]] = {}
    for key, section in bundle.sections.items():
        if key not in new and isinstance(section, CompactSection):
            source = ~section.is_target
            own = residuals(section.heard.dynamics[source], section.attribute_of[source])
            pool.setdefault(key.machine_type, []).append(own)
    dealt = [
        references.fit_sections(store.clips, heard, deal(store.clips, seed), pool=pool)
        for deal in (clip_folds, condition_folds)
    ]
    return dict(dealt[0]), references.calibrate(dealt[0], dealt[1], _percentile(bundle))


def _mixtures(
    detector: Detector, store: FeatureStore, advance: Advance
) -> tuple[dict[SectionKey, Section], dict[CalibrationKey, Calibration]]:
    """Mixtures on the members of each machine type, started by k-means: no network has centres for these classes."""
    manifest = detector.bundle.manifest
    embeddings = _embed(detector, store, advance)[SubSystem.R]
    rule = ThresholdRule(str(manifest.recipe.get("calibration", ThresholdRule.HELD_OUT)))
    fitting = backends.Fitting.of_bundle(manifest)
    sections: dict[SectionKey, Section] = {}
    calibrated: dict[CalibrationKey, Calibration] = {}
    for machine_type in sorted({clip.recording.machine_type for clip in store.clips}):
        rows = np.flatnonzero([clip.recording.machine_type == machine_type for clip in store.clips])
        loss = _loss_of(manifest, machine_type)
        members = [place for place, member in enumerate(manifest.members) if loss in {LossChoice.SUM, member.heads}]
        centers = [
            backends.MemberCenters({}, {}, sub_clusters=manifest.members[place].sub_clusters) for place in members
        ]
        mean, deviation = (np.array(own) for own in (manifest.standardisation.mean, manifest.standardisation.deviation))
        training = backends.TrainingSet(
            clips=[store.clips[row] for row in rows],
            embeddings=embeddings[rows][:, members],
            t_max=temporal_maximum(np.asarray(store.log_mels[rows]), mean, deviation),
        )
        own = backends.fit_sections(training, centers, fitting, advance=lambda _: None)
        sections |= own
        folds = condition_folds(training.clips, fitting.seed)
        scores = calibration.calibration_scores(
            training,
            own,
            centers,
            fitting,
            rule=rule,
            unheard=calibration.LeftOut(folds, [(training.embeddings, centers)] * FOLDS),
            advance=lambda _: None,
        )
        calibrated |= {place: one.calibration(_percentile(detector.bundle)) for place, one in scores.items()}
    return sections, calibrated


def _embed(detector: Detector, store: FeatureStore, advance: Advance) -> dict[SubSystem, NDArray[np.float32]]:
    """What the bundle's own networks make of the clips, (clips, networks, 128) each."""
    manifest = detector.bundle.manifest
    kinds = dict.fromkeys([network.kind for network in manifest.fold_networks] if manifest.fusion else [SubSystem.R])
    members = sorted({network.fold for network in manifest.fold_networks}) or range(len(manifest.members))
    parts: list[Embeddings] = []
    for start in range(0, len(store.clips), _ENCODED_CLIPS):
        rows = slice(start, start + _ENCODED_CLIPS)
        parts.append(detector.encode_by({kind: np.asarray(store.inputs(kind)[rows]) for kind in kinds}, members))
        advance(len(store.clips[rows]))
    return dict(joined(parts)) if kinds else {}


def _loss_of(manifest: Manifest, machine_type: str) -> LossChoice:
    """Whose members score a machine type: as the bundle says, or as for any other than the paper's."""
    if machine_type in manifest.machine_types:
        return manifest.machine_types[machine_type].loss
    heads = [member.heads for member in manifest.members]
    return LossChoice.BOTH_HEADS if LossChoice.BOTH_HEADS in heads or not heads else LossChoice.SECTIONS


def _percentile(bundle: Bundle) -> float:
    percentile = bundle.manifest.recipe.get("percentile")
    return float(percentile) if isinstance(percentile, int | float) else PERCENTILE


def _extended(
    manifest: Manifest,
    store: FeatureStore,
    added: Mapping[SectionKey, Section],
    calibrations: Mapping[CalibrationKey, SectionCalibration],
) -> Manifest:
    """The manifest with the new sections in it, and a line on where they came from."""
    entries = machine_types_of(store.clips, added, calibrations, partial(_loss_of, manifest))
    machine_types = dict(manifest.machine_types)
    for name, entry in entries.items():
        known = machine_types.get(name)
        sections = {**({} if known is None else known.sections), **entry.sections}
        machine_types[name] = entry.model_copy(update={"sections": sections})
    earlier = manifest.training_data.get("extended")
    told = {
        "sections": [f"{key.machine_type} {key.section}" for key in sorted(added)],
        "clips": len(store.clips),
        "recordings": n_recordings(store.clips),
    }
    training_data = {**manifest.training_data, "extended": [*(earlier if isinstance(earlier, list) else []), told]}
    return manifest.model_copy(update={"machine_types": machine_types, "training_data": training_data, "files": {}})
