"""The way of the recipe `plant`: networks of folds, and systems that share references and are fused by p-value."""

from pathlib import Path

import keras
import numpy as np

from training.assemble import assemble_fused_bundle
from training.export import export_embedder
from training.features import FeatureStore
from training.fit import fit_network, load_snapshot
from training.keras_backend import be_deterministic
from training.labels import label
from training.plant import deal, dealings, fold_networks, hear, lesson
from training.progress import Progress
from training.recipe import Dealing, FoldNetwork
from training.references import calibrate as calibrate_references
from training.references import fit_sections as fit_references
from training.run import Run, Until


def train_fused(
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
        limited_epochs=run.limited_epochs(),
        curves=run.curves([network for network in files if network.dealing is Dealing.CLIPS]),
        demonstration=demonstration,
    )
    progress.stage("back end")(2 * len(store.clips))
