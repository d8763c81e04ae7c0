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


def whitening_factor(covariance: Floats) -> NDArray[np.float64]:
    """L with L L' = covariance^-1, upper triangular: |x L| is the Mahalanobis length of the row x.

    Parameters
    ----------
    covariance : (d, d), symmetric and positive definite.

    Returns
    -------
    (d, d) float64, the inverse of the transposed Cholesky factor.

    Raises
    ------
    ValueError : where the covariance is not positive definite, so that some direction would weigh infinitely.
    """
    try:
        lower = np.linalg.cholesky(np.asarray(covariance, np.float64))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"The covariance of {len(covariance)} dimensions is not positive definite: shrink it, or use more clips."
        ) from error
    return np.asarray(np.linalg.inv(lower).T, np.float64)


def mahalanobis_distance_to_nearest(
    queries: Floats, references: Floats, factor: NDArray[np.float64]
) -> NDArray[np.float64]:
    """min_r sqrt((q - r)' covariance^-1 (q - r)) for each query; the root is taken.

    The references can be multiplied by the factor once and kept: this is `euclidean_distance_to_nearest` of
    ``queries @ factor`` and ``references @ factor``.

    Parameters
    ----------
    queries : (n, d)
    references : (m, d), at least one.
    factor : (d, d) of `whitening_factor`.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ValueError : as `euclidean_distance_to_nearest` does.
    """
    return euclidean_distance_to_nearest(
        np.asarray(queries, np.float64) @ factor, np.asarray(references, np.float64) @ factor
    )


def _directions(rows: Floats) -> NDArray[np.float64]:
    wide = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not lengths.all():
        raise ValueError("An embedding of zeros has no direction, and no cosine to a reference.")
    directions: NDArray[np.float64] = wide / lengths
    return directions
