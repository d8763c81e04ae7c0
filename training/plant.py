"""The networks of the recipe `plant`: for each dealing of the clips, kind and fold one that has not heard the fold.

All of them learn the same classes, those of all training clips, so that a fold differs in nothing but what it hears.
What calibrates and what serves are the exported networks, run by the encoder that serves them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.compact import INPUT_SIZES, Heard
from models.encoder import LOG_MEL_SHAPE, Device, Encoder
from models.vocabulary import SubSystem, ThresholdRule
from training.features import FeatureStore, TrainingClip
from training.fit import Lesson
from training.folds import Folds, clip_folds, condition_folds
from training.labels import Labels
from training.networks import build_embedder, build_statistics_network
from training.recipe import Dealing, FoldNetwork, Network, Recipe
from training.storage import write_atomically


def dealings(recipe: Recipe) -> tuple[Dealing, ...]:
    """The dealings that a run needs: by conditions only where the thresholds are to come from them."""
    return tuple(Dealing) if recipe.calibration is ThresholdRule.CONDITIONS else (Dealing.CLIPS,)


def deal(clips: Sequence[TrainingClip], seed: int) -> dict[Dealing, Folds]:
    """The fold of each clip, by dealing."""
    return {Dealing.CLIPS: clip_folds(clips, seed), Dealing.CONDITIONS: condition_folds(clips, seed)}


def fold_networks(networks: Sequence[Network]) -> list[FoldNetwork]:
    """Those of a run, as what they are."""
    return [network for network in networks if isinstance(network, FoldNetwork)]


def lesson(store: FeatureStore, labels: Labels, folds: Mapping[Dealing, Folds], network: FoldNetwork) -> Lesson:
    """What a network learns from: the clips outside its fold, on which it is standardised too."""
    rows = np.flatnonzero(folds[network.dealing] != network.fold)
    inputs = store.inputs(network.kind)
    if network.kind is SubSystem.R:
        return Lesson(inputs, rows, labels, partial(build_embedder, store.mean.tolist(), store.deviation.tolist()))
    own = np.asarray(inputs[rows], np.float64)
    build = partial(build_statistics_network, own.mean(axis=0).tolist(), own.std(axis=0).tolist())
    return Lesson(inputs, rows, labels, build)


def hear(store: FeatureStore, files: Mapping[FoldNetwork, Path], dealing: Dealing, folder: Path) -> Heard:
    """All clips as the networks of one dealing give them, kept in ``folder`` by what gave them."""
    embeddings: dict[SubSystem, NDArray[np.float32]] = {}
    for kind in dict.fromkeys(network.kind for network in files):
        own = [files[network].read_bytes() for network in files if (network.kind, network.dealing) == (kind, dealing)]
        digest = hashlib.sha256(b"".join([store.digest.encode(), *own])).hexdigest()[:16]
        path = folder / f"{kind.value}-{dealing.value}-{digest}.npy"
        if not path.exists():
            shape = LOG_MEL_SHAPE if kind is SubSystem.R else (INPUT_SIZES[kind],)
            with closing(Encoder(own, shape=shape, device=Device.CPU)) as encoder:
                found = encoder.encode(np.asarray(store.inputs(kind)), range(len(own)))
            write_atomically(path, partial(np.save, arr=found))
        embeddings[kind] = np.load(path)
    return Heard(embeddings, np.asarray(store.inputs(SubSystem.A)))
