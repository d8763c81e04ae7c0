"""The challenge's autoencoder of 2021: normal sound can be given back through eight numbers, five frames at a time.

One network a machine type, trained on all its sections and both domains. The anomaly score of a window is the mean
squared error over all its vectors of five frames, dB^2. The official code sets the last tenth of the vectors aside for
a curve that decides nothing; here all are trained on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.frontend import N_MELS
from models.vocabulary import Domain, SectionKey
from training.baselines.examples import Examples, stack_frames
from training.baselines.trained import Arrays, Budget, Network
from training.progress import Advance

BUDGET = Budget(frames=5, hop=1, epochs=100, batch_size=512, learning_rate=1e-3)

EXAMPLE_FLOP = 6 * 264_192.0
"""A training step's multiplications and additions an example: forward, and twice that backward."""

STEP_EFFICIENCY = 0.35
"""Share of the matrix peak that a training step reaches on a CPU."""

SCORE_S = 0.01
"""Seconds that scoring a clip takes."""

Layers = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
"""(kernel, bias) of each dense layer, with its batch normalisation folded in."""


def networks(clips: Mapping[SectionKey, int]) -> dict[str, Network]:
    """A network a machine type, of all its sections; ``clips``: those to train on, by section."""
    by_type = groupby(sorted(clips), key=lambda key: key.machine_type)
    return {name: Network(tuple(own), BUDGET) for name, own in by_type}


def fit(examples: Examples, budget: Budget, folder: Path, *, seed: int, advance: Advance) -> Arrays:
    """Train one network, see `fit_network`, and give ``kernel_0``, ``bias_0``, ... of its layers."""
    from training.baselines.fitting import fit_network
    from training.baselines.networks import build_autoencoder, fold_batch_norms

    model = fit_network(
        lambda: build_autoencoder(budget.frames * N_MELS, budget.learning_rate),
        replace(examples, classes=None),
        budget,
        folder,
        seed=seed,
        advance=advance,
    )
    layers = enumerate(fold_batch_norms(model))
    return {
        name: array for i, (kernel, bias) in layers for name, array in ((f"kernel_{i}", kernel), (f"bias_{i}", bias))
    }


class AutoencoderScorer:
    """Scores by what the networks cannot give back; see `training.baselines.trained.Scorer`.

    Parameters
    ----------
    networks : their names.
    arrays : of each network as `fit` gives them, under its name.
    """

    def __init__(self, networks: Iterable[str], arrays: Arrays) -> None:
        self._layers = {name: _layers(arrays, name) for name in networks}

    def score(self, log_mels: NDArray[np.float32], key: SectionKey, domain: Domain) -> NDArray[np.float64]:  # noqa: ARG002
        """The mean squared error of each window, dB^2: (windows, 313, 128) dB -> (windows,)."""
        layers = self._layers[key.machine_type]
        vectors = stack_frames(log_mels, BUDGET.frames, BUDGET.hop)
        with threadpool_limits(limits=1):  # matrices this small keep several threads waiting for each other
            errors = [given - _reconstruct(given, layers) for given in vectors]
        return np.array([np.mean(np.square(error, dtype=np.float64)) for error in errors])


def _layers(arrays: Arrays, network: str) -> Layers:
    depth = next(i for i in count() if f"{network}/kernel_{i}" not in arrays)
    return tuple((arrays[f"{network}/kernel_{i}"], arrays[f"{network}/bias_{i}"]) for i in range(depth))


def _reconstruct(x: NDArray[np.float32], layers: Layers) -> NDArray[np.float32]:
    """(n, 640) -> (n, 640), rectified between layers."""
    for i, (kernel, bias) in enumerate(layers):
        x = (np.maximum(x, 0.0) if i else x) @ kernel + bias
    return x
