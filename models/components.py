"""The components of mixtures side by side, so that all of an ensemble are evaluated in a few matrix products.

Conventions and the formula are those of `models.mixtures`. Each member of an ensemble has embeddings of its own and any
number of mixtures; those of one member stand together, members in their order. Per clip there is then one product
with the W of each member, in float32, one with its means, in float64, and the rest is done for all members at once: for
the twenty members of a section a hundred small products would cost more in calls than in arithmetic.

A clip reads every number once, so that memory sets the pace, and the order in memory with it. A member's rows lie
column by column: a product then runs along thousands of numbers and not along the 128 of each row, which takes two
thirds of the time for one clip, and 0.7 of it for eight (DECISIONS.md). And all members lie in one array: numpy asks
for huge pages where it has 4 MiB or more, which saves another quarter.
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

    ``means``: those of each member, (its components, d) float64. ``factors``: the W of each, (its rows, d); their
    dtype is that in which they are multiplied. Both may be parts of larger arrays: they hold nearly all of the memory.
    ``offsets``: (r,) W mu. ``constants``: (k,) float64, what no clip changes: ln w - ln det Sigma / 2 - |mu|^2 / 2 reg
    and what belongs to pi. ``regularisation``: (k,). ``ranks``: (k,). ``counts``: (mixtures,) components of each.
    """

    means: tuple[NDArray[np.float64], ...]
    factors: tuple[Floats, ...]
    offsets: Floats
    constants: NDArray[np.float64]
    regularisation: NDArray[np.float64]
    ranks: NDArray[np.int64]
    counts: NDArray[np.int64]
    _of_members: NDArray[np.int64] = field(init=False, repr=False)  # components of each
    _starts: NDArray[np.intp] = field(init=False, repr=False)  # where each mixture's components begin
    _places: list[tuple[slice, slice]] = field(init=False, repr=False)  # each member's components and their rows
    _ranked: NDArray[np.intp] = field(init=False, repr=False)  # components that own rows ...
    _row_starts: NDArray[np.intp] = field(init=False, repr=False)  # ... and where these begin

    def __post_init__(self) -> None:
        self._of_members = np.array([len(means) for means in self.means])
        self._starts = np.append(0, np.cumsum(self.counts)[:-1])
        ends, row_ends = np.append(0, np.cumsum(self._of_members)), np.append(0, np.cumsum(self.ranks))
        self._places = [
            (slice(start, end), slice(int(row_ends[start]), int(row_ends[end])))
            for start, end in pairwise(ends.tolist())
        ]
        self._ranked = np.flatnonzero(self.ranks)
        self._row_starts = row_ends[:-1][self._ranked]

    @classmethod
    def joined(cls, members: Sequence[Sequence[Self]]) -> Self:
        """Those of each member, one behind the other; without a copy where the parts of each member lie so already.

        Raises
        ------
        ValueError : where some are of float32 and some of float64: the joint product would change their values.
        """
        parts = [part for member in members for part in member]
        if len({part.offsets.dtype for part in parts}) != 1:
            raise ValueError("The mixtures of a section must all be of float32, or all of float64.")
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("offsets", "constants", "regularisation", "ranks", "counts")
        }
        means = _joined([[own for part in member for own in part.means] for member in members])
        factors = _joined([[own for part in member for own in part.factors] for member in members])
        return cls(means, factors, **arrays)

    def weighted_log_likelihoods(self, x: Floats) -> NDArray[np.float64]:
        """ln w_k + ln N(x; mu_k, Sigma_k) of every component, (clips, k), nats. ``x``: (clips, members, d)."""
        x = np.asarray(x, self.offsets.dtype)
        wide = x.astype(np.float64, copy=False)
        result = np.empty((len(x), len(self.constants)))
        projections = np.empty((len(x), len(self.offsets)), self.offsets.dtype)
        for member, (own, rows) in enumerate(self._places):
            np.matmul(wide[:, member], self.means[member].T, out=result[:, own])
            np.matmul(x[:, member], self.factors[member].T, out=projections[:, rows])
        # -|x - mu|^2 / 2 reg, its |mu|^2 being in the constants
        result -= np.repeat(0.5 * (wide * wide).sum(axis=2), self._of_members, axis=1)
        result /= self.regularisation
        result += self.constants
        projections -= self.offsets
        np.square(projections, out=projections)
        if len(self._ranked):
            # reduceat gives nonsense for an empty segment: only components that own rows take part
            result[:, self._ranked] += 0.5 * np.add.reduceat(projections, self._row_starts, axis=1)
        return result

    def best(self, x: Floats) -> NDArray[np.float64]:
        """The largest of them for each mixture, (clips, mixtures). ``x``: (clips, members, d)."""
        best: NDArray[np.float64] = np.maximum.reduceat(self.weighted_log_likelihoods(x), self._starts, axis=1)
        return best


def _joined(members: Sequence[Sequence[NDArray[Any]]]) -> tuple[NDArray[Any], ...]:
    """The rows of each member, column by column, all in one array; where they are in place, they stay there."""
    in_place = tuple(own for own in map(_in_place, members) if own is not None)
    if len(in_place) == len(members):
        return in_place
    sizes = [sum(map(len, parts)) for parts in members]
    dtype, d = members[0][0].dtype, members[0][0].shape[1]
    whole = np.empty(d * sum(sizes), dtype)
    blocks = []
    for parts, size, end in zip(members, sizes, np.cumsum(sizes).tolist(), strict=True):
        block = whole[d * (end - size) : d * end].reshape(d, size).T
        np.concatenate(parts, out=block, casting="no")
        blocks.append(block)
    return tuple(blocks)


def _in_place(parts: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """All rows as one part of an array in which they lie so, one behind the other; None where they lie elsewhere."""
    parts = [part for part in parts if len(part)] or parts[:1]
    first, rows = parts[0], sum(map(len, parts))
    size, column = first.strides
    if len(parts) == 1:
        return first
    if first.base is None or size != first.itemsize or column < rows * size:
        return None
    begin = first.ctypes.data
    for part in parts:
        alike = (part.shape[1:], part.strides, part.dtype) == (first.shape[1:], first.strides, first.dtype)
        if part.base is not first.base or not alike or part.ctypes.data != begin:
            return None
        begin += len(part) * size
    return np.lib.stride_tricks.as_strided(first, (rows, first.shape[1]))
