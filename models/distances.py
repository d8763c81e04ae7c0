"""Distances of clips to the nearest of their references, the normal clips that a section keeps.

Conventions: a row is a clip; distances are float64, (queries,). Where |q - r|^2 is expanded into products, it cancels
near a reference, and what is scored is the logarithm of a distance. So the expansion only finds the nearest reference,
in one matrix product, and its distance is that of the difference: a distance of 1e-9 has as many digits as one of 1.
Of references that are equally near to within a rounding of |q|^2, either may be taken.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def euclidean_distance_to_nearest(queries: Floats, references: Floats) -> NDArray[np.float64]:
    """min_r |q - r| for each query.

    Parameters
    ----------
    queries : (n, d)
    references : (m, d), at least one.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ValueError : without references, or where the shapes do not fit together.
    """
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1]:
        raise ValueError(
            f"Queries and references are rows of the same dimension, not {queries.shape} and {references.shape}."
        )
    if not len(references):
        raise ValueError("There is no reference to be near to: at least one clip is needed.")
    q, r = np.asarray(queries, np.float64), np.asarray(references, np.float64)
    nearest = (q @ r.T - 0.5 * np.vecdot(r, r)).argmax(axis=1)  # (|q|^2 - |q - r|^2) / 2
    distances: NDArray[np.float64] = np.linalg.norm(q - r[nearest], axis=1)
    return distances


def cosine_distance_to_nearest(queries: Floats, references: Floats) -> NDArray[np.float64]:
    """1 - cos(q, r) of the reference r with the largest cosine, for each query: of embeddings, 0 to 2.

    Parameters
    ----------
    queries : (n, d), of any length but zero.
    references : (m, d), likewise, at least one.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ValueError : for a row of zeros, which has no direction, and as `euclidean_distance_to_nearest` does.
    """
    distances = euclidean_distance_to_nearest(_directions(queries), _directions(references))
    return 0.5 * distances**2  # |u - v|^2 = 2 - 2 cos(u, v)


def _directions(rows: Floats) -> NDArray[np.float64]:
    wide = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not lengths.all():
        raise ValueError("An embedding of zeros has no direction, and no cosine to a reference.")
    directions: NDArray[np.float64] = wide / lengths
    return directions
