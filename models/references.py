"""Normal clips themselves as what is normal: the nearest one counts, by cosine distance.

Conventions: rows of ``x`` are embeddings of length 1; D(x, y) = 1 - cosine(x, y), from 0 to 2. The score of a clip is

    min over references y of D(x, y) / r_y

with r_y = 1, or, to normalise for the local density (Wilkinghoff et al., Local Density-Based Anomaly Score
Normalization for Domain Generalization, 2025), r_y = the mean of D(y, y_k) over the K references y_k nearest to y: what
lies a given distance from references that are close together is more anomalous than beside references that are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

SMALLEST_SCALE = 1e-6
"""Of a reference that was recorded twice: float32 embeddings tell no two clips apart that are nearer."""


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Embeddings that clips are compared with.

    ``points``: (n, d) float32, L2-normalised. ``scales``: (n,) float64, their r_y, above 0. ``neighbours``: K; 0 where
    all scales are 1.

    Raises
    ------
    ValueError : where shapes, types or values do not fit together.
    """

    points: NDArray[np.float32]
    scales: NDArray[np.float64]
    neighbours: int

    def __post_init__(self) -> None:
        points, scales = self.points, self.scales
        if points.ndim != 2 or 0 in points.shape or points.dtype != np.float32:
            raise ValueError(f"points must be (references, dimensions) of float32, not {points.shape} {points.dtype}.")
        if not np.allclose(np.linalg.norm(points, axis=1), 1.0, rtol=0.0, atol=1e-3):  # false for NaN too
            raise ValueError("points must be L2-normalised.")
        if scales.shape != (len(points),) or scales.dtype != np.float64:
            raise ValueError(f"scales must be ({len(points)},) of float64, not {scales.shape} {scales.dtype}.")
        if not (np.isfinite(scales) & (scales > 0.0)).all():
            raise ValueError("scales must be finite and above 0.")
        if self.neighbours < 0:
            raise ValueError(f"neighbours must be at least 0, not {self.neighbours}.")

    def distances(self, x: Floats) -> NDArray[np.float64]:
        """The score min_y D(x, y) / r_y of each clip, (clips,). ``x``: (clips, d), L2-normalised."""
        if x.ndim != 2 or x.shape[1] != self.points.shape[1]:
            raise ValueError(f"x must have the shape (clips, {self.points.shape[1]}), not {x.shape}.")
        nearest: NDArray[np.float64] = (cosine_distances(x, self.points) / self.scales).min(axis=1)
        return nearest

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The references as plain arrays, for a file."""
        return {name: np.asarray(getattr(self, name)) for name in REFERENCE_ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises
        ------
        ValueError : where an array does not fit the others; KeyError : where one is missing.
        """
        neighbours = np.asarray(arrays["neighbours"])
        if neighbours.shape != () or neighbours.dtype.kind != "i":
            raise ValueError(f"neighbours must be a single integer, not {neighbours!r}.")
        return cls(np.asarray(arrays["points"]), np.asarray(arrays["scales"]), int(neighbours))


REFERENCE_ARRAYS = tuple(entry.name for entry in fields(References))


def refer_to(x: Floats, *, neighbours: int = 0, beside: References | None = None) -> References:
    """Make clips references.

    Parameters
    ----------
    x : (n, d) of n >= 1 clips, L2-normalised.
    neighbours : K, over which the local density is taken; 0 for none.
    beside : references that are there already, and may be nearest neighbours of the new ones too.

    A reference that has fewer than K others is scaled by those it has; the only one of all by 1.
    """
    points = np.asarray(x, np.float32)
    scales = np.ones(len(points))
    if neighbours:
        others = points if beside is None else np.concatenate([points, beside.points])
        distances = cosine_distances(points, others)
        np.fill_diagonal(distances, np.inf)  # none is a neighbour of its own
        nearest = np.sort(distances, axis=1)[:, : min(neighbours, len(others) - 1)]
        if nearest.shape[1]:
            scales = np.maximum(nearest.mean(axis=1), SMALLEST_SCALE)
    return References(points, scales, neighbours)


def cosine_distances(x: Floats, y: Floats) -> NDArray[np.float64]:
    """D(x, y) = 1 - cosine, at least 0, (n, m). ``x``: (n, d), ``y``: (m, d), L2-normalised."""
    distances: NDArray[np.float64] = np.maximum(0.0, 1.0 - x.astype(np.float64) @ y.T.astype(np.float64))
    return distances
