"""Test clips' embeddings, kept small, and laid out in a plane.

42,000 clips of 40 members are 860 MB of embeddings. A clip's are averaged over its windows and written one after
another, (members x 128), and a seeded Gaussian projection takes them to 128 values: distances stay what they are to
about 6 % (Johnson and Lindenstrauss), for all members at once, and 42,000 clips are 22 MB.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoder import EMBEDDING_SIZE
from training.scored import Scored

_SEED = 2021


class EmbeddingRows:
    """Keeps one short row a clip: see `training.contenders.Watch`."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Path, float], NDArray[np.float32]] = {}

    def __call__(self, clip: Scored, embeddings: NDArray[np.float32]) -> None:
        """Take in a clip: its windows' embeddings, (windows, members, 128)."""
        row = embeddings.mean(axis=0).reshape(-1)
        short = row if len(row) == EMBEDDING_SIZE else row @ _projection(len(row))
        self._rows[clip.recording.path, clip.start_s] = short

    def of(self, clips: Sequence[Scored]) -> NDArray[np.float32]:
        """(clips, 128), each clip's; of machine types that other members score, rows are not comparable."""
        return np.array([self._rows[clip.recording.path, clip.start_s] for clip in clips]).reshape(-1, EMBEDDING_SIZE)


@lru_cache(maxsize=4)
def _projection(size: int) -> NDArray[np.float32]:
    directions = np.random.default_rng([_SEED, size]).normal(size=(size, EMBEDDING_SIZE))
    projection: NDArray[np.float32] = (directions / np.sqrt(EMBEDDING_SIZE)).astype(np.float32)
    return projection


def plane(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """The two directions in which the rows differ most (principal components).

    Parameters
    ----------
    rows : (clips, size), of one machine type.

    Returns
    -------
    (clips, 2) places, each axis's sign fixed by its largest value, and the share of the rows' variance that they hold.
    """
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(rows), 2))
    kept = min(2, len(strength))
    places[:, :kept] = left[:, :kept] * strength[:kept]
    places *= np.where(places[np.abs(places).argmax(axis=0), [0, 1]] < 0.0, -1.0, 1.0)
    power = strength**2
    return places, float(power[:kept].sum() / power.sum()) if power.sum() > 0.0 else 1.0
