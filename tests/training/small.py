"""A small training run in memory: 20 clips of made log-mels, two sections, three attribute classes."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from models.encoder import EMBEDDING_SIZE
from models.frontend import N_FRAMES, N_MELS
from models.vocabulary import Condition, Domain, Split
from training.features import FeatureStore, TrainingClip
from training.fit import Lesson
from training.labels import Labels, label
from training.networks import Standardisation, build_embedder
from training.recipe import RECIPES, Recipe
from training.recordings import Recording

ROOT = Path(__file__).parents[2]
N_CLIPS = 20


def small_store(n_clips: int = N_CLIPS) -> FeatureStore:
    """Clips of two sections that differ in spectrum."""
    random = np.random.default_rng(7)
    shapes = random.normal(0, 6, (2, 1, 128))
    log_mels = np.stack([shapes[i % 2] + random.normal(-40, 4, (313, 128)) for i in range(n_clips)])
    clips = tuple(
        TrainingClip(
            Recording(
                path=Path(f"{i:02d}.wav"),
                machine_type="fan",
                section=f"{i % 2:02d}",
                domain=Domain.SOURCE,
                split=Split.TRAIN,
                condition=Condition.NORMAL,
                attribute=f"speed_{i % 3}",
                recording=f"{i:02d}",
                challenge=True,
            ),
            start_s=0.0,
            speed=1.0,
        )
        for i in range(n_clips)
    )
    return FeatureStore(
        clips=clips,
        log_mels=log_mels.astype(np.float32),
        mean=log_mels.mean(axis=(0, 1)),
        deviation=log_mels.std(axis=(0, 1)),
        levels_dbfs=np.full(n_clips, -30.0),
        digest="made",
    )


def small_recipe() -> Recipe:
    """Two snapshots in four epochs of three steps."""
    return replace(RECIPES["smoke"], steps=None, epochs=4, batch_size=8)


def small_lesson(store: FeatureStore | None = None) -> Lesson:
    """What an embedder learns from `small_store`, or another like it."""
    return Lesson.of_store(store or small_store(), small_labels())


def quick_embedder(mean: Sequence[float], deviation: Sequence[float]) -> keras.Model:
    """In the ResNet's place, which costs half a minute each time that it is made; with statistics of batches, too."""
    log_mel = keras.Input((N_FRAMES, N_MELS))
    x = keras.layers.GlobalAveragePooling1D()(Standardisation(mean, deviation)(log_mel))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(32, "leaky_relu")(x))
    return keras.Model(log_mel, keras.layers.Dense(EMBEDDING_SIZE)(x))


def quick_lesson(store: FeatureStore | None = None) -> Lesson:
    """As `small_lesson`, for a `quick_embedder`."""
    store = store or small_store()
    build = partial(quick_embedder, store.mean.tolist(), store.deviation.tolist())
    return replace(small_lesson(store), build=build)


def embedder_of(store: FeatureStore) -> Callable[[], keras.Model]:
    """Makes the untrained embedder of a store."""
    return partial(build_embedder, store.mean.tolist(), store.deviation.tolist())


def small_labels() -> Labels:
    """The labels of `small_store`."""
    return label(small_store().clips)


def run_python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``code`` in a fresh interpreter in the project's folder."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
