"""From recordings to a bundle: recordings -> features -> networks -> embedders -> embeddings -> mixtures -> bundle.

Every stage reads and writes files under one work folder and does nothing that is already done there, so a run that was
killed goes on where it stopped, and a stage alone is a run that ends early. Embeddings, mixtures and calibration come
from the exported embedders, run by the encoder that serves them. There are two ways from the features on: the paper's
(`training.ensemble`) and that of fused systems (`training.fused`).
"""

import hashlib
import json
from pathlib import Path

from models.frontend import LogMelSpec
from models.reduced import check_precision
from models.vocabulary import Precision
from training.bundling import refuse_place
from training.ensemble import train_ensemble
from training.features import FeatureStore, extract_features
from training.fused import train_fused
from training.progress import Progress
from training.recipe import Backend
from training.run import Run, Until
from training.work import alone_in, claim


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
    if bundle is not None:
        refuse_place(bundle)  # before hours of training, not after them
    if run.recipe.precision is not Precision.FLOAT32 and until >= Until.EXPORT:
        check_precision(run.recipe.precision)  # likewise
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
            go_on = train_fused if fused else train_ensemble
            go_on(run, store, progress, bundle, until=until, demonstration=demonstration)


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
