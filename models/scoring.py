"""The paper's anomaly scores: Eqs. (2), (3) and (4) of its section 2.4 and the ensemble's sum of 2.5.

Conventions: an embedding x has d = 128 dimensions and is L2-normalised; every term is a negative log-likelihood in
nats, float64, higher is more anomalous. P(. | ., k) is the weighted likelihood of component k, and components are
searched for their maximum, never summed. A term is (clips, members); an ensemble's is the sum over its members.
The paper's 2.6 calls Eq. (2) "Eq. (1)" and Eq. (3) "Eq. (2)"; the numbers here are those beside the equations.

Where a member has references in place of mixtures, a term is a distance and not in nats: its section term is that to
the nearest of the section's references, it has no attribute term, and its target term is what target clips that are
nearer take off, 0 or less, so that in the target domain the nearest of all counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.components import Components
from models.mixtures import Mixture
from models.references import References
from models.vocabulary import Domain

Floats = NDArray[np.floating[Any]]

Normality = Mixture | References
"""What normal clips are like, for one member."""


@dataclass(frozen=True, slots=True, eq=False)
class MemberModel:
    """One member's mixtures of one section s, or its references.

    ``section``: P(. | s, k). ``attributes``: P(. | a, k) for each a in a(s), the attributes present in the section;
    none beside references. ``target``: P(. | X_target(s), k), None where the section has no target clips.

    Raises
    ------
    ValueError : for mixtures without any of an attribute (clips without an attribute make one of their own), and where
        mixtures and references are mixed.
    """

    section: Normality
    attributes: Mapping[str, Mixture]
    target: Normality | None

    def __post_init__(self) -> None:
        if isinstance(self.section, Mixture) != bool(self.attributes):
            raise ValueError(
                "A section has at least one attribute mixture, that of its clips without attribute; with references "
                "it has none."
            )
        if self.target is not None and type(self.target) is not type(self.section):
            raise ValueError("The target clips of a section are modelled in its own way: mixtures or references.")


@dataclass(frozen=True, slots=True, eq=False)
class SectionModel:
    """All that scores a section: ``members`` in the order of its machine type's members.

    ``temporal_maximum``: P_tmax(. | a) for each a in a(s); None for machine types without Eq. (4)'s term.

    Raises
    ------
    ValueError : without any member, where members know other attributes, or with temporal maxima of no attribute.
    """

    members: tuple[MemberModel, ...]
    temporal_maximum: Mapping[str, Mixture] | None
    _together: Components | None = field(init=False, repr=False)  # each member's section and attributes, or None

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("A section is scored by at least one member.")
        if self.temporal_maximum is not None and not self.temporal_maximum:
            raise ValueError("Temporal maxima are of at least one attribute, or None.")
        own = _mixtures(self.members)
        if own and len(own) < len(self.members):
            raise ValueError("The members of a section all have mixtures, or all references.")
        if len({tuple(member.attributes) for member in self.members}) > 1:
            raise ValueError("The members of a section all have mixtures of the same attributes, in the same order.")
        object.__setattr__(self, "_together", _joined(own) if own else None)


def side_by_side(members: Sequence[MemberModel]) -> tuple[MemberModel, ...]:
    """The same members, their mixtures as parts of arrays that any `SectionModel` of some of them computes with.

    For who has made or read them, and keeps these in place of those: memory then holds them once. References stay.
    """
    own = _mixtures(members)
    if not own or len(own) < len(members):
        return tuple(members)
    together = _joined(own)
    placed = []
    for member, mixtures, means, factors in zip(members, own, together.means, together.factors, strict=True):
        held, component, row = [], 0, 0
        for mixture in mixtures:
            components = slice(component, component := component + mixture.n_components)
            rows = slice(row, row := row + len(mixture.factors))
            held.append(mixture.held_in(means[components], factors[rows]))
        attributes = dict(zip(member.attributes, held[1:], strict=True))
        placed.append(replace(member, section=held[0], attributes=attributes))
    return tuple(placed)


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """The terms of a score apart, each (clips,) float64 nats summed over the members, or None where it has no part.

    ``attribute_likelihoods``: max_k ln P(x | a, k) for each a in a(s), summed likewise, whether it has a part or not.
    """

    section: NDArray[np.float64]
    attribute: NDArray[np.float64] | None = None
    target: NDArray[np.float64] | None = None
    temporal_maximum: NDArray[np.float64] | None = None
    attribute_likelihoods: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def anomaly_score(self) -> NDArray[np.float64]:
        """Z, (clips,): the sum of the terms that take part."""
        terms = (self.section, self.attribute, self.target, self.temporal_maximum)
        return _sum(term for term in terms if term is not None)


def likelihoods(model: SectionModel, x: Floats) -> NDArray[np.float64] | None:
    """max_k ln P(x | s, k) and max_k ln P(x | a, k) for each a in a(s), (clips, members, 1 + attributes), nats.

    None beside references. ``x``: (clips, members, d).
    """
    return None if model._together is None else model._together.best(x).reshape(len(x), len(model.members), -1)


def section_and_attribute_terms(
    model: SectionModel, x: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Eq. (2): -max_k ln P(x | s(x), k), or the nearest reference, and -max_k max_{a in a(s(x))} ln P(x | a, k).

    ``x``: (clips, members, d); each (clips, members), the second None beside references.
    """
    return _section_and_attribute_terms(model, x, likelihoods(model, x))


def target_term(target: Sequence[Normality], x: Floats) -> NDArray[np.float64]:
    """Eq. (3), second term: -max_k ln P(x | X_target(s(x)), k), or the nearest reference, (clips, members).

    ``x``: (clips, members, d).
    """
    mixtures = [[one] for one in target if isinstance(one, Mixture)]
    return -_joined(mixtures).best(x) if mixtures else _distances(target, x)


def temporal_maximum_term(temporal_maximum: Mapping[str, Mixture], t_max: Floats) -> NDArray[np.float64]:
    """Eq. (4), third term: -max_{a in a(s(x))} ln P_tmax(t_max(x) | a).

    ``t_max``: (clips, 128), the maximum over time of the standardised log-mel spectrogram.
    """
    likelihoods = [mixture.weighted_log_likelihoods(t_max) for mixture in temporal_maximum.values()]
    best: NDArray[np.float64] = np.concatenate(likelihoods, axis=1).max(axis=1)
    return -best


def score_section(
    model: SectionModel,
    embeddings: Floats,
    t_max: Floats | None,
    domain: Domain,
    target: Sequence[Normality] | None = None,
) -> Terms:
    """The terms of clips of one section and domain.

    Parameters
    ----------
    embeddings : (clips, members, d), L2-normalised.
    t_max : (clips, 128), or None where the model has no temporal maxima or the domain is target.
    target : registered target clips' mixtures or references, one a member, in place of those trained with.

    Raises
    ------
    ValueError : where shapes do not fit or values are not finite (a NaN would compare as normal), and for the target
        domain where there are no target mixtures.
    """
    _check(model, embeddings, t_max)
    known = likelihoods(model, embeddings)
    section, attribute = _section_and_attribute_terms(model, embeddings, known)
    names = model.members[0].attributes
    of_attributes = {} if known is None else dict(zip(names, known[:, :, 1:].sum(axis=1).T, strict=True))
    if domain is Domain.SOURCE:
        temporal_maximum = _temporal_maximum(model, t_max)
        return Terms(
            section=section.sum(axis=1),
            attribute=None if attribute is None else attribute.sum(axis=1),
            # every member is a system with Eq. (4)'s term in it
            temporal_maximum=None if temporal_maximum is None else len(model.members) * temporal_maximum,
            attribute_likelihoods=of_attributes,
        )
    chosen = [member.target for member in model.members] if target is None else target
    mixtures = [mixture for mixture in chosen if mixture is not None]
    if len(mixtures) != len(model.members):
        raise ValueError(
            f"A target-domain score needs a target mixture for each of the {len(model.members)} members, "
            f"{len(mixtures)} are there: register target clips of this section first."
        )
    nearer = target_term(mixtures, embeddings)
    if isinstance(mixtures[0], References):
        nearer = np.minimum(0.0, nearer - section)
    return Terms(section=section.sum(axis=1), target=nearer.sum(axis=1), attribute_likelihoods=of_attributes)


def decision_score(terms: Terms, domain: Domain) -> NDArray[np.float64]:
    """What is compared with the threshold (2.6), (clips,): Z_source, but of Z_target the first term alone.

    The target mixture's means are the training clips themselves, so that their likelihoods under it are inappropriately
    high: a threshold from them would call every test clip anomalous.
    """
    return terms.anomaly_score if domain is Domain.SOURCE else terms.section


def decision_score_by_member(
    model: SectionModel, embeddings: Floats, t_max: Floats | None, domain: Domain
) -> NDArray[np.float64]:
    """What each member adds to the `decision_score` of clips, (clips, members): of some of them it is their sum.

    ``embeddings``, ``t_max``: as of `score_section`, and likewise what is raised.
    """
    _check(model, embeddings, t_max)
    scores, attribute = section_and_attribute_terms(model, embeddings)
    if domain is Domain.TARGET:
        return scores
    temporal_maximum = _temporal_maximum(model, t_max)
    if attribute is not None:
        scores = scores + attribute
    return scores if temporal_maximum is None else scores + temporal_maximum[:, None]


def _check(model: SectionModel, embeddings: Floats, t_max: Floats | None) -> None:
    if embeddings.ndim != 3 or embeddings.shape[1] != len(model.members):
        raise ValueError(f"embeddings must be (clips, {len(model.members)} members, d), not {embeddings.shape}.")
    if not np.isfinite(embeddings).all() or (t_max is not None and not np.isfinite(t_max).all()):
        raise ValueError("Embeddings and temporal maxima must be finite.")
    if t_max is not None and len(t_max) != len(embeddings):
        raise ValueError(f"t_max must have a row a clip, {len(embeddings)}, not {len(t_max)}.")


def _section_and_attribute_terms(
    model: SectionModel, x: Floats, known: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    if known is None:
        return _distances([member.section for member in model.members], x), None
    return -known[:, :, 0], -known[:, :, 1:].max(axis=2)


def _temporal_maximum(model: SectionModel, t_max: Floats | None) -> NDArray[np.float64] | None:
    """Eq. (4)'s third term of one member, (clips,); None where the model has none."""
    if model.temporal_maximum is None:
        return None
    if t_max is None:
        raise ValueError("This section is scored with temporal maxima (Eq. 4): give t_max, (clips, 128).")
    return temporal_maximum_term(model.temporal_maximum, t_max)


def _distances(members: Sequence[Normality], x: Floats) -> NDArray[np.float64]:
    """The distance to each member's nearest reference, (clips, members)."""
    references = [one for one in members if isinstance(one, References)]
    return np.stack([one.distances(x[:, place]) for place, one in enumerate(references)], axis=1)


def _mixtures(members: Sequence[MemberModel]) -> list[list[Mixture]]:
    """The section's and the attributes' of each member that has mixtures."""
    return [[one.section, *one.attributes.values()] for one in members if isinstance(one.section, Mixture)]


def _joined(members: Sequence[Sequence[Mixture]]) -> Components:
    return Components.joined([[mixture.components for mixture in mixtures] for mixtures in members])


def _sum(terms: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(list(terms), axis=0)
    return total
