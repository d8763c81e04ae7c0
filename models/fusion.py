"""From distances to one score: a p-value for each sub-system, fused (the recipe `plant`).

Conventions: a sub-system gives each clip a distance to the nearest reference, at least 0; x is its logarithm. A
section's n source clips, each scored by the fold that has not heard it, say how x falls among normal clips; a new
clip's p is how rarely a Student t variable with n - 1 degrees of freedom lies as far above their mean. ln p is in nats,
at most 0 and always finite; scores are sums of -ln p, higher is more anomalous.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import scipy.special
from numpy.typing import NDArray

from models.vocabulary import SubSystem

Values = NDArray[np.floating[Any]]

LEAST_CLIPS: Final = 3
"""Of fewer source clips no distribution can be told: no p-value, no threshold."""
SMALLEST_DISTANCE: Final = 1e-9
_SMALLEST_DEVIATION: Final = 1e-6
"""Clips that are copies of each other have no spread; a new one that differs by less is not told from them."""
_SMALL: Final = 1e-200
"""Under so small a probability its logarithm comes from a series, which cannot underflow."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How x falls among a section's normal source clips: mean, standard deviation (ddof 1), and of how many clips."""

    mean: float
    deviation: float
    clips: int

    @classmethod
    def of(cls, x: Values) -> Self:
        """Of held-out x, (n,).

        Raises
        ------
        ValueError : for fewer than three, or where one is not finite.
        """
        values = np.asarray(x, np.float64)
        if len(values) < LEAST_CLIPS or not np.isfinite(values).all():
            raise ValueError(f"{len(values)} values of x, all finite; at least {LEAST_CLIPS} are needed.")
        return cls(float(values.mean()), max(float(values.std(ddof=1)), _SMALLEST_DEVIATION), len(values))


def log_distance(distances: Values) -> NDArray[np.float64]:
    """x = ln(max(distance, 1e-9)), of any shape."""
    logarithm: NDArray[np.float64] = np.log(np.maximum(np.asarray(distances, np.float64), SMALLEST_DISTANCE))
    return logarithm


def log_p_value(x: Values, spread: Spread) -> NDArray[np.float64]:
    """ln p of new clips, (clips,): the t distribution's upper tail at (x - mean) / (s sqrt(1 + 1/n)), n - 1 degrees."""
    z = (np.asarray(x, np.float64) - spread.mean) / (spread.deviation * np.sqrt(1.0 + 1.0 / spread.clips))
    return log_upper_tail(z, spread.clips - 1)


def left_out_log_p_values(x: Values, among: Values | None = None, left_out: NDArray[np.bool_] | None = None) -> Values:
    """ln p of a section's own source clips, each against the others' x: the factor sqrt(1 + 1/(n - 1)), n - 1 degrees.

    Parameters
    ----------
    x : (n,) the clips' values.
    among : (n,) the values they are compared with, in the same order; None compares them with themselves.
    left_out : (n,) whether a clip's own value must be left out of those it is compared with; None is always.

    Raises
    ------
    ValueError : for fewer than three clips.
    """
    x, others = np.asarray(x, np.float64), np.asarray(x if among is None else among, np.float64)
    n = len(others)
    whole = Spread.of(others)
    log_p = log_p_value(x, whole)
    for place in np.flatnonzero(np.ones(n, bool) if left_out is None else left_out):
        rest = np.delete(others, place)
        deviation = max(float(rest.std(ddof=1)), _SMALLEST_DEVIATION)
        z = (x[place] - rest.mean()) / (deviation * np.sqrt(1.0 + 1.0 / (n - 1)))
        log_p[place] = log_upper_tail(z, n - 1)
    return log_p


def log_upper_tail(z: Values | float, degrees: int) -> NDArray[np.float64]:
    """ln of the probability that a Student t variable exceeds ``z``; finite for every finite ``z``.

    P = I_u(v/2, 1/2) / 2 with u = v / (v + z^2). Where that underflows, the incomplete beta function's series gives its
    logarithm: I_u(a, b) = u^a (1 - u)^b F(a + b, 1; a + 1; u) / (a B(a, b)) (DLMF 8.17.8).
    """
    z = np.asarray(z, np.float64)
    probability = np.asarray(scipy.special.stdtr(degrees, -z))
    with np.errstate(divide="ignore"):
        logarithm = np.array(np.log(probability))
    far = probability < _SMALL
    if far.any():
        a, b, square = degrees / 2.0, 0.5, z[far] ** 2
        u = degrees / (degrees + square)
        series = np.log(scipy.special.hyp2f1(a + b, 1.0, a + 1.0, u))
        logarithm[far] = (
            np.log(0.5)
            + a * np.log(u)
            - b * np.log1p(degrees / square)
            + series
            - np.log(a)
            - scipy.special.betaln(a, b)
        )
    return logarithm


def fused_score(log_p: Mapping[SubSystem, Values], counted: Collection[SubSystem]) -> NDArray[np.float64]:
    """The mean over the networks of -ln p, and F's -ln p added, of those sub-systems that count; (clips,) nats.

    Raises
    ------
    ValueError : where none counts.
    """
    networks = [-np.asarray(log_p[one], np.float64) for one in counted if one is not SubSystem.F]
    parts = [np.mean(networks, axis=0)] if networks else []
    if SubSystem.F in counted:
        parts.append(-np.asarray(log_p[SubSystem.F], np.float64))
    if not parts:
        raise ValueError("A score needs a sub-system that counts.")
    score: NDArray[np.float64] = np.sum(parts, axis=0)
    return score
