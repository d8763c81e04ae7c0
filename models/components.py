"""The components of mixtures side by side, so that all of an ensemble are evaluated in a few matrix products.

Conventions and the formula are those of `models.mixtures`. Each member of an ensemble has embeddings of its own and any
number of components; those of one member stand together, members in their order. Per clip there is then one product
with the W of each member, in float32, one with its means, in float64, and the rest is done for all members at once: for
the twenty members of a section a hundred small products would cost more in calls than in arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(slots=True, eq=False)
class Components:
    """Components in the order of their members, k in all, with the rows of their factors, r in all.

    ``means``: (k, d) float64. ``factors``: (r, d), the W; their dtype is that in which they are multiplied.
    ``offsets``: (r,) W mu. ``constants``: (k,) float64, what no clip changes: ln w - ln det Sigma / 2 - |mu|^2 / 2 reg
    and what belongs to pi. ``regularisation``: (k,). ``ranks``: (k,). ``counts``: (members,) components of each.
    """

    means: NDArray[np.float64]
    factors: Floats
    offsets: Floats
    constants: NDArray[np.float64]
    regularisation: NDArray[np.float64]
    ranks: NDArray[np.int64]
    counts: NDArray[np.int64]
    _owned: list[tuple[int, slice, slice]] = field(init=False, repr=False)  # each member's components and their rows
    _ranked: NDArray[np.intp] = field(init=False, repr=False)  # components that own rows ...
    _row_starts: NDArray[np.intp] = field(init=False, repr=False)  # ... and where these begin
    _starts: NDArray[np.intp] = field(init=False, repr=False)  # where each member's components begin

    def __post_init__(self) -> None:
        ends, row_ends = np.append(0, np.cumsum(self.counts)), np.append(0, np.cumsum(self.ranks))
        self._owned = [
            (member, slice(start, end), slice(int(row_ends[start]), int(row_ends[end])))
            for member, (start, end) in enumerate(pairwise(ends.tolist()))
        ]
        self._ranked = np.flatnonzero(self.ranks)
        self._row_starts = row_ends[:-1][self._ranked]
        self._starts = ends[:-1]

    @classmethod
    def joined(cls, members: Sequence[Sequence[Self]]) -> Self:
        """Those of each member, one behind the other.

        Raises
        ------
        ValueError : where some are of float32 and some of float64: the joint product would change their values.
        """
        parts = [part for member in members for part in member]
        if len({part.factors.dtype for part in parts}) != 1:
            raise ValueError("The mixtures of a section must all be of float32, or all of float64.")
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("means", "factors", "offsets", "constants", "regularisation", "ranks")
        }
        return cls(**arrays, counts=np.array([sum(len(part.ranks) for part in member) for member in members]))

    def weighted_log_likelihoods(self, x: Floats) -> NDArray[np.float64]:
        """ln w_k + ln N(x; mu_k, Sigma_k) of every component, (clips, k), nats. ``x``: (clips, members, d)."""
        x = np.asarray(x, self.factors.dtype)
        wide = x.astype(np.float64, copy=False)
        result = np.empty((len(x), len(self.means)))
        projections = np.empty((len(x), len(self.factors)), self.factors.dtype)
        for member, own, rows in self._owned:
            np.matmul(wide[:, member], self.means[own].T, out=result[:, own])
            np.matmul(x[:, member], self.factors[rows].T, out=projections[:, rows])
        # -|x - mu|^2 / 2 reg, its |mu|^2 being in the constants
        result -= np.repeat(0.5 * np.einsum("nmd,nmd->nm", wide, wide), self.counts, axis=1)
        result /= self.regularisation
        result += self.constants
        projections -= self.offsets
        np.square(projections, out=projections)
        if len(self._ranked):
            # reduceat gives nonsense for an empty segment: only components that own rows take part
            result[:, self._ranked] += 0.5 * np.add.reduceat(projections, self._row_starts, axis=1)
        return result

    def best(self, x: Floats) -> NDArray[np.float64]:
        """The largest of them for each member, (clips, members). ``x``: (clips, members, d)."""
        best: NDArray[np.float64] = np.maximum.reduceat(self.weighted_log_likelihoods(x), self._starts, axis=1)
        return best
