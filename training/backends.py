"""The back end: mixtures of every section from the embeddings of the training clips (paper 2.4).

Conventions: arrays are aligned by row with the training clips, and by their second axis with the members. Only clips at
their own speed enter a mixture; contrast copies belong to the networks' training alone. Mixtures of an attribute class
are fitted once for the machine type and stand, the same object, in each section where that attribute is present.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.mixtures import REGULARISATION, Mixture, clip_mixture, fit_mixture
from models.scoring import MemberModel, SectionModel
from models.vocabulary import Domain, SectionKey
from training.features import TrainingClip
from training.progress import Advance
from training.recordings import AttributeClass

_log = logging.getLogger(__name__)

LEAST_TARGET_CLIPS = 3
"""Fewer target clips give a section no target mixture."""

MOST_TARGET_CLIPS = 50
"""Components of a target mixture (FACTS 5); of more target clips so many, evenly spread, are its means."""

Rows = NDArray[np.intp]
"""Places in a training set."""

_Name = TypeVar("_Name", SectionKey, AttributeClass)


@dataclass(frozen=True, slots=True, eq=False)
class MemberCenters:
    """What a network has learned of its classes: S = ``sub_clusters`` centres each, (S, 128), L2-normalised.

    ``sections``: of each section. ``attributes``: of each attribute class; empty for a network without that head.
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
    *,
    temporal_maximum_types: Collection[str],
    regularisation: float = REGULARISATION,
    seed: int,
    advance: Advance,
) -> dict[SectionKey, SectionModel]:
    """Fit the mixtures of every section that has source clips; one without them is left out with a logged warning.

    A member's section mixture starts at its section's centres, an attribute mixture at its class's, or at seeded
    k-means where the network has no attribute head. A target mixture needs `LEAST_TARGET_CLIPS` clips, and has
    `MOST_TARGET_CLIPS` components at most.

    Parameters
    ----------
    training : clips of one machine type or several that share their members.
    members : the centres of each member, in the order of the embeddings' second axis.
    temporal_maximum_types : machine types with Eq. (4)'s term.
    regularisation : added to the diagonal of each covariance matrix.
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
    rows_of_class = _attribute_rows(training, source)
    present = {key: _present(training, rows) for key, rows in source.items()}
    fitted: dict[SectionKey, list[MemberModel]] = defaultdict(list)
    for i, centers in enumerate(members):
        x = training.embeddings[:, i]
        of_class = {
            name: fit_mixture(
                x[rows],
                centers.sub_clusters,
                centers=centers.attributes[name] if centers.attributes else None,
                regularisation=regularisation,
                seed=seed,
            )
            for name, rows in rows_of_class.items()
        }
        for key, rows in source.items():
            section = fit_mixture(
                x[rows],
                centers.sub_clusters,
                centers=centers.sections[key],
                regularisation=regularisation,
                seed=seed,
            )
            attributes = {text: of_class[name] for text, name in present[key].items()}
            fitted[key].append(MemberModel(section, attributes, _target_mixture(x, target.get(key), regularisation)))
        done = [len(training.clips) * members_done // len(members) for members_done in (i, i + 1)]
        advance(done[1] - done[0])
    maxima = {
        name: fit_mixture(
            training.t_max[rows], 1, centers=None, regularisation=regularisation, seed=seed, dtype=np.float64
        )
        for name, rows in rows_of_class.items()
        if name[0] in temporal_maximum_types
    }
    return {
        key: SectionModel(
            tuple(models),
            {text: maxima[name] for text, name in present[key].items()}
            if key.machine_type in temporal_maximum_types
            else None,
        )
        for key, models in fitted.items()
    }


def dropped_components(
    training: TrainingSet, models: Mapping[SectionKey, SectionModel], members: Sequence[MemberCenters]
) -> int:
    """How many components of the section and attribute mixtures EM has emptied, over all ``members``.

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


def _target_mixture(x: NDArray[np.float32], rows: Rows | None, regularisation: float) -> Mixture | None:
    if rows is None or len(rows) < LEAST_TARGET_CLIPS:
        return None
    if len(rows) > MOST_TARGET_CLIPS:  # spread over all of them: neighbours in time say the same
        rows = rows[np.linspace(0, len(rows) - 1, MOST_TARGET_CLIPS).round().astype(int)]
    return clip_mixture(x[rows], regularisation=regularisation)


def _group(pairs: Iterable[tuple[_Name, int]]) -> dict[_Name, Rows]:
    """Rows by name, names in sorted order."""
    grouped: dict[_Name, list[int]] = defaultdict(list)
    for name, row in pairs:
        grouped[name].append(row)
    return {name: np.array(grouped[name], np.intp) for name in sorted(grouped)}
