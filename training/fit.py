"""Training one network of the ensemble: snapshots at set epochs, a checkpoint at each, so that a killed run resumes.

A run is a function of (recordings, recipe, seed): the order of the clips and the mixup weights of an epoch are drawn
from (seed, network, epoch), so a resumed run sees the batches that the uninterrupted one would have seen. Under the
network's folder lie ``checkpoint.npz`` (all variables, their running average and the history) and
``snapshots/<due epoch>.npz``. A snapshot holds the weights of the last step and their running average: which of them
serve is decided when it is read.
"""

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.commands import shell_line
from models.errors import TrainingDiverged
from models.vocabulary import LossChoice
from training.checkpoint import restore_checkpoint, save_checkpoint
from training.curves import HISTORY_COLUMNS, Curve, thin
from training.features import FeatureStore
from training.labels import HeadClass, Labels
from training.losses import SubClusterAdaCos
from training.mixup import mixup, mixup_labels
from training.networks import build_embedder
from training.recipe import Network, Recipe, Schedule, ServedWeights
from training.storage import write_atomically

_log = logging.getLogger(__name__)

LIMIT_PATIENCE = 10
"""A snapshot due within so many epochs after a scale reached its limit waits, so many epochs at most."""

CHECKPOINT_S = 1.0
"""Epochs shorter than this share a checkpoint: writing one to the disk must not cost more than an epoch."""

AVERAGED_STEPS = 4
"""The running average takes in every fourth step."""

AVERAGE_KEEPS = 0.995**AVERAGED_STEPS
"""The share that the running average keeps of itself each time: 0.995 a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """An embedder as it was after ``epoch``, with its heads' centres; ``served``: which of its weights these are.

    ``due``: when the schedule asked for it.

    ``weights``: the embedder's variables in Keras' order. ``centers``: by head class, (S, 128), L2-normalised.
    ``limited``: it waited for a scale that had reached its limit, or was taken less than ten epochs after that.
    """

    network: Network
    due: int
    epoch: int
    limited: bool
    served: ServedWeights
    weights: tuple[NDArray[np.float32], ...]
    section_centers: dict[HeadClass, NDArray[np.float32]]
    attribute_centers: dict[HeadClass, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a network learns from.

    ``inputs``: (clips, ...) float32, may be a memory map; for an embedder (clips, 313, 128) dB. ``rows``: those of its
    clips that are learned from, (n,). ``labels``: of all its clips. ``build``: makes the network, untrained.
    """

    inputs: NDArray[np.float32]
    rows: NDArray[np.intp]
    labels: Labels
    build: Callable[[], keras.Model]

    @classmethod
    def of_store(cls, store: FeatureStore, labels: Labels) -> Self:
        """All clips' log-mels, for an embedder."""
        build = partial(build_embedder, store.mean.tolist(), store.deviation.tolist())
        return cls(store.log_mels, np.arange(len(store.clips)), labels, build)


def wanted_heads(labels: Labels, network: Network) -> dict[str, tuple[HeadClass, ...]]:
    """The classes of each head that has something to tell apart."""
    heads = {"sections": labels.section_classes}
    if network.heads is LossChoice.BOTH_HEADS:
        heads["attributes"] = labels.attribute_classes
    return {name: classes for name, classes in heads.items() if len(classes) > 1}


def build_training_model(
    embedder: keras.Model, labels: Labels, network: Network, recipe: Recipe
) -> tuple[keras.Model, list[SubClusterAdaCos]]:
    """Mixup, embedder and heads as one graph, compiled.

    Takes [inputs (clips, ...) of the embedder, mixup weights (clips, 1), a head's class ids (clips,) ...] and gives the
    loss of each clip from each head; the total is their sum plus the regularisation of the kernels.
    """
    sounds = keras.Input(embedder.input_shape[1:], name="inputs")
    weights = keras.Input((1,), name="mixup_weights")
    embedding = embedder(mixup(sounds, weights))
    inputs, losses, heads = [sounds, weights], [], []
    for name, classes in wanted_heads(labels, network).items():
        ids = keras.Input((), dtype="int32", name=f"{name}_ids")
        head = SubClusterAdaCos(len(classes), network.sub_clusters, recipe.scale, recipe.scale_range, name=name)
        mixed = mixup_labels(ops.one_hot(ids, len(classes)), weights, recipe.mixup_labels)
        losses.append(head(embedding, mixed))
        inputs.append(ids)
        heads.append(head)
    model = keras.Model(inputs, losses)
    model.compile(keras.optimizers.Adam(recipe.learning_rate), loss=[_itself] * len(losses), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    # the means of the losses are made now: variables made in the first step would have TensorFlow trace it twice
    nothing = [np.zeros(1, np.float32)] * len(losses)
    model.compute_loss(y=nothing, y_pred=nothing)
    model.reset_metrics()
    return model, heads


def _itself(_target: Any, loss: Any) -> Any:
    return loss


class RunningAverage:
    """The running average of ``variables`` over a run's steps, from their initial values on (`BEYOND`: 0.995 a step).

    ``values``: aligned with the variables, float32. ``steps``: those of the run so far.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = variables
        self.values: list[NDArray[np.float32]] = [np.array(ops.convert_to_numpy(v)) for v in variables]
        self.steps = 0

    def step(self) -> None:
        """Count a step, and take every fourth in."""
        self.steps += 1
        if self.steps % AVERAGED_STEPS == 0:
            for i, variable in enumerate(self._variables):
                self.values[i] += np.float32(1.0 - AVERAGE_KEEPS) * (ops.convert_to_numpy(variable) - self.values[i])


def network_seed(seed: int, network: Network) -> int:
    """One seed a network, whatever else the recipe trains."""
    return zlib.crc32(f"{seed}/{network.name}".encode())


def batches(
    lesson: Lesson, network: Network, recipe: Recipe, schedule: Schedule, seed: int, epoch: int
) -> Iterator[tuple[NDArray[Any], ...]]:
    """The epoch's batches, read one ahead: (inputs, mixup weights, each head's class ids)."""
    random = np.random.default_rng([seed, epoch])
    order = lesson.rows[random.permutation(len(lesson.rows))[: schedule.epoch_steps * recipe.batch_size]]
    shares = random.uniform(size=(len(order), 1)).astype(np.float32)
    ids = {"sections": lesson.labels.section_ids, "attributes": lesson.labels.attribute_ids}
    own_ids = [ids[name] for name in wanted_heads(lesson.labels, network)]

    def read(start: int) -> tuple[NDArray[Any], ...]:
        rows = order[start : start + recipe.batch_size]
        in_file_order = np.argsort(rows)
        inputs = np.empty((len(rows), *lesson.inputs.shape[1:]), np.float32)
        inputs[in_file_order] = lesson.inputs[rows[in_file_order]]
        return inputs, shares[start : start + recipe.batch_size], *(own[rows] for own in own_ids)

    starts = [
        start
        for start in range(0, len(order), recipe.batch_size)
        if len(order) - start >= min(recipe.least_batch, len(order))
    ]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, starts[0])
        for start in starts[1:]:
            ready, ahead = ahead, reader.submit(read, start)
            yield ready.result()
        yield ahead.result()


def fit_network(
    lesson: Lesson,
    network: Network,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    advance: Callable[[int], None],
) -> list[Path]:
    """Train ``network``, or go on where a killed run stopped, and return its snapshots' files.

    Parameters
    ----------
    folder : the network's own; one that holds a finished run costs nothing.
    advance : called with the number of optimiser steps done, those of an earlier run included.

    Raises
    ------
    TrainingDiverged : where the loss or a scale is not finite.
    """
    schedule = recipe.schedule(len(lesson.rows))
    paths = [folder / "snapshots" / f"{due:05d}.npz" for due in schedule.snapshot_epochs]
    if all(path.exists() for path in paths):
        advance(schedule.steps)
        return paths
    seed = network_seed(seed, network)
    keras.utils.set_random_seed(seed)
    embedder = lesson.build()
    model, heads = build_training_model(embedder, lesson.labels, network, recipe)
    average = RunningAverage([*embedder.variables, *(head.centers for head in heads)])
    history = _restore(model, average, folder / "checkpoint.npz")
    epoch = len(history)
    advance(min(epoch, schedule.epochs) * schedule.epoch_steps)
    saved = -math.inf
    while not all(path.exists() for path in paths):
        epoch += 1
        read = batches(lesson, network, recipe, schedule, seed, epoch)
        row = train_epoch(model, heads, read, epoch, average, advance, limit=recipe.scale_range[1])
        history = np.concatenate([history, row[None]])
        limited = bool(history[-LIMIT_PATIENCE:, -1].any())
        taken = False
        for due, path in zip(schedule.snapshot_epochs, paths, strict=True):
            if not path.exists() and takes_snapshot(epoch, due, limited=limited):
                waited = limited or epoch > due
                _save_snapshot(path, embedder, heads, average, lesson.labels, epoch=epoch, limited=waited)
                taken = True
        if taken or time.monotonic() - saved >= CHECKPOINT_S:
            _save_checkpoint(folder / "checkpoint.npz", model, average, history)
            saved = time.monotonic()
    return paths


def limited_epochs(folder: Path) -> int:
    """In how many epochs a scale of the network in ``folder`` has met its limit."""
    with np.load(folder / "checkpoint.npz") as saved:
        return int(saved["history"][:, -1].sum())


def training_curve(folder: Path) -> Curve:
    """How the training of the network in ``folder`` has gone so far, short enough for a manifest."""
    with np.load(folder / "checkpoint.npz") as saved:
        return thin(saved["history"])


def takes_snapshot(epoch: int, due: int, *, limited: bool) -> bool:
    """Whether the snapshot due at ``due`` is taken after ``epoch``: it waits while a scale met its limit lately."""
    return epoch >= due and (not limited or epoch >= due + LIMIT_PATIENCE)


def train_epoch(
    model: keras.Model,
    heads: list[SubClusterAdaCos],
    epoch_batches: Iterator[tuple[NDArray[Any], ...]],
    epoch: int,
    average: RunningAverage,
    advance: Callable[[int], None],
    *,
    limit: float,
) -> NDArray[np.float64]:
    """Train an epoch, and return its row of `HISTORY_COLUMNS`.

    That is mean losses, the scales after the epoch, and whether a scale met its limit.
    """
    losses, limited = [], False
    for inputs, shares, *ids in epoch_batches:
        nothing = np.zeros(len(inputs), np.float32)
        results = model.train_on_batch([inputs, shares, *ids], [nothing] * len(heads))
        loss = [float(value) for value in np.atleast_1d(np.asarray(results, np.float64))]
        scales = [float(head.scale) for head in heads]
        if not all(math.isfinite(value) for value in (*loss, *scales)):
            raise TrainingDiverged(
                f"Training diverged in epoch {epoch}: losses {loss}, AdaCos scales {scales}. "
                f"Check the recordings with '{shell_line('training check')}', or train with --set scale=fixed."
            )
        limited |= any(scale >= limit for scale in scales)
        losses.append(loss)
        average.step()
        advance(1)
    mean = np.mean(losses, axis=0)
    _log.info("epoch %d: losses %s, AdaCos scales %s", epoch, mean.round(4).tolist(), np.round(scales, 3).tolist())
    by_head = mean[1:] if len(heads) > 1 else mean[:1]  # Keras names a lone output's loss only as the total
    found = {head.name: (loss, scale) for head, loss, scale in zip(heads, by_head, scales, strict=True)}
    (section, section_scale), (attribute, attribute_scale) = (
        found.get(name, (math.nan, math.nan)) for name in ("sections", "attributes")
    )
    return np.array([epoch, mean[0], section, attribute, section_scale, attribute_scale, limited], np.float64)


def _save_checkpoint(path: Path, model: keras.Model, average: RunningAverage, history: NDArray[np.float64]) -> None:
    averages = {f"average_{i:04d}": value for i, value in enumerate(average.values)}
    save_checkpoint(path, model, history=history, steps=np.array(average.steps), **averages)


def _restore(model: keras.Model, average: RunningAverage, path: Path) -> NDArray[np.float64]:
    """Load the checkpoint's variables and average and return its history; without one, an empty history."""
    saved = restore_checkpoint(path, model)
    if saved is None:
        return np.empty((0, len(HISTORY_COLUMNS)))
    average.values = [saved[f"average_{i:04d}"] for i in range(len(average.values))]
    average.steps = int(saved["steps"])
    history: NDArray[np.float64] = saved["history"]
    _log.info("resuming %s after epoch %d", path.parent.name, len(history))
    return history


def _save_snapshot(
    path: Path,
    embedder: keras.Model,
    heads: Sequence[SubClusterAdaCos],
    average: RunningAverage,
    labels: Labels,
    *,
    epoch: int,
    limited: bool,
) -> None:
    last = [ops.convert_to_numpy(v) for v in (*embedder.variables, *(head.centers for head in heads))]
    arrays: dict[str, Any] = {}
    for served, values in ((ServedWeights.LAST, last), (ServedWeights.AVERAGE, average.values)):
        weights, centers = values[: len(embedder.variables)], values[len(embedder.variables) :]
        arrays |= {f"{served}_weight_{i:04d}": value for i, value in enumerate(weights)}
        arrays |= {
            f"{served}_centers_{head.name}": value / np.linalg.norm(value, axis=0)
            for head, value in zip(heads, centers, strict=True)
        }
    classes = {"section_classes": labels.section_classes, "attribute_classes": labels.attribute_classes}
    arrays |= {name: np.array(["\x1f".join(names) for names in group]) for name, group in classes.items()}
    write_atomically(path, lambda file: np.savez(file, epoch=epoch, limited=limited, **arrays))


def load_snapshot(path: Path, network: Network, served: ServedWeights = ServedWeights.LAST) -> Snapshot:
    """Read a snapshot that `fit_network` wrote, with the weights that are to serve."""
    with np.load(path) as saved:
        weights = tuple(saved[name] for name in sorted(saved.files) if name.startswith(f"{served}_weight_"))

        def centers(head: str, classes: str) -> dict[HeadClass, NDArray[np.float32]]:
            if f"{served}_centers_{head}" not in saved.files:
                return {}
            columns = saved[f"{served}_centers_{head}"].T.reshape(len(saved[classes]), network.sub_clusters, -1)
            return {tuple(str(n).split("\x1f")): c for n, c in zip(saved[classes], columns, strict=True)}

        return Snapshot(
            network=network,
            due=int(path.stem),
            epoch=int(saved["epoch"]),
            limited=bool(saved["limited"]),
            served=served,
            weights=weights,
            section_centers=centers("sections", "section_classes"),
            attribute_centers=centers("attributes", "attribute_classes"),
        )
