"""What a few clips of a changed condition say, for one member and in closed form (paper 2.4 and 2.6).

The same for clips that a bundle was trained with and for clips registered since. Needs no scikit-learn.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.mixtures import REGULARISATION, clip_mixture
from models.references import References, cosine_distances, refer_to
from models.scoring import Normality

Floats = NDArray[np.floating[Any]]

SMOTE_NEIGHBOURS = 5
"""Chawla et al. 2002: a synthetic clip lies between a clip and one of its five nearest."""

_SMOTE_SEED = 0  # one for all: registering the same clips again must give the same scores


def target_normality(
    section: Normality, x: Floats, *, synthetic: int = 0, regularisation: float = REGULARISATION
) -> Normality:
    """Model target clips in the way of the member's section: a component a clip, or each clip a reference.

    Parameters
    ----------
    section : what the member knows of the section's usual condition; references stand beside it.
    x : (n, d) of n >= 1 target clips, L2-normalised.
    synthetic : so many are added between them, see `smote`.
    regularisation : of mixtures.
    """
    x = smote(x, synthetic)
    if isinstance(section, References):
        return refer_to(x, neighbours=section.neighbours, beside=section)
    return clip_mixture(x, regularisation=regularisation)


def smote(x: Floats, synthetic: int) -> Floats:
    """``x`` (n, d) and below it ``synthetic`` further rows between its own (SMOTE), of length 1 again.

    Each lies at a uniform place on the line from a clip, drawn at random, to one of its `SMOTE_NEIGHBOURS` nearest.
    Equal clips give equal rows. A single clip has nothing beside it, and stays alone.
    """
    if not synthetic or len(x) < 2:
        return x
    random = np.random.default_rng(_SMOTE_SEED)
    distances = cosine_distances(x, x)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argsort(axis=1, kind="stable")[:, : min(SMOTE_NEIGHBOURS, len(x) - 1)]
    start = random.integers(len(x), size=synthetic)
    end = nearest[start, random.integers(nearest.shape[1], size=synthetic)]
    place = random.uniform(size=(synthetic, 1))
    between = x[start].astype(np.float64) * (1.0 - place) + x[end] * place
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    return np.concatenate([x, between.astype(x.dtype)])
