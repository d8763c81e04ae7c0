"""The last stages of a run: mixtures and calibration of every section from the embeddings, and the bundle of it all."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from models.bundle import Bundle, CalibrationKey
from models.compact import CompactSection
from models.decision import Calibration
from models.frontend import temporal_maximum
from models.fused_systems import SYSTEM_OF
from models.manifest import (
    FoldNetworkEntry,
    Manifest,
    MemberEntry,
)
from models.scoring import SectionModel
from models.vocabulary import LossChoice, SectionKey, SubSystem
from training.backends import Fitting, MemberCenters, TrainingSet, dropped_components, fit_sections
from training.bundling import common_facts, machine_types_of, n_recordings, with_sounds, write_with_canary
from training.calibration import CalibrationScores, LeftOut, calibration_scores
from training.curves import Curve
from training.export import member_name
from training.features import FeatureStore
from training.fit import Snapshot
from training.folds import Folds
from training.kept_scores import keep_scores
from training.progress import Advance
from training.recipe import Dealing, FoldNetwork, Recipe

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Unheard:
    """What has not heard whole operating conditions.

    ``folds``: (clips at their own speed,). ``snapshots``: a fold, those of its networks, in the order of the members;
    ``embeddings``: by them, (clips, members, 128) a fold.
    """

    folds: Folds
    snapshots: Sequence[Sequence[Snapshot]]
    embeddings: Sequence[NDArray[np.float32]]

    def of(self, clips: NDArray[np.intp], members: Sequence[int]) -> LeftOut:
        """The same of some clips and of the members that score them."""
        return LeftOut(
            self.folds[clips],
            [
                (embeddings[clips][:, members], [class_centers(snapshots[i]) for i in members])
                for snapshots, embeddings in zip(self.snapshots, self.embeddings, strict=True)
            ],
        )


def assemble_bundle(
    store: FeatureStore,
    members: Sequence[tuple[Snapshot, Path]],
    embeddings: NDArray[np.float32],
    recipe: Recipe,
    seed: int,
    folder: Path,
    work: Path,
    *,
    unheard: Unheard | None,
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
    work : the run's; what each member says of the clips that calibrate is kept there.
    unheard : where the thresholds come from conditions that nothing has heard.
    limited_epochs : by network, in how many epochs an AdaCos scale met its limit.
    curves : by network, how its training went.
    advance : called once a clip for the mixtures and once for the calibration.

    Raises
    ------
    BundleError : where the bundle cannot be written.
    """
    fitting = Fitting.of(recipe, seed)
    rows = np.flatnonzero([clip.speed == 1.0 for clip in store.clips])
    clips = [store.clips[row] for row in rows]
    sections: dict[SectionKey, SectionModel] = {}
    scores: dict[CalibrationKey, CalibrationScores] = {}
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
        fitted = fit_sections(training, centers, fitting, advance=advance)
        sections |= fitted
        if n_dropped := dropped_components(training, fitted, centers):
            dropped[machine_type] = n_dropped
        scores |= calibration_scores(
            training,
            fitted,
            centers,
            fitting,
            rule=recipe.calibration,
            unheard=None if unheard is None else unheard.of(own, used),
            advance=advance,
        )
    calibrations = with_sounds(store, {place: one.calibration(recipe.percentile) for place, one in scores.items()})
    training_data: dict[str, JsonValue] = {
        "clips": len(clips),
        "recordings": n_recordings(clips),
        "contrast_clips": len(store.clips) - len(clips),
        **_reported({"scale_limited_epochs": limited_epochs, "dropped_components": dropped}),
        "curves": _plain(curves),
    }
    facts = common_facts(store, recipe, seed, training_data, demonstration=demonstration)
    keep_scores(work, facts["recipe"], scores)  # before the bundle: whoever finds that will find them
    manifest = Manifest(
        **facts,
        members=tuple(
            MemberEntry(
                id=member_name(snapshot),
                file=path.name,
                network=snapshot.network.name,
                sub_clusters=snapshot.network.sub_clusters,
                heads=snapshot.network.heads,
                snapshot_epoch=snapshot.epoch,
                scale_limited=snapshot.limited,
                precision=recipe.precision,
            )
            for snapshot, path in members
        ),
        machine_types=machine_types_of(clips, sections, calibrations, recipe.loss_of),
        target_smote=recipe.target_smote,
    )
    embedders = {path.name: path.read_bytes() for _, path in members}
    return write_with_canary(folder, Bundle(manifest, embedders, sections, calibrations))


def assemble_fused_bundle(
    store: FeatureStore,
    networks: Mapping[FoldNetwork, Path],
    sections: Mapping[SectionKey, CompactSection],
    calibrated: Mapping[CalibrationKey, Calibration],
    recipe: Recipe,
    seed: int,
    folder: Path,
    *,
    limited_epochs: Mapping[str, int],
    curves: Mapping[str, Curve],
    demonstration: bool,
) -> Bundle:
    """Write the bundle of fused systems: the networks of the serving folds, references and geometry, calibration.

    Raises
    ------
    BundleError : where the bundle cannot be written.
    """
    calibrations = with_sounds(store, calibrated)
    serving = {network: path for network, path in networks.items() if network.dealing is Dealing.CLIPS}
    kinds = tuple(dict.fromkeys(network.kind for network in serving))
    systems = dict.fromkeys(SYSTEM_OF[kind] for kind in (*kinds, SubSystem.F))
    facts = common_facts(
        store,
        recipe,
        seed,
        {
            "clips": len(store.clips),
            "recordings": n_recordings(store.clips),
            **_reported({"scale_limited_epochs": limited_epochs}),
            "curves": _plain(curves),
        },
        demonstration=demonstration,
    )
    manifest = Manifest(
        **facts,
        systems=tuple(systems),
        fusion="p_values",
        fold_networks=tuple(FoldNetworkEntry(kind=network.kind, fold=network.fold) for network in serving),
        machine_types=machine_types_of(store.clips, sections, calibrations, recipe.loss_of),
    )
    embedders = {
        entry.file: path.read_bytes() for entry, path in zip(manifest.fold_networks, serving.values(), strict=True)
    }
    return write_with_canary(folder, Bundle(manifest, embedders, sections, calibrations))


def _plain(curves: Mapping[str, Curve]) -> dict[str, JsonValue]:
    return {name: {column: [*values] for column, values in curve.items()} for name, curve in curves.items()}


def _reported(findings: Mapping[str, Mapping[str, int]]) -> dict[str, JsonValue]:
    """What came out otherwise than asked for, by name: in the manifest, and for who trains."""
    found: dict[str, JsonValue] = {}
    for what, counts in findings.items():
        if own := {name: count for name, count in counts.items() if count}:
            _log.warning("%s: %s", what.replace("_", " "), ", ".join(f"{name} {n}" for name, n in own.items()))
            found[what] = dict(own)
    return found


def class_centers(snapshot: Snapshot) -> MemberCenters:
    """The class centres of a snapshot by section and by attribute class; contrast classes have no section."""
    return MemberCenters(
        sections={SectionKey(*names): c for names, c in snapshot.section_centers.items() if len(names) == 2},
        attributes=snapshot.attribute_centers,
        sub_clusters=snapshot.network.sub_clusters,
    )
