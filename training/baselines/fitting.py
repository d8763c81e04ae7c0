"""Training a baseline's network: epochs over stacked frames, a checkpoint after each, so that a killed run resumes.

A run is a function of (features, budget, seed): the order of an epoch is drawn from (seed, network, epoch). In the
network's folder lies ``checkpoint.npz``: all variables of model and optimiser, and the loss of each epoch.
"""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.errors import TrainingDiverged
from training.baselines.examples import Examples, epoch_steps
from training.baselines.trained import Budget
from training.progress import Advance
from training.storage import write_atomically


def fit_network(
    build: Callable[[], keras.Model], examples: Examples, budget: Budget, folder: Path, *, seed: int, advance: Advance
) -> keras.Model:
    """Train a network, or go on where a killed run stopped.

    Parameters
    ----------
    build : makes the network, compiled.
    folder : the network's own, and its name; one that holds a finished run costs nothing.
    advance : called with the number of optimiser steps done, those of an earlier run included.

    Raises
    ------
    TrainingDiverged : where the loss is not finite.
    """
    seed = zlib.crc32(f"{seed}/{folder.name}".encode())  # one a network, whatever else is trained beside it
    keras.utils.set_random_seed(seed)
    model = build()
    model.optimizer.build(model.trainable_variables)
    path = folder / "checkpoint.npz"
    losses = _restore(model, path)
    advance(len(losses) * epoch_steps(len(examples.rows), budget))
    for epoch in range(len(losses) + 1, budget.epochs + 1):
        losses = np.append(losses, _train_epoch(model, examples, budget, seed, epoch, advance))
        if not math.isfinite(losses[-1]):
            raise TrainingDiverged(
                f"Training of {folder.name} diverged in epoch {epoch}: the loss is {losses[-1]}. Check the recordings "
                "with 'python -m training check'."
            )
        _save(model, path, losses)
    return model


def _train_epoch(
    model: keras.Model, examples: Examples, budget: Budget, seed: int, epoch: int, advance: Advance
) -> float:
    """The mean loss of the epoch's examples."""
    total = count = 0.0
    for given, wanted in examples.batches(budget, seed, epoch):
        total += float(np.asarray(model.train_on_batch(given, wanted))) * len(given)
        count += len(given)
        advance(1)
    return total / count


def _variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]


def _save(model: keras.Model, path: Path, losses: NDArray[np.float64]) -> None:
    arrays = {f"variable_{i:04d}": ops.convert_to_numpy(v) for i, v in enumerate(_variables(model))}
    write_atomically(path, lambda file: np.savez(file, losses=losses, **arrays))


def _restore(model: keras.Model, path: Path) -> NDArray[np.float64]:
    """Load the checkpoint's variables and return the losses of its epochs; without one, none."""
    if not path.exists():
        return np.empty(0)
    with np.load(path) as saved:
        for i, variable in enumerate(_variables(model)):
            variable.assign(saved[f"variable_{i:04d}"])
        losses: NDArray[np.float64] = saved["losses"]
    return losses
