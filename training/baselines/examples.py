"""What the baselines' networks look at: consecutive frames of a log-mel spectrogram, side by side.

A clip's frames lie one behind the other in memory, so that any consecutive ones are already such a vector: nothing is
copied before a batch is drawn, however large the feature store.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.frontend import N_FRAMES
from training.baselines.trained import Budget


def stack_frames(log_mels: NDArray[np.float32], frames: int, hop: int) -> NDArray[np.float32]:
    """A view of every ``hop``-th run of so many consecutive frames.

    Parameters
    ----------
    log_mels : (clips, time, mels), contiguous.

    Returns
    -------
    (clips, 1 + (time - frames) // hop, frames * mels): the earliest frame first, a frame's mel bins together.
    """
    clips, time, mels = log_mels.shape
    flat = np.asarray(log_mels).reshape(clips, time * mels)
    stacks: NDArray[np.float32] = sliding_window_view(flat, frames * mels, axis=1)[:, :: hop * mels]
    return stacks


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What a network learns from.

    ``log_mels``: (all clips, 313, 128) dB, may be memory-mapped. ``rows``: (clips,), its own among them. ``classes``:
    (clips,) int32, which of the network's sections each is of; None where it is to give back what it is given.
    """

    log_mels: NDArray[np.float32]
    rows: NDArray[np.intp]
    classes: NDArray[np.int32] | None

    def batches(self, budget: Budget, seed: int, epoch: int) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        """The epoch's batches: each stack of frames once, in an order of this epoch, and what is to be answered."""
        stacks = stack_frames(self.log_mels, budget.frames, budget.hop)
        a_clip = stacks.shape[1]
        order = np.random.default_rng([seed, epoch]).permutation(len(self.rows) * a_clip)
        for start in range(0, len(order), budget.batch_size):
            clips, places = np.divmod(order[start : start + budget.batch_size], a_clip)
            given = stacks[self.rows[clips], places]
            yield given, given if self.classes is None else self.classes[clips]


def epoch_steps(clips: int, budget: Budget) -> int:
    """Optimiser steps of an epoch over so many clips; the last, partial batch is one too."""
    stacks = 1 + (N_FRAMES - budget.frames) // budget.hop
    return math.ceil(clips * stacks / budget.batch_size)
