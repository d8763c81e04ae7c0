"""The back end: mixtures or references of every section from the embeddings of the training clips (paper 2.4).

Conventions: arrays are aligned by row with the training clips, and by their second axis with the members. Only clips at
their own speed enter a mixture; contrast copies belong to the networks' training alone. Mixtures of an attribute class
are fitted once for the machine type and stand, equal, in the arrays of each section where that attribute is present.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from models.encoder import l2_normalised
from models.manifest import Manifest
from models.mixtures import REGULARISATION, Mixture, fit_mixture
from models.references import References, refer_to
from models.scoring import MemberModel, Normality, SectionModel, side_by_side
from models.targets import target_normality
from models.vocabulary import Domain, SectionKey
from training.features import TrainingClip
from training.parallel import spread
from training.progress import Advance
from training.recipe import Backend, Recipe
from training.recordings import AttributeClass

_log = logging.getLogger(__name__)

LEAST_TARGET_CLIPS = 3
"""Fewer target clips give a section no target mixture."""

MOST_TARGET_CLIPS = 50
"""Components of a target mixture (FACTS 5); of more target clips so many, evenly spread, are its means."""

DENSITY_NEIGHBOURS = 1
"""K of `Backend.NEAREST`."""

CENTERS = 16
"""Of `Backend.CENTERS`; a section of fewer clips has its clips."""

WORTH_PROCESSES = 500_000
"""Clips times components of all mixtures together: about 5 s of EM, what starting processes is little against."""

Rows = NDArray[np.intp]
"""Places in a training set."""

_Name = TypeVar("_Name", SectionKey, AttributeClass)


@dataclass(frozen=True, slots=True)
class Fitting:
    """The choices that a section's models depend on.

    ``seed``: starts k-means, and deals clips to folds. ``temporal_maximum_types``: machine types with Eq. (4)'s term.
    ``regularisation``: added to the diagonal of each covariance matrix. ``backend``: mixtures or references.
    ``target_smote``: synthetic clips added to each section's target clips.
    """

    seed: int
    temporal_maximum_types: tuple[str, ...] = ()
    regularisation: float = REGULARISATION
    backend: Backend = Backend.MIXTURES
    target_smote: int = 0

    @classmethod
    def of(cls, recipe: Recipe, seed: int) -> Self:
        """A recipe's."""
        return cls(seed, recipe.temporal_maximum, recipe.regularisation, recipe.backend, recipe.target_smote)

    @classmethod
    def of_bundle(cls, manifest: Manifest) -> Self:
        """Those that a bundle was made with; a choice that its recipe does not tell was made by default."""
        recipe: Mapping[str, Any] = manifest.recipe
        return cls(
            recipe.get("seed", 0),
            tuple(recipe.get("temporal_maximum", ())),
            recipe.get("regularisation", REGULARISATION),
            Backend(recipe.get("backend", Backend.MIXTURES)),
            manifest.target_smote,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MemberCenters:
    """What a network has learned of its classes: S = ``sub_clusters`` centres each, (S, 128), L2-normalised.

    ``sections``: of each section; empty for a network that has heard none of them. ``attributes``: of each attribute
    class; empty for a network without that head.
    """

    sections: Mapping[SectionKey, NDArray[np.floating[Any]]]
    attributes: Mapping[AttributeClass, NDArray[np.floating[Any]]]
    sub_clusters: int


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """What mixtures are fitted on, aligned by row.

    ``clips``: n training clips. ``embeddings``: (n, members, 128), L2-normalised. ``t_max``: (n, 128), the standardised
    log-mel's maximum over time.

    Raises
    ------
    ValueError : where the rows do not match, or embeddings are not of length 1.
    """

    clips: Sequence[TrainingClip]
    embeddings: NDArray[np.float32]
    t_max: NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        n = len(self.clips)
        if self.embeddings.ndim != 3 or len(self.embeddings) != n or self.t_max.ndim != 2 or len(self.t_max) != n:
            raise ValueError(
                f"{n} clips need embeddings ({n}, members, 128) and t_max ({n}, 128), "
                f"not {self.embeddings.shape} and {self.t_max.shape}."
            )
        lengths = np.linalg.norm(self.embeddings, axis=-1)
        if not np.allclose(lengths, 1.0, rtol=0.0, atol=1e-3):  # float32 mixtures lose their precision beyond
            raise ValueError("Embeddings must be L2-normalised.")

    def rows(self, domain: Domain) -> dict[SectionKey, Rows]:
        """The rows of each section's clips of a domain, sections in sorted order, contrast copies left out."""
        return section_rows(self.clips, domain)

    def take(self, rows: Rows) -> Self:
        """The training set of these rows alone."""
        return type(self)([self.clips[row] for row in rows], self.embeddings[rows], self.t_max[rows])


def section_rows(clips: Sequence[TrainingClip], domain: Domain) -> dict[SectionKey, Rows]:
    """The rows of each section's clips of a domain, sections in sorted order, contrast copies left out."""
    return _group(
        (clip.recording.key, row)
        for row, clip in enumerate(clips)
        if clip.recording.domain is domain and clip.speed == 1.0
    )


def fit_sections(
    training: TrainingSet,
    members: Sequence[MemberCenters],
    fitting: Fitting,
    *,
    advance: Advance,
) -> dict[SectionKey, SectionModel]:
    """Model every section that has source clips; one without them is left out with a logged warning.

    A member's section mixture starts at its section's centres, an attribute mixture at its class's, or at seeded
    k-means where the network has no attribute head. A target mixture needs `LEAST_TARGET_CLIPS` clips, and has
    `MOST_TARGET_CLIPS` of their components at most. With references in place of mixtures there are none of attributes
    and no temporal maxima: distances and nats do not add.

    Parameters
    ----------
    training : clips of one machine type or several that share their members.
    members : the centres of each member, in the order of the embeddings' second axis.
    fitting : what else they depend on.
    advance : called until the number of clips is reached.

    Raises
    ------
    ValueError : where members and embeddings do not match.
    KeyError : where a network has no centres for a class.
    """
    if training.embeddings.shape[1] != len(members):
        raise ValueError(f"The embeddings are of {training.embeddings.shape[1]} members, not of {len(members)}.")
    source, target = training.rows(Domain.SOURCE), training.rows(Domain.TARGET)
    for key in target.keys() - source.keys():
        _log.warning("%s section %s has target clips only and is left out", key.machine_type, key.section)
    mixtures = fitting.backend is Backend.MIXTURES
    rows_of_class = _attribute_rows(training, source) if mixtures else {}
    present = {key: _present(training, rows) if mixtures else {} for key, rows in source.items()}
    fitted: dict[SectionKey, list[MemberModel]] = defaultdict(list)
    to_fit = source if mixtures else {}
    clips = sum(map(len, [*rows_of_class.values(), *to_fit.values()]))
    large = clips * sum(member.sub_clusters for member in members) >= WORTH_PROCESSES
    tasks = _fits(training, members, rows_of_class, to_fit, fitting)
    with closing(spread(_fit, tasks, workers=None if large else 1)) as fits:
        for i in range(len(members)):
            x = training.embeddings[:, i]
            of_class = {name: next(fits) for name in rows_of_class}
            for key, rows in source.items():
                section: Normality = next(fits) if mixtures else _references(x[rows], fitting)
                attributes = {text: of_class[name] for text, name in present[key].items()}
                own = _target_clips(target.get(key))
                adapted = (
                    None
                    if own is None
                    else target_normality(
                        section, x[own], synthetic=fitting.target_smote, regularisation=fitting.regularisation
                    )
                )
                fitted[key].append(MemberModel(section, attributes, adapted))
            done = [len(training.clips) * members_done // len(members) for members_done in (i, i + 1)]
            advance(done[1] - done[0])
    maxima = {
        name: fit_mixture(
            training.t_max[rows],
            1,
            centers=None,
            regularisation=fitting.regularisation,
            seed=fitting.seed,
            dtype=np.float64,
        )
        for name, rows in rows_of_class.items()
        if name[0] in fitting.temporal_maximum_types
    }
    return {
        key: SectionModel(
            side_by_side(fitted.pop(key)),  # so that memory never holds those of all sections twice
            {text: maxima[name] for text, name in present[key].items()}
            if mixtures and key.machine_type in fitting.temporal_maximum_types
            else None,
        )
        for key in list(fitted)
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """A mixture to fit: arguments of `fit_mixture`."""

    x: NDArray[np.float32]
    n_components: int
    centers: NDArray[np.floating[Any]] | None
    regularisation: float
    seed: int


def _fits(
    training: TrainingSet,
    members: Sequence[MemberCenters],
    rows_of_class: Mapping[AttributeClass, Rows],
    source: Mapping[SectionKey, Rows],
    fitting: Fitting,
) -> Iterator[_Fit]:
    """Of each member the attribute classes, then the sections; made one by one, for all of them are gigabytes."""
    for i, member in enumerate(members):
        x = training.embeddings[:, i]
        for name, rows in rows_of_class.items():
            centers = member.attributes[name] if member.attributes else None
            yield _Fit(x[rows], member.sub_clusters, centers, fitting.regularisation, fitting.seed)
        for key, rows in source.items():
            centers = member.sections[key] if member.sections else None
            yield _Fit(x[rows], member.sub_clusters, centers, fitting.regularisation, fitting.seed)


def _fit(one: _Fit) -> Mixture:
    return fit_mixture(one.x, one.n_components, centers=one.centers, regularisation=one.regularisation, seed=one.seed)


def dropped_components(
    training: TrainingSet, models: Mapping[SectionKey, SectionModel], members: Sequence[MemberCenters]
) -> int:
    """How many components of the section and attribute mixtures EM has emptied, over all ``members``; 0 of references.

    Parameters
    ----------
    training, members : those that ``models`` were fitted with.
    """
    source = training.rows(Domain.SOURCE)
    rows_of_class = _attribute_rows(training, source)
    fitted: dict[tuple[int, SectionKey | AttributeClass], tuple[Mixture, Rows]] = {}
    for key, model in models.items():
        present = _present(training, source[key])
        for i, member in enumerate(model.members):
            if isinstance(member.section, References):
                continue
            fitted[i, key] = member.section, source[key]
            for text, mixture in member.attributes.items():
                fitted[i, present[text]] = mixture, rows_of_class[present[text]]
    return sum(
        min(members[i].sub_clusters, len(rows)) - mixture.n_components for (i, _), (mixture, rows) in fitted.items()
    )


def _attribute_rows(training: TrainingSet, source: Mapping[SectionKey, Rows]) -> dict[AttributeClass, Rows]:
    """The rows of each attribute class among the source clips, merged over sections."""
    every = sorted(row for rows in source.values() for row in rows)
    return _group((training.clips[row].recording.attribute_class, row) for row in every)


def _present(training: TrainingSet, rows: Rows) -> dict[str, AttributeClass]:
    """The paper's a(s): the attributes among a section's source clips, their text and class, sorted by text."""
    recordings = [training.clips[row].recording for row in rows]
    return dict(sorted({one.attribute_name: one.attribute_class for one in recordings}.items()))


def _target_clips(rows: Rows | None) -> Rows | None:
    """The target clips that are modelled; None where there are too few."""
    if rows is None or len(rows) < LEAST_TARGET_CLIPS:
        return None
    if len(rows) > MOST_TARGET_CLIPS:  # spread over all of them: neighbours in time say the same
        rows = rows[np.linspace(0, len(rows) - 1, MOST_TARGET_CLIPS).round().astype(int)]
    return rows


def _references(x: NDArray[np.float32], fitting: Fitting) -> References:
    if fitting.backend is Backend.NEAREST:
        return refer_to(x, neighbours=DENSITY_NEIGHBOURS)
    if len(x) <= CENTERS:
        return refer_to(x)
    with threadpool_limits(limits=1):
        centers = KMeans(CENTERS, n_init=10, random_state=fitting.seed).fit(x).cluster_centers_
    return refer_to(l2_normalised(centers))


def _group(pairs: Iterable[tuple[_Name, int]]) -> dict[_Name, Rows]:
    """Rows by name, names in sorted order."""
    grouped: dict[_Name, list[int]] = defaultdict(list)
    for name, row in pairs:
        grouped[name].append(row)
    return {name: np.array(grouped[name], np.intp) for name in sorted(grouped)}
