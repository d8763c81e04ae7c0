"""The geometry of the system `dynamics`: what directions a machine's sound varies in under one condition.

Conventions: a residual is a clip's dynamics (d, cor, env, env2: 936 values) less the mean of its condition. A section's
residuals say little alone, so those of its machine type's sections are pooled; they come from source clips only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage
from threadpoolctl import threadpool_limits

from models.compact import Whitening

Floats = NDArray[np.floating[Any]]

_SMALLEST_SCALE = 1e-9
_SMALLEST_FLOOR = 1e-9
"""Where all residuals are 0 there is nothing to shrink towards."""
_NEGLIGIBLE = 1e-10
"""Variances below this share of the floor move no distance."""


def residuals(dynamics: Floats, conditions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Deviations of a section's source clips from the mean of their condition, each times sqrt(n / (n - 1)).

    Conditions of a single clip say nothing and are left out; if none remains, all clips are one condition.

    Parameters
    ----------
    dynamics : (clips, 936).
    conditions : (clips,) the number of each clip's condition.

    Returns
    -------
    (r, 936) float64, r of the clips; none for a single clip.
    """
    dynamics = np.asarray(dynamics, np.float64)
    groups = [dynamics[conditions == one] for one in np.unique(conditions)]
    groups = [group for group in groups if len(group) > 1] or [dynamics]
    own = [(group - group.mean(axis=0)) * np.sqrt(len(group) / (len(group) - 1)) for group in groups if len(group) > 1]
    return np.concatenate(own) if own else np.empty((0, dynamics.shape[1]))


def fit_whitening(own: Floats, pool: Sequence[Floats]) -> Whitening:
    """The geometry of one section and fold.

    Every value is divided by sqrt(half this section's variance + half the pool's); the covariance is the pool's,
    shrunk as Ledoit and Wolf (2004) do it for known means.

    Parameters
    ----------
    own : (r, 936) residuals of the section; where it has none, the pool's variance is taken alone.
    pool : residuals of each section of the machine type, this one among them.
    """
    every = np.concatenate([np.asarray(one, np.float64) for one in pool])
    if not len(every):
        width = every.shape[1]
        return Whitening(np.ones(width), 1.0, np.empty((0, width), np.float32), np.empty(0))
    pooled = np.mean(every**2, axis=0)
    variance = pooled if not len(own) else 0.5 * np.mean(np.asarray(own, np.float64) ** 2, axis=0) + 0.5 * pooled
    scale = np.sqrt(variance) + _SMALLEST_SCALE
    scaled = every / scale
    with threadpool_limits(limits=1):
        shrinkage = float(ledoit_wolf_shrinkage(scaled, assume_centered=True))
        _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    floor = max(shrinkage * float(np.mean(scaled**2)), _SMALLEST_FLOOR)
    variances = (1.0 - shrinkage) * singular**2 / len(scaled)
    kept = variances > _NEGLIGIBLE * floor
    return Whitening(scale, floor, directions[kept].astype(np.float32), variances[kept])
