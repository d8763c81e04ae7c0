"""What the compact systems know of one section: reference clips, and how normal clips lie among them.

Conventions: a section's n training clips are dealt to K folds. A fold's networks, its geometry and its references come
from the clips outside it: the source clips, for clips of domain source, the target clips for those of domain target
(the source clips where the fold has no target clip left). A new clip's x is the mean over the folds of the logarithm of
its distance to the nearest reference; a training clip is scored by the one fold that has not heard it.

Distances: 1 - cosine between a network's embeddings; the Mahalanobis distance, not squared, between the dynamics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.distances import cosine_distance_to_nearest, euclidean_distance_to_nearest
from models.fusion import LEAST_CLIPS, Spread, fused_score, log_distance, log_p_value
from models.vocabulary import Domain, SubSystem

FOLDS: Final = 5
N_STATICS: Final = 256
"""Values of a clip's statics, ms of `models.statistics`, before its dynamics: d, cor, env and env2, 936 values."""

INPUT_SIZES: Final[Mapping[SubSystem, int]] = MappingProxyType({SubSystem.A: 1192, SubSystem.L: 512})
"""Values that the networks on statistics take of a clip: ms with the dynamics, and lin."""

_ENOUGH_CLIPS: Final = 100
"""Whose pairs say how far clips usually lie apart."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """A fold's Mahalanobis geometry of a section: a map after which the distance is Euclid's.

    The covariance matrix is ``floor`` I + V' diag(``variances``) V over dynamics that were divided by ``scale``: of r
    residuals no more than r directions vary beyond the floor, and only those are kept.

    ``scale``: (936,) float64, above 0. ``floor``: above 0. ``directions``: V, (r, 936) float32, orthonormal rows.
    ``variances``: (r,) float64, above 0.
    """

    scale: NDArray[np.float64]
    floor: float
    directions: NDArray[np.float32]
    variances: NDArray[np.float64]

    def __post_init__(self) -> None:
        r, d = len(self.variances), len(self.scale)
        if self.scale.ndim != 1 or self.directions.shape != (r, d) or self.variances.ndim != 1:
            raise ValueError(f"{r} variances and {d} scales need directions ({r}, {d}), not {self.directions.shape}.")
        if not (self.floor > 0 and (self.scale > 0).all() and (self.variances > 0).all()):
            raise ValueError("Scales, floor and variances of a whitening must be above 0.")

    def __call__(self, dynamics: Floats) -> NDArray[np.float32]:
        """(clips, 936) -> (clips, 936), whose Euclidean distances are Mahalanobis distances."""
        scaled = np.asarray(dynamics / self.scale, np.float32)
        stretched = (1.0 / np.sqrt(self.floor + self.variances) - 1.0 / np.sqrt(self.floor)).astype(np.float32)
        whitened: NDArray[np.float32] = scaled * np.float32(1.0 / np.sqrt(self.floor))
        whitened += ((scaled @ self.directions.T) * stretched) @ self.directions
        return whitened


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What the networks and the front end give of clips.

    ``embeddings``: by network, (clips, K, 128) float32, of length 1; a network a fold. ``statistics``: (clips, 1192),
    statics and dynamics.
    """

    embeddings: Mapping[SubSystem, NDArray[np.float32]]
    statistics: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def dynamics(self) -> NDArray[np.float32]:
        """What the Mahalanobis distance is of, (clips, 936)."""
        return self.statistics[:, N_STATICS:]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """These clips alone."""
        return type(self)({name: own[rows] for name, own in self.embeddings.items()}, self.statistics[rows])


@dataclass(frozen=True, slots=True, eq=False)
class CompactSection:
    """One section, as it was trained.

    ``heard``: its n training clips. ``folds``: (n,), the fold that has not heard each clip. ``is_target``: (n,).
    ``attributes``: the names of its operating conditions; ``attribute_of``: (n,) their places. ``whitenings``: one a
    fold. ``spreads``: of each sub-system's held-out x over the source clips; empty for fewer than three.
    ``counted``: the sub-systems that enter the score.

    Raises
    ------
    ValueError : where these do not fit together.
    """

    heard: Heard
    folds: NDArray[np.int64]
    is_target: NDArray[np.bool_]
    attributes: tuple[str, ...]
    attribute_of: NDArray[np.int64]
    whitenings: tuple[Whitening, ...]
    spreads: Mapping[SubSystem, Spread]
    counted: tuple[SubSystem, ...]
    _references: Mapping[Domain, "FoldReferences"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n, k = len(self.heard), len(self.whitenings)
        for name, own in (("folds", self.folds), ("is_target", self.is_target), ("attribute_of", self.attribute_of)):
            if own.shape != (n,):
                raise ValueError(f"{name} of {n} clips must be ({n},), not {own.shape}.")
        for kind, embeddings in self.heard.embeddings.items():
            if embeddings.shape[:2] != (n, k):
                raise ValueError(f"{kind} has embeddings {embeddings.shape} of {n} clips and {k} folds.")
        if not n or self.is_target.all() or not ((self.folds >= 0) & (self.folds < k)).all():
            raise ValueError(f"A section has source clips, each in one of its {k} folds.")
        if not ((self.attribute_of >= 0) & (self.attribute_of < len(self.attributes))).all():
            raise ValueError("A clip's attribute is not among the section's.")
        missing = set(self.counted) - {*self.heard.embeddings, SubSystem.F}
        if not self.counted or missing:
            raise ValueError(f"A section is scored by sub-systems it has, not by {sorted(self.counted)}.")
        if self.spreads and not set(self.counted) <= set(self.spreads):
            raise ValueError("A sub-system that counts has no spread.")
        source = self._outside_folds(Domain.SOURCE)
        target = self._outside_folds(Domain.TARGET) if self.has_target else source
        object.__setattr__(self, "_references", {Domain.SOURCE: source, Domain.TARGET: target})

    @property
    def has_target(self) -> bool:
        """Whether it was trained with target clips."""
        return bool(self.is_target.any())

    def references(self, domain: Domain) -> "FoldReferences":
        """What clips of ``domain`` are compared with, a set a fold."""
        return self._references[domain]

    def registered(self, heard: Heard) -> "FoldReferences":
        """What registered target clips are to others: the same clips in every fold, for no network has heard them."""
        folds = range(len(self.whitenings))
        return FoldReferences(
            {kind: [own[:, fold] for fold in folds] for kind, own in heard.embeddings.items()},
            [whitening(heard.dynamics) for whitening in self.whitenings],
        )

    def log_distances(self, heard: Heard, references: "FoldReferences") -> dict[SubSystem, NDArray[np.float64]]:
        """x of new clips from each sub-system that counts: the mean over the folds, (clips,)."""
        return {
            kind: np.mean(
                [
                    log_distance(references.distances(kind, fold, self._as_heard_by(fold, kind, heard)))
                    for fold in range(len(self.whitenings))
                ],
                axis=0,
            )
            for kind in self.counted
        }

    def source_pairs(self) -> dict[SubSystem, NDArray[np.float64]]:
        """x between any two source clips, from each sub-system that counts, (pairs,); of many clips, some hundred."""
        rows = np.flatnonzero(~self.is_target)
        if len(rows) < 2:
            return {}
        own = self.registered(self.heard.take(rows[:: -(-len(rows) // _ENOUGH_CLIPS)]))
        return {kind: own.log_distances_of_pairs(kind) for kind in self.counted}

    def held_out_log_distances(self) -> dict[SubSystem, NDArray[np.float64]]:
        """x of the training clips, each by the fold that has not heard it, (n,)."""
        x = {kind: np.full(len(self.heard), np.nan) for kind in self.counted}
        for fold in np.unique(self.folds):
            for domain in Domain:
                rows = np.flatnonzero((self.folds == fold) & (self.is_target == (domain is Domain.TARGET)))
                if not len(rows):
                    continue
                own, references = self.heard.take(rows), self.references(domain)
                for kind in self.counted:
                    x[kind][rows] = log_distance(
                        references.distances(kind, int(fold), self._as_heard_by(int(fold), kind, own))
                    )
        return x

    def log_p_values(self, x: Mapping[SubSystem, Floats]) -> dict[SubSystem, NDArray[np.float64]]:
        """ln p of new clips, by sub-system, (clips,).

        Raises
        ------
        ValueError : where the section has too few source clips for a p-value.
        """
        if not self.spreads:
            raise ValueError(f"The section has fewer than {LEAST_CLIPS} source clips: nothing is known of its spread.")
        return {kind: log_p_value(x[kind], self.spreads[kind]) for kind in self.counted}

    def score(self, log_p: Mapping[SubSystem, Floats]) -> NDArray[np.float64]:
        """The fused score, (clips,) nats."""
        return fused_score(log_p, self.counted)

    def _as_heard_by(self, fold: int, kind: SubSystem, heard: Heard) -> Floats:
        """What a fold's network, or its geometry, makes of clips."""
        return self.whitenings[fold](heard.dynamics) if kind is SubSystem.F else heard.embeddings[kind][:, fold]

    def _outside_folds(self, domain: Domain) -> "FoldReferences":
        rows = []
        for fold in range(len(self.whitenings)):
            outside = self.folds != fold
            own = np.flatnonzero(outside & self.is_target) if domain is Domain.TARGET else np.empty(0, np.intp)
            rows.append(own if len(own) else np.flatnonzero(outside & ~self.is_target))
            if not len(rows[-1]):  # a single source clip is in some fold, and nothing else is left there
                rows[-1] = np.flatnonzero(~self.is_target)
        return FoldReferences(
            {
                kind: [embeddings[own, fold] for fold, own in enumerate(rows)]
                for kind, embeddings in self.heard.embeddings.items()
            },
            [whiten(self.heard.dynamics[own]) for whiten, own in zip(self.whitenings, rows, strict=True)],
        )


@dataclass(frozen=True, slots=True, eq=False)
class FoldReferences:
    """Reference clips, a set a fold: by network (m, 128) embeddings of length 1, and (m, 936) whitened dynamics."""

    embeddings: Mapping[SubSystem, Sequence[NDArray[np.float32]]]
    dynamics: Sequence[NDArray[np.float32]]

    def distances(self, kind: SubSystem, fold: int, own: Floats) -> NDArray[np.float64]:
        """The distance to the nearest reference of a fold, (clips,), of (clips, 128) or whitened (clips, 936)."""
        if kind is SubSystem.F:
            return euclidean_distance_to_nearest(own, self.dynamics[fold])
        return cosine_distance_to_nearest(own, self.embeddings[kind][fold])

    def log_distances_of_pairs(self, kind: SubSystem) -> NDArray[np.float64]:
        """x between any two references, (pairs,): the mean over the folds, which must have the same references."""
        one, other = np.triu_indices(len(self.dynamics[0]), 1)
        if kind is SubSystem.F:
            distances = [np.linalg.norm(own[one] - own[other], axis=1) for own in self.dynamics]
        else:
            distances = [1.0 - np.vecdot(own[one], own[other]) for own in self.embeddings[kind]]
        x: NDArray[np.float64] = log_distance(np.stack(distances)).mean(axis=0)
        return x
