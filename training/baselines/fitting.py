"""Training a baseline's network: epochs over stacked frames, a checkpoint after each, so that a killed run resumes.

A run is a function of (features, budget, seed): the order of an epoch is drawn from (seed, network, epoch). In the
network's folder lies ``checkpoint.npz``: all variables of model and optimiser, and the loss of each epoch.
"""

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from models.commands import shell_line
from models.errors import TrainingDiverged
from training.baselines.examples import Examples, epoch_steps
from training.baselines.trained import Budget
from training.checkpoint import restore_checkpoint, save_checkpoint
from training.progress import Advance


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
    saved = restore_checkpoint(path, model)
    losses: NDArray[np.float64] = np.empty(0) if saved is None else saved["losses"]
    advance(len(losses) * epoch_steps(len(examples.rows), budget))
    for epoch in range(len(losses) + 1, budget.epochs + 1):
        losses = np.append(losses, _train_epoch(model, examples, budget, seed, epoch, advance))
        if not math.isfinite(losses[-1]):
            raise TrainingDiverged(
                f"Training of {folder.name} diverged in epoch {epoch}: the loss is {losses[-1]}. Check the recordings "
                f"with '{shell_line('training check')}'."
            )
        save_checkpoint(path, model, losses=losses)
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
