"""Eqs. (2) to (4) against a plain loop over scikit-learn's mixtures and scipy's densities."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from models.components import Components
from models.mixtures import Mixture, clip_mixture, fit_mixture, initial_parameters
from models.scoring import (
    MemberModel,
    SectionModel,
    Terms,
    decision_score,
    score_section,
    section_and_attribute_terms,
    side_by_side,
    target_term,
    temporal_maximum_term,
)
from models.vocabulary import Domain
from tests.models.tiny import held_once

Array = NDArray[np.float64]
D, MELS, MEMBERS, CLIPS = 16, 12, 3, 6
ROUNDING = 5e-4
"""Nats: what float32 may make of a likelihood with other components in the same product; 1.2e-4 at most of 200 fits."""


def unit(x: Array) -> Array:
    lengths: Array = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / lengths


@dataclass(frozen=True)
class Case:
    """A section as it is scored, the same as scikit-learn's fitted mixtures, and clips to score."""

    model: SectionModel
    sections: list[GaussianMixture]
    attributes: list[dict[str, GaussianMixture]]
    targets: list[GaussianMixture]
    temporal_maximum: dict[str, GaussianMixture]
    embeddings: NDArray[np.float32]
    t_max: Array


def both(x: Array, centers: Array) -> tuple[GaussianMixture, Mixture]:
    """The same fit by scikit-learn alone and in the form that is kept."""
    oracle = GaussianMixture(len(centers), reg_covar=1e-3, random_state=0, **initial_parameters(x, centers, 1e-3)).fit(
        x
    )
    return oracle, fit_mixture(x, len(centers), centers=centers, seed=0)


@pytest.fixture(scope="module")
def case() -> Case:
    """Three members of S = 1, 2, 3; attributes "fast" and "slow"; three target clips; temporal maxima."""
    random = np.random.default_rng(0)
    sections, attributes, targets, members = [], [], [], []
    for size in range(1, MEMBERS + 1):
        hubs = unit(random.normal(size=(3, D)))
        x = unit(np.repeat(hubs, 20, axis=0) + 0.2 * random.normal(size=(60, D)))
        centers = unit(hubs[:size] + 0.1 * random.normal(size=(size, D)))
        section, section_mixture = both(x, centers)
        fitted = {"fast": both(x[:35], centers), "slow": both(x[35:], centers)}
        clips = unit(random.normal(size=(3, D)))
        target = both(np.concatenate([clips, clips]), clips)[0]  # each twice: EM where clip_mixture is closed
        sections.append(section)
        attributes.append({name: oracle for name, (oracle, _) in fitted.items()})
        targets.append(target)
        members.append(
            MemberModel(section_mixture, {name: kept for name, (_, kept) in fitted.items()}, clip_mixture(clips))
        )
    maxima = {name: 2.0 + random.normal(size=(30, 3)) @ random.normal(size=(3, MELS)) for name in ("fast", "slow")}
    oracles = {name: GaussianMixture(1, reg_covar=1e-3, random_state=0).fit(x) for name, x in maxima.items()}
    kept = {name: fit_mixture(x, 1, centers=None, seed=0, dtype=np.float64) for name, x in maxima.items()}
    return Case(
        SectionModel(tuple(members), kept),
        sections,
        attributes,
        targets,
        oracles,
        unit(random.normal(size=(CLIPS, MEMBERS, D))).astype(np.float32),
        maxima["slow"][:CLIPS] + 0.1 * random.normal(size=(CLIPS, MELS)),
    )


def slow_term(mixtures: Sequence[GaussianMixture], x: Array) -> float:
    """The term -max over mixtures and components of the weighted log-likelihood of one clip."""
    best = -math.inf
    for mixture in mixtures:
        for weight, mean, covariance in zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True):
            best = max(best, math.log(weight) + float(multivariate_normal(mean, covariance).logpdf(x)))
    return -best


def slow(case: Case, mixtures_of: Callable[[int], Sequence[GaussianMixture]]) -> Array:
    """A term of each clip, summed over members in a loop."""
    wide = case.embeddings.astype(np.float64)
    return np.array([sum(slow_term(mixtures_of(member), x[member]) for member in range(MEMBERS)) for x in wide])


def slow_likelihoods(case: Case, attribute: str) -> Array:
    """ln P(x | a) of an attribute's best component, summed over members."""
    return -slow(case, lambda i: [case.attributes[i][attribute]])


def without_maxima(model: SectionModel) -> SectionModel:
    return replace(model, temporal_maximum=None)


def test_equation_2(case: Case) -> None:
    """Z_source = -max_k ln P(x | s, k) - max_k max_a ln P(x | a, k), summed over members."""
    terms = score_section(without_maxima(case.model), case.embeddings, None, Domain.SOURCE)
    section = slow(case, lambda i: [case.sections[i]])
    attribute = slow(case, lambda i: list(case.attributes[i].values()))
    np.testing.assert_allclose(terms.section, section, atol=1e-3)
    assert terms.attribute is not None
    np.testing.assert_allclose(terms.attribute, attribute, atol=1e-3)
    assert terms.target is None
    assert terms.temporal_maximum is None
    np.testing.assert_allclose(terms.anomaly_score, np.add(section, attribute), atol=2e-3)
    np.testing.assert_array_equal(decision_score(terms, Domain.SOURCE), terms.anomaly_score)


def test_equation_3(case: Case) -> None:
    """Z_target = -max_k ln P(x | s, k) - max_k ln P(x | X_target, k), and the first term alone decides (2.6)."""
    terms = score_section(case.model, case.embeddings, None, Domain.TARGET)
    section, target = slow(case, lambda i: [case.sections[i]]), slow(case, lambda i: [case.targets[i]])
    np.testing.assert_allclose(terms.section, section, atol=1e-3)
    assert terms.target is not None
    np.testing.assert_allclose(terms.target, target, atol=1e-3)
    assert terms.attribute is None
    assert terms.temporal_maximum is None
    np.testing.assert_allclose(terms.anomaly_score, np.add(section, target), atol=2e-3)
    np.testing.assert_array_equal(decision_score(terms, Domain.TARGET), terms.section)


def test_equation_4(case: Case) -> None:
    """The third term, -max_a ln P_tmax(t_max(x) | a), once in every member's system; the others are Eq. (2)'s."""
    terms = score_section(case.model, case.embeddings, case.t_max, Domain.SOURCE)
    third = np.array([MEMBERS * slow_term(list(case.temporal_maximum.values()), t_max) for t_max in case.t_max])
    assert terms.temporal_maximum is not None
    np.testing.assert_allclose(terms.temporal_maximum, third, rtol=1e-8)
    second = score_section(without_maxima(case.model), case.embeddings, case.t_max, Domain.SOURCE)
    np.testing.assert_array_equal(terms.section, second.section)
    np.testing.assert_array_equal(terms.anomaly_score, second.anomaly_score + terms.temporal_maximum)
    np.testing.assert_array_equal(decision_score(terms, Domain.SOURCE), terms.anomaly_score)


@pytest.mark.parametrize("domain", Domain)
def test_what_each_attribute_says_is_told_in_both_domains(case: Case, domain: Domain) -> None:
    """sum over members of max_k ln P(x | a, k): an explanation names the likeliest, and nothing is evaluated twice."""
    terms = score_section(case.model, case.embeddings, case.t_max, domain)
    assert list(terms.attribute_likelihoods) == ["fast", "slow"]
    for name, found in terms.attribute_likelihoods.items():
        np.testing.assert_allclose(found, slow_likelihoods(case, name), atol=2e-3)


def test_members_that_know_other_attributes_are_refused(case: Case) -> None:
    """They would be taken for each other's: terms are read by their place."""
    first, *others = case.model.members
    turned = replace(first, attributes=dict(list(first.attributes.items())[::-1]))
    with pytest.raises(ValueError, match="same attributes, in the same order"):
        SectionModel((turned, *others), None)


def test_an_ensemble_is_the_sum_of_its_members(case: Case) -> None:
    """Each term of the whole equals the members' own one after the other."""
    whole = score_section(case.model, case.embeddings, case.t_max, Domain.SOURCE)
    parts = [
        score_section(SectionModel((member,), case.model.temporal_maximum), x[:, None], case.t_max, Domain.SOURCE)
        for member, x in zip(case.model.members, np.moveaxis(case.embeddings, 1, 0), strict=True)
    ]
    np.testing.assert_allclose(whole.anomaly_score, sum(part.anomaly_score for part in parts), rtol=1e-12)


def test_a_clip_scores_the_same_alone(case: Case) -> None:
    """What the service scores one by one is what calibration scores at once."""
    for domain in Domain:
        at_once = score_section(case.model, case.embeddings, case.t_max, domain).anomaly_score
        for i in range(CLIPS):
            rows = slice(i, i + 1)
            alone = score_section(case.model, case.embeddings[rows], case.t_max[rows], domain).anomaly_score
            np.testing.assert_allclose(alone, at_once[rows], rtol=1e-6)


def test_registered_target_mixtures_replace_the_trained_ones(case: Case) -> None:
    """Their own clips score highest likelihood; the section term stays."""
    registered = [clip_mixture(x) for x in np.moveaxis(case.embeddings[:3], 1, 0)]
    before = score_section(case.model, case.embeddings, None, Domain.TARGET)
    after = score_section(case.model, case.embeddings, None, Domain.TARGET, registered)
    assert after.target is not None
    np.testing.assert_array_equal(before.section, after.section)
    perfect = -MEMBERS * (0.5 * D * -np.log(2 * np.pi * 1e-3) - np.log(3))
    np.testing.assert_allclose(after.target[:3], perfect, atol=1e-3)
    assert (after.target[3:] > perfect + 100).all()


@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_adding_an_attribute_mixture_never_raises_a_score(seed: int, sizes: list[int]) -> None:
    """For both terms: the attribute term to the last bit in one product, and from one to another but for rounding."""
    random = np.random.default_rng(seed)
    mixtures = {
        f"attribute-{i}": fit_mixture(unit(random.normal(size=(2 * size, D))), 2, centers=None, seed=0)
        for i, size in enumerate(sizes)
    }
    x = unit(random.normal(size=(8, D)))
    section = clip_mixture(x[:1])
    every = Components.joined([[mixture.components for mixture in mixtures.values()]])
    likelihoods = every.weighted_log_likelihoods(x[:, None])
    previous, previous_maximum, components = np.full(8, np.inf), np.full(8, np.inf), 0
    for count, mixture in enumerate(mixtures.values(), start=1):
        some = dict(list(mixtures.items())[:count])
        components += mixture.n_components
        _, found = section_and_attribute_terms(SectionModel((MemberModel(section, some, None),), None), x[:, None])
        assert found is not None
        term = found[:, 0]
        np.testing.assert_allclose(term, -likelihoods[:, :components].max(axis=1), rtol=0, atol=ROUNDING)
        assert (term <= previous + ROUNDING).all()
        maximum = temporal_maximum_term(some, x)
        assert (maximum <= previous_maximum).all()
        previous, previous_maximum = term, maximum
    np.testing.assert_array_equal(previous, -likelihoods.max(axis=1))


def test_a_clip_of_the_section_scores_below_a_strange_one(case: Case) -> None:
    """Every term points the same way: higher is more anomalous."""
    member = case.model.members[0]
    assert isinstance(member.section, Mixture)
    assert isinstance(member.target, Mixture)
    section, fast, target = member.section.means[:1], member.attributes["fast"].means[:1], member.target.means[:1]
    model = SectionModel((member,), None)
    near, far = (section_and_attribute_terms(model, sign * section[:, None])[0][0, 0] for sign in (1.0, -1.0))
    assert near < far
    _, attribute = section_and_attribute_terms(model, np.stack([fast, -fast]))
    assert attribute is not None
    assert attribute[0, 0] < attribute[1, 0]
    near, far = (target_term([member.target], sign * target[:, None])[0, 0] for sign in (1.0, -1.0))
    assert near < far


def test_an_ensembles_products_are_those_of_its_mixtures(case: Case) -> None:
    """Side by side or each mixture by itself: the same components give the same likelihoods, whatever the ranks."""
    members = [
        [one.section, *one.attributes.values()] for one in case.model.members if isinstance(one.section, Mixture)
    ]
    members[1].append(clip_mixture(case.embeddings[:2, 1]))  # components without a row between those that have some
    together = Components.joined([[mixture.components for mixture in own] for own in members])
    apart = [own.weighted_log_likelihoods(case.embeddings[:, i]) for i, ours in enumerate(members) for own in ours]
    np.testing.assert_allclose(
        together.weighted_log_likelihoods(case.embeddings), np.concatenate(apart, axis=1), rtol=1e-9, atol=1e-4
    )


@pytest.mark.parametrize("chosen", [(0, 1, 2), (1,), (2, 0)])
def test_a_part_of_an_ensemble_scores_in_the_memory_of_the_whole(case: Case, chosen: tuple[int, ...]) -> None:
    """A full ensemble has gigabytes of mixtures: no part has a second copy, and none moves what the whole has."""
    whole = SectionModel(side_by_side(case.model.members), None)
    assert held_once(whole)
    part = replace(whole, members=tuple(whole.members[place] for place in chosen))
    assert held_once(whole)
    assert held_once(part)
    assert whole._together is not None
    assert part._together is not None
    for place, member in enumerate(chosen):
        for arrays, of_whole in (("means", whole._together.means), ("factors", whole._together.factors)):
            assert np.shares_memory(getattr(part._together, arrays)[place], of_whole[member])
    copied = SectionModel(tuple(case.model.members[member] for member in chosen), None)
    x = case.embeddings[:, list(chosen)]
    for one, other in zip(section_and_attribute_terms(part, x), section_and_attribute_terms(copied, x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_mixtures_that_lie_otherwise_are_copied_in_their_order(case: Case) -> None:
    """The wrong way round, with a gap, twice, or rows apart that seem to be neighbours: no row of another is taken."""
    (member,) = side_by_side(case.model.members[2:])
    assert isinstance(member.section, Mixture)
    parts = [one.components for one in (member.section, *member.attributes.values())]
    rows = Components.joined([parts]).factors[0]
    assert all(np.shares_memory(rows, part.factors[0]) for part in parts)
    apart = [replace(parts[0], factors=(rows[start : start + 8 : 2],)) for start in (0, 4)]
    for own in ([parts[2], parts[1]], [parts[0], parts[2]], [parts[1], parts[1]], apart):
        joined = Components.joined([own])
        np.testing.assert_array_equal(joined.factors[0], np.concatenate([one.factors[0] for one in own]))
        np.testing.assert_array_equal(joined.means[0], np.concatenate([one.means[0] for one in own]))


def test_mixtures_of_two_precisions_are_not_joined() -> None:
    """Their joint product would change the values of one of them."""
    one, other = (clip_mixture(np.eye(D), dtype=dtype) for dtype in (np.float32, np.float64))
    with pytest.raises(ValueError, match="all be of float32"):
        SectionModel(tuple(MemberModel(own, {"fast": own}, None) for own in (one, other)), None)


def test_a_target_score_without_target_clips_is_refused(case: Case) -> None:
    bare = SectionModel(tuple(replace(member, target=None) for member in case.model.members), None)
    with pytest.raises(ValueError, match="register target clips"):
        score_section(bare, case.embeddings, None, Domain.TARGET)
    with pytest.raises(ValueError, match="each of the 3 members"):
        score_section(bare, case.embeddings, None, Domain.TARGET, [clip_mixture(np.eye(D))])


def test_inputs_that_do_not_fit_are_refused(case: Case) -> None:
    """NaN above all: it would compare as normal."""
    broken = case.embeddings.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        score_section(case.model, broken, case.t_max, Domain.SOURCE)
    with pytest.raises(ValueError, match="finite"):
        score_section(case.model, case.embeddings, np.full_like(case.t_max, np.inf), Domain.SOURCE)
    with pytest.raises(ValueError, match="3 members"):
        score_section(case.model, case.embeddings[:, :2], case.t_max, Domain.SOURCE)
    with pytest.raises(ValueError, match="row a clip"):
        score_section(case.model, case.embeddings, case.t_max[:1], Domain.SOURCE)
    with pytest.raises(ValueError, match=r"Eq\. 4"):
        score_section(case.model, case.embeddings, None, Domain.SOURCE)


def test_models_of_nothing_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="attribute"):
        replace(case.model.members[0], attributes={})
    with pytest.raises(ValueError, match="member"):
        replace(case.model, members=())
    with pytest.raises(ValueError, match="Temporal"):
        replace(case.model, temporal_maximum={})


def test_the_anomaly_score_is_the_sum_of_the_terms_there_are() -> None:
    ones = np.ones(2)
    np.testing.assert_array_equal(Terms(ones).anomaly_score, [1, 1])
    np.testing.assert_array_equal(Terms(ones, 2 * ones, 4 * ones, 8 * ones).anomaly_score, [15, 15])
