"""From recordings to a bundle: recordings -> features -> networks -> embedders -> embeddings -> mixtures -> bundle.

Every stage reads and writes files under one work folder and does nothing that is already done there, so a run that was
killed goes on where it stopped, and a stage alone is a run that ends early. Embeddings, mixtures and calibration come
from the exported embedders, run by the encoder that serves them.
"""

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property, partial
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from models.compact import FOLDS
from models.encoder import EMBEDDING_SIZE, Device, Encoder
from models.errors import BundleError
from models.frontend import LogMelSpec
from models.reduced import check_precision
from models.vocabulary import LossChoice, Precision
from training.assemble import Unheard, assemble_bundle, assemble_fused_bundle
from training.choices import departures
from training.curves import Curve
from training.export import export_embedder, member_name
from training.features import CONTRAST_SPEEDS, FeatureStore, count_clips, extract_features
from training.fit import Lesson, Snapshot, fit_network, limited_epochs, load_snapshot, training_curve
from training.folds import Folds, condition_folds_with_copies
from training.keras_backend import be_deterministic
from training.labels import label, needs_contrast
from training.networks import build_embedder
from training.parallel import cores
from training.plant import deal, dealings, fold_networks, hear, lesson
from training.progress import Advance, Progress, Stage, as_duration, step_s
from training.recipe import Backend, Dealing, FoldNetwork, LeftOutNetwork, Network, Recipe, Schedule
from training.recordings import Recording, training_recordings
from training.references import calibrate as calibrate_references
from training.references import fit_sections as fit_references
from training.storage import write_atomically
from training.work import alone_in, claim

_log = logging.getLogger(__name__)

EMBEDDING_ROWS = 512
"""Clips whose embeddings are kept in one file of the work folder."""


Member = tuple[Snapshot, Path]
"""A snapshot with its ONNX file."""


class Until(IntEnum):
    """How far a run goes."""

    FEATURES = 1
    FIT = 2
    EXPORT = 3
    BUNDLE = 4


@dataclass(frozen=True)
class Run:
    """A training run: what decides its result, and the folder where its stages meet."""

    recordings: tuple[Recording, ...]
    recipe: Recipe
    seed: int
    work: Path

    @classmethod
    def of(cls, recordings: Sequence[Recording], recipe: Recipe, seed: int, work: Path) -> "Run":
        """A run on the training recordings among ``recordings``.

        Raises
        ------
        NotTrainable : where there are none, or none of a section's usual condition.
        """
        return cls(training_recordings(recordings), recipe, seed, work)

    @cached_property
    def contrast(self) -> bool:
        """Whether a head would have a single class, so that copies at other speeds join the training."""
        if self.recipe.backend is Backend.FOLDS:
            return False  # the dynamics need nothing to be told apart from
        return needs_contrast(self.recordings, attribute_head=LossChoice.BOTH_HEADS in self.recipe.heads)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The networks to train: with the back end `folds` none where they would have nothing to tell apart."""
        alone = len({recording.attribute_class for recording in self.recordings}) < 2
        return () if alone and self.recipe.backend is Backend.FOLDS else self.recipe.networks

    @cached_property
    def n_clips(self) -> int:
        """Training clips, contrast copies included."""
        return count_clips(self.recordings, contrast=self.contrast)

    def schedule(self, network: Network) -> Schedule:
        """A network's schedule; one that leaves a fold out hears about four clips of five."""
        leaves_out = isinstance(network, FoldNetwork | LeftOutNetwork)
        return self.recipe.schedule(self.n_clips * (FOLDS - 1) // FOLDS if leaves_out else self.n_clips)

    def stages(self, until: Until = Until.BUNDLE) -> list[Stage]:
        """What a run up to ``until`` does, with estimated times on this machine."""
        members = len(self.networks) * self.recipe.snapshots
        own_clips = self.n_clips // (1 + len(CONTRAST_SPEEDS) * self.contrast)
        ensembles = 1 + FOLDS * any(isinstance(network, LeftOutNetwork) for network in self.networks)
        stages = [
            (Until.FEATURES, Stage("features", self.n_clips, 0.02 / cores())),
            *(
                (
                    Until.FIT,
                    Stage(
                        f"network {network.name}",
                        self.schedule(network).steps,
                        step_s(network, self.recipe.batch_size),
                    ),
                )
                for network in self.networks
            ),
            (Until.EXPORT, Stage("export", members, 1.0 if self.recipe.backend is Backend.FOLDS else 5.0)),
            (Until.BUNDLE, Stage("embeddings", ensembles * own_clips, 0.002 * members / ensembles)),
            (Until.BUNDLE, Stage("back end", 2 * own_clips, 0.008 * max(1, members))),
        ]
        return [stage for place, stage in stages if place <= until]

    def describe(self, device: str, until: Until = Until.BUNDLE) -> str:
        """The plan, for a person: device, data, stages and estimated time."""
        stages = self.stages(until)
        schedule = self.recipe.schedule(self.n_clips) if not self.networks else self.schedule(self.networks[0])
        sections = {recording.key for recording in self.recordings}
        lines = [
            f"device    {device}",
            f"data      {len(self.recordings)} recordings of {len(sections)} sections, {self.n_clips} clips"
            + (", copies at four other speeds as contrast classes among them" if self.contrast else ""),
            f"recipe    {self.recipe.name}: {len(self.networks)} networks, {schedule.epochs} epochs of "
            f"{schedule.epoch_steps} steps, snapshots after {', '.join(map(str, schedule.snapshot_epochs))}"
            + "".join(f", {departure}" for departure in departures(self.recipe)),
            f"work      {self.work}",
            *(f"  {stage.name:<28} about {as_duration(stage.estimate_s)}" for stage in stages),
            f"in all about {as_duration(sum(stage.estimate_s for stage in stages))}, less what is already done",
        ]
        return "\n".join(lines)


def train(
    run: Run,
    bundle: Path | None,
    *,
    until: Until = Until.BUNDLE,
    workers: int | None = None,
    demonstration: bool = False,
) -> None:
    """Run the stages up to ``until``; with ``Until.BUNDLE`` write the bundle to ``bundle``.

    Raises
    ------
    DataError : where the work folder belongs to another run, or a recording cannot be used.
    PrecisionUnavailable : where this machine does not compute in the recipe's precision.
    TrainingDiverged, BundleError : see there.
    """
    if bundle is not None and bundle.exists():
        raise BundleError(bundle, "exists already, and a bundle is never changed. Name another folder.")
    if bundle is not None:
        _refuse_closed_place(bundle)
    if run.recipe.precision is not Precision.FLOAT32 and until >= Until.EXPORT:
        check_precision(run.recipe.precision)  # before hours of training, not after them
    fused = run.recipe.backend is Backend.FOLDS
    with alone_in(run.work), Progress(run.stages(until)) as progress:
        store = extract_features(
            run.recordings,
            run.work / "features",
            spec=LogMelSpec(),
            contrast=run.contrast,
            statistics=fused,
            workers=workers,
            advance=progress.stage("features"),
        )
        _claim(run, store)
        if until >= Until.FIT:
            go_on = _train_fused if fused else _train_ensemble
            go_on(run, store, progress, bundle, until=until, demonstration=demonstration)


def _train_ensemble(
    run: Run, store: FeatureStore, progress: Progress, bundle: Path | None, *, until: Until, demonstration: bool
) -> None:
    """The paper's system, from the features on."""
    folds = condition_folds_with_copies(store.clips, run.seed)
    snapshots = _fit(run, Lesson.of_store(store, label(store.clips)), folds, progress)
    if until >= Until.EXPORT:
        exported = _export(run, store, snapshots, progress.stage("export"))
    if until >= Until.BUNDLE:
        assert bundle is not None
        advance = progress.stage("embeddings")
        members = [one for network, own in exported.items() if not isinstance(network, LeftOutNetwork) for one in own]
        embeddings = _embed(run.work / "embeddings", store, members, run.recipe.precision, advance)
        assemble_bundle(
            store,
            members,
            embeddings,
            run.recipe,
            run.seed,
            bundle,
            run.work,
            unheard=_unheard(run, store, exported, folds, advance),
            limited_epochs=_limited_epochs(run),
            curves=_curves(run, [network for network in exported if not isinstance(network, LeftOutNetwork)]),
            demonstration=demonstration,
            advance=progress.stage("back end"),
        )


def _train_fused(
    run: Run, store: FeatureStore, progress: Progress, bundle: Path | None, *, until: Until, demonstration: bool
) -> None:
    """Systems fused by p-value, from the features on: everything once for each dealing of the clips."""
    be_deterministic()
    folds = deal(store.clips, run.seed)
    lessons = {network: lesson(store, label(store.clips), folds, network) for network in fold_networks(run.networks)}
    snapshots: dict[FoldNetwork, Path] = {}
    for network, own in lessons.items():
        advance = progress.stage(f"network {network.name}")
        folder = run.work / "networks" / network.name
        (snapshots[network],) = fit_network(own, network, run.recipe, folder, seed=run.seed, advance=advance)
        keras.utils.clear_session()  # a run makes dozens of networks in one process
    if until < Until.EXPORT:
        return
    advance = progress.stage("export")
    files: dict[FoldNetwork, Path] = {}
    for network, path in snapshots.items():
        files[network] = run.work / "embedders" / f"{network.name}.onnx"
        if not files[network].exists():
            own = lessons[network]
            probe = np.asarray(own.inputs[own.rows[:4]])
            export_embedder(load_snapshot(path, network, run.recipe.weights), own.build, files[network], probe)
        advance(1)
    if until < Until.BUNDLE:
        return
    assert bundle is not None
    advance = progress.stage("embeddings")
    sections = {}
    for dealing in dealings(run.recipe):
        heard = hear(store, files, dealing, run.work / "embeddings")
        sections[dealing] = fit_references(store.clips, heard, folds[dealing])
        advance(len(store.clips) // len(dealings(run.recipe)))
    calibrations = calibrate_references(
        sections[Dealing.CLIPS], sections.get(Dealing.CONDITIONS), run.recipe.percentile
    )
    assemble_fused_bundle(
        store,
        files,
        sections[Dealing.CLIPS],
        calibrations,
        run.recipe,
        run.seed,
        bundle,
        limited_epochs=_limited_epochs(run),
        curves=_curves(run, [network for network in files if network.dealing is Dealing.CLIPS]),
        demonstration=demonstration,
    )
    progress.stage("back end")(2 * len(store.clips))


def _curves(run: Run, networks: Iterable[Network]) -> dict[str, Curve]:
    """How the training of each network went, by its name."""
    return {network.name: training_curve(run.work / "networks" / network.name) for network in networks}


def _limited_epochs(run: Run) -> dict[str, int]:
    """By network, in how many epochs an AdaCos scale met its limit."""
    return {network.name: limited_epochs(run.work / "networks" / network.name) for network in run.networks}


def _refuse_closed_place(bundle: Path) -> None:
    """Say before hours of training, not after them, that no folder can be made there."""
    place = next(folder for folder in bundle.absolute().parents if os.path.lexists(folder))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise BundleError(bundle, f"{place} is no folder that can be written to. Name another place for the bundle.")


def _claim(run: Run, store: FeatureStore) -> None:
    """Mark the work folder as this run's: what follows from other sounds, classes or seeds must not be mixed in."""
    classes = [
        (*clip.recording.attribute_class, "in", clip.recording.machine_type, clip.recording.section)
        for clip in store.clips
    ]
    mine = {
        "recipe": run.recipe.decides_networks(),
        "seed": run.seed,
        "recordings": hashlib.sha256(json.dumps([store.digest, classes]).encode()).hexdigest(),
    }
    claim(run.work, mine)


def _fit(run: Run, lesson: Lesson, folds: Folds, progress: Progress) -> dict[Network, list[Path]]:
    """The snapshots of each network; ``folds``: of the clips, what a network of the rule `conditions` leaves out."""
    be_deterministic()
    snapshots: dict[Network, list[Path]] = {}
    for network in run.networks:
        heard = np.flatnonzero(folds != network.fold) if isinstance(network, LeftOutNetwork) else lesson.rows
        snapshots[network] = fit_network(
            replace(lesson, rows=heard),
            network,
            run.recipe,
            run.work / "networks" / network.name,
            seed=run.seed,
            advance=progress.stage(f"network {network.name}"),
        )
    return snapshots


def _export(
    run: Run, store: FeatureStore, snapshots: Mapping[Network, Sequence[Path]], advance: Advance
) -> dict[Network, list[Member]]:
    """Each snapshot with its ONNX file."""
    probe = np.asarray(store.log_mels[:: max(1, len(store.clips) // 4)][:4])
    members: dict[Network, list[Member]] = {}
    for network, paths in snapshots.items():
        members[network] = []
        for path in paths:
            snapshot = load_snapshot(path, network, run.recipe.weights)
            embedder = run.work / "embedders" / f"{member_name(snapshot)}.onnx"
            if not embedder.exists():
                build = partial(build_embedder, store.mean.tolist(), store.deviation.tolist())
                export_embedder(snapshot, build, embedder, probe)
            members[network].append((snapshot, embedder))
            advance(1)
    return members


def _unheard(
    run: Run, store: FeatureStore, exported: Mapping[Network, Sequence[Member]], folds: Folds, advance: Advance
) -> Unheard | None:
    """What the networks that leave a fold out make of all clips; None where the recipe trains none."""
    members: defaultdict[int, list[Member]] = defaultdict(list)
    for network, own in exported.items():
        if isinstance(network, LeftOutNetwork):
            members[network.fold] += own
    if not members:
        return None
    at_own_speed = [clip.speed == 1.0 for clip in store.clips]
    return Unheard(
        folds[at_own_speed],
        [[snapshot for snapshot, _ in members[fold]] for fold in range(FOLDS)],
        [
            _embed(run.work / "embeddings" / f"without-{fold}", store, members[fold], run.recipe.precision, advance)
            for fold in range(FOLDS)
        ],
    )


def _embed(
    folder: Path, store: FeatureStore, members: Sequence[Member], precision: Precision, advance: Advance
) -> NDArray[np.float32]:
    """Embeddings of the clips at their own speed, (clips, members, 128), kept in files of `EMBEDDING_ROWS` clips."""
    embedders = [path.read_bytes() for _, path in members]
    rows = np.flatnonzero([clip.speed == 1.0 for clip in store.clips])
    _forget_embeddings_of_others(folder, store, embedders, precision)
    every = np.empty((len(rows), len(members), EMBEDDING_SIZE), np.float32)  # once: of 40 members it is a gigabyte
    with closing(Encoder(embedders, device=Device.CPU, precision=precision)) as encoder:
        for start in range(0, len(rows), EMBEDDING_ROWS):
            own = slice(start, start + EMBEDDING_ROWS)
            path = folder / f"{start:06d}.npy"
            if not path.exists():
                embeddings = encoder.encode(np.asarray(store.log_mels[rows[own]]), range(len(members)))
                write_atomically(path, partial(np.save, arr=embeddings))
            every[own] = np.load(path)
            advance(len(every[own]))
    return every


def _forget_embeddings_of_others(
    folder: Path, store: FeatureStore, embedders: Sequence[bytes], precision: Precision
) -> None:
    """Remove embeddings that other networks or other sounds gave, so that none is ever taken for these members'."""
    digests = [store.digest, *(hashlib.sha256(content).hexdigest() for content in embedders)]
    if precision is not Precision.FLOAT32:
        digests.append(precision.value)
    path, mine = folder / "of.json", json.dumps(digests, indent=1).encode()
    if path.exists() and path.read_bytes() == mine:
        return
    for stale in folder.glob("*.npy"):
        stale.unlink()
    write_atomically(path, lambda file: file.write(mine))
