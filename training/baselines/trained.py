"""What a trained baseline is, and what every one can do: score windows of a section under a condition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.frontend import LogMelSpec
from models.vocabulary import Domain, SectionKey
from training.scored import SystemName

BASELINES = (SystemName.AUTOENCODER, SystemName.MOBILENETV2, SystemName.FLOOR)

Place = tuple[SectionKey, Domain]
"""What has a threshold: a section under one condition."""

Arrays = Mapping[str, NDArray[Any]]
"""By path: ``<network>/<array>``, or ``<machine type>/<section>/<array>``."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a network trains, and on what: ``frames`` consecutive frames side by side, beginning every ``hop``."""

    frames: int
    hop: int
    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Network:
    """The sections that a network learns from, in the order of its classes, and its budget."""

    sections: tuple[SectionKey, ...]
    budget: Budget


class Scorer(Protocol):
    """A baseline's arithmetic."""

    def score(self, log_mels: NDArray[np.float32], key: SectionKey, domain: Domain) -> NDArray[np.float64]:
        """Anomaly scores of ten-second windows of a known section: (windows, 313, 128) dB -> (windows,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A finished baseline.

    ``recordings``: SHA-256 of the sounds it learned from and of what they are. ``clips``: their number. ``networks``:
    by name; none for the floor. ``thresholds``: of every section and condition that it can score; None where too few
    clips stand behind one.
    """

    kind: SystemName
    seed: int
    recordings: str
    clips: int
    front_end: LogMelSpec
    networks: Mapping[str, Network]
    thresholds: Mapping[Place, float | None]
    arrays: Arrays
