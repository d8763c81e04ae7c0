"""Nearest references against plain loops, and target clips beside them."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.mixtures import Mixture, clip_mixture
from models.references import SMALLEST_SCALE, References, refer_to
from models.scoring import MemberModel, SectionModel, decision_score, score_section
from models.targets import SMOTE_NEIGHBOURS, smote, target_normality
from models.vocabulary import Domain

Array = NDArray[np.floating[Any]]
D = 6


def unit_vectors(n: int, seed: int) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(n, D)) + 1.0
    unit: NDArray[np.float32] = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return unit


def distance(x: Array, y: Array) -> float:
    """1 - cosine, one product at a time."""
    return max(0.0, 1.0 - math.fsum(float(a) * float(b) for a, b in zip(x, y, strict=True)))


def slow_scale(y: Array, others: Array, neighbours: int) -> float:
    """The mean distance of a reference to its nearest others (Wilkinghoff et al. 2025)."""
    nearest = sorted(distance(y, other) for other in others)[:neighbours]
    return sum(nearest) / len(nearest)


def test_the_nearest_reference_counts() -> None:
    """Against a loop over references; a reference itself is at 0."""
    points, x = unit_vectors(7, 0), unit_vectors(5, 1)
    expected = [min(distance(one, point) for point in points) for one in x]
    np.testing.assert_allclose(refer_to(points).distances(x), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(refer_to(points).distances(points), 0.0, atol=1e-6)


@pytest.mark.parametrize("neighbours", [1, 3, 6])
def test_local_density_normalisation(neighbours: int) -> None:
    """Each distance over the reference's own mean distance to its K nearest; the least quotient counts."""
    points, x = unit_vectors(7, 2), unit_vectors(40, 3)
    scales = [slow_scale(y, np.delete(points, i, axis=0), neighbours) for i, y in enumerate(points)]
    references = refer_to(points, neighbours=neighbours)
    np.testing.assert_allclose(references.scales, scales, rtol=1e-9)
    quotients = [[distance(one, y) / scale for y, scale in zip(points, scales, strict=True)] for one in x]
    np.testing.assert_allclose(references.distances(x), [min(own) for own in quotients], rtol=1e-9)
    plain = np.argmin([[distance(one, y) for y in points] for one in x], axis=1)
    assert (np.argmin(quotients, axis=1) != plain).any(), "the density must decide somewhere, or nothing is shown"


def test_new_references_are_scaled_among_all() -> None:
    """Target clips count those of the section among their neighbours; the section's scales stay as they were."""
    section, target = refer_to(unit_vectors(9, 4), neighbours=2), unit_vectors(3, 5)
    found = target_normality(section, target)
    assert isinstance(found, References)
    for i, y in enumerate(target):
        others = np.concatenate([np.delete(target, i, axis=0), section.points])
        assert found.scales[i] == pytest.approx(slow_scale(y, others, 2), rel=1e-9)
    unscaled = target_normality(refer_to(section.points), target)
    assert isinstance(unscaled, References)
    assert unscaled.scales.tolist() == [1.0, 1.0, 1.0]


def test_scales_of_twins_and_of_a_single_clip() -> None:
    """A clip that was recorded twice is no division by zero, and one alone has no density."""
    one = unit_vectors(1, 6)
    twins = refer_to(np.concatenate([one, one]), neighbours=1)
    assert twins.scales.tolist() == [SMALLEST_SCALE, SMALLEST_SCALE]
    assert np.isfinite(twins.distances(unit_vectors(3, 7))).all()
    assert refer_to(one, neighbours=4).scales.tolist() == [1.0]
    assert refer_to(np.concatenate([one, unit_vectors(1, 8)]), neighbours=4).scales[0] == pytest.approx(
        distance(one[0], unit_vectors(1, 8)[0])
    )


def test_in_the_target_domain_the_nearest_of_all_counts() -> None:
    """Over the source references and the target clips, summed over members; source scores know no target clip."""
    x = np.stack([unit_vectors(20, seed) for seed in (10, 11)], axis=1)
    sections = [refer_to(unit_vectors(5, 12 + member), neighbours=1) for member in range(2)]
    targets = [target_normality(section, unit_vectors(3, 14 + i)) for i, section in enumerate(sections)]
    model = SectionModel(
        tuple(MemberModel(own, {}, target) for own, target in zip(sections, targets, strict=True)), None
    )
    source = score_section(model, x, None, Domain.SOURCE)
    target = score_section(model, x, None, Domain.TARGET)
    first = sum(own.distances(x[:, i]) for i, own in enumerate(sections))
    second = np.zeros(len(x))
    for i, (own, more) in enumerate(zip(sections, targets, strict=True)):
        assert isinstance(more, References)
        second += np.minimum(own.distances(x[:, i]), more.distances(x[:, i]))
    assert source.attribute is None
    np.testing.assert_allclose(source.anomaly_score, first, rtol=1e-12)
    np.testing.assert_allclose(target.anomaly_score, second, rtol=1e-9)
    np.testing.assert_array_equal(decision_score(target, Domain.TARGET), source.section)
    assert target.target is not None
    assert (target.target < 0.0).any()
    assert (target.target <= 0.0).all()


def test_mixtures_and_references_are_not_mixed() -> None:
    """Nats and distances do not add."""
    mixture, references = clip_mixture(np.eye(D)), refer_to(np.eye(D))
    with pytest.raises(ValueError, match="in its own way"):
        MemberModel(references, {}, mixture)
    with pytest.raises(ValueError, match="with references"):
        MemberModel(references, {"slow": mixture}, None)
    with pytest.raises(ValueError, match="at least one attribute"):
        MemberModel(mixture, {}, None)


def test_references_survive_a_file_and_nothing_else_does() -> None:
    references = refer_to(unit_vectors(4, 20), neighbours=2)
    again = References.from_arrays(references.to_arrays())
    np.testing.assert_array_equal(again.points, references.points)
    np.testing.assert_array_equal(again.scales, references.scales)
    assert again.neighbours == 2
    arrays = references.to_arrays()
    for name, value, words in (
        ("points", 2.0 * arrays["points"], "L2-normalised"),
        ("points", arrays["points"] * np.nan, "L2-normalised"),
        ("points", arrays["points"].astype(np.float64), "float32"),
        ("scales", arrays["scales"][1:], r"scales must be \(4,\)"),
        ("scales", 0.0 * arrays["scales"], "above 0"),
        ("scales", np.inf * arrays["scales"], "finite"),
        ("neighbours", np.array(1.5), "single integer"),
        ("neighbours", np.array(-1), "at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            References.from_arrays({**arrays, name: value})
    with pytest.raises(ValueError, match=r"shape \(clips, 6\)"):
        references.distances(np.zeros((1, 3)))


def test_smote_lies_between_neighbours() -> None:
    """Each synthetic clip is of length 1 and in the plane of two clips, one among the other's nearest, between them."""
    x = unit_vectors(9, 21)
    found = smote(x, 30)
    np.testing.assert_array_equal(found[:9], x)
    assert found.shape == (39, D)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-6)
    pairs = set()
    for one in found[9:].astype(np.float64):
        fits = []
        for i in range(9):
            order = sorted((distance(x[i], x[j]), j) for j in range(9) if j != i)
            for _, j in order[:SMOTE_NEIGHBOURS]:
                shares, residual, *_ = np.linalg.lstsq(x[[i, j]].T.astype(np.float64), one, rcond=None)
                if residual[0] < 1e-12 and (shares > -1e-6).all():
                    fits.append((i, j))
        assert fits
        pairs.add(frozenset(fits[0]))
    assert len(pairs) > 10, "they are spread over many pairs"
    np.testing.assert_array_equal(smote(x, 30), found)
    np.testing.assert_array_equal(smote(x, 0), x)
    np.testing.assert_array_equal(smote(x[:1], 5), x[:1])


def test_synthetic_clips_are_components_and_references() -> None:
    target = unit_vectors(3, 22)
    mixture = target_normality(clip_mixture(unit_vectors(2, 23)), target, synthetic=4, regularisation=0.01)
    assert isinstance(mixture, Mixture)
    np.testing.assert_array_equal(mixture.means, smote(target, 4))
    assert mixture.regularisation == 0.01
    references = target_normality(refer_to(unit_vectors(2, 23)), target, synthetic=4)
    assert isinstance(references, References)
    np.testing.assert_array_equal(references.points, smote(target, 4))
