"""The paper's way: an ensemble of ResNets, its snapshots exported, and mixtures of their embeddings."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from models.compact import FOLDS
from training.assemble import Unheard, assemble_bundle
from training.embeddings import Member, embed
from training.export import export_embedder, member_name
from training.features import FeatureStore
from training.fit import Lesson, fit_network, load_snapshot
from training.folds import Folds, condition_folds_with_copies
from training.keras_backend import be_deterministic
from training.labels import label
from training.networks import build_embedder
from training.progress import Advance, Progress
from training.recipe import LeftOutNetwork, Network
from training.run import Run, Until


def train_ensemble(
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
        embeddings = embed(run.work / "embeddings", store, members, run.recipe.precision, advance)
        assemble_bundle(
            store,
            members,
            embeddings,
            run.recipe,
            run.seed,
            bundle,
            run.work,
            unheard=_unheard(run, store, exported, folds, advance),
            limited_epochs=run.limited_epochs(),
            curves=run.curves([network for network in exported if not isinstance(network, LeftOutNetwork)]),
            demonstration=demonstration,
            advance=progress.stage("back end"),
        )


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
            embed(run.work / "embeddings" / f"without-{fold}", store, members[fold], run.recipe.precision, advance)
            for fold in range(FOLDS)
        ],
    )
