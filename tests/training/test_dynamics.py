"""The geometry of the dynamics against scikit-learn, scipy and a plain writing of its definition."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

from training.dynamics import fit_whitening, residuals

D = 60


def clips(n: int, seed: int, d: int = D) -> NDArray[np.float64]:
    """Rows of unequal spread."""
    random = np.random.default_rng(seed)
    return random.normal(4.0, 1.0, d) + random.normal(size=(n, d)) * random.uniform(0.1, 3.0, d)


def test_residuals_are_deviations_from_the_mean_of_the_condition() -> None:
    """Times sqrt(n / (n - 1)), a condition of one clip left out."""
    x, conditions = clips(9, 0), np.array([2, 2, 2, 5, 5, 5, 5, 7, 2])
    expected = [(x[i] - x[conditions == 2].mean(axis=0)) * np.sqrt(4 / 3) for i in (0, 1, 2, 8)]
    expected += [(x[i] - x[conditions == 5].mean(axis=0)) * np.sqrt(4 / 3) for i in (3, 4, 5, 6)]
    np.testing.assert_allclose(residuals(x, conditions), expected)


def test_conditions_of_one_clip_each_are_one_condition() -> None:
    x = clips(3, 1)
    np.testing.assert_allclose(residuals(x, np.arange(3)), (x - x.mean(axis=0)) * np.sqrt(3 / 2))
    assert residuals(x[:1], np.arange(1)).shape == (0, D)


@pytest.mark.parametrize(("own", "sibling", "d"), [(12, 30, D), (90, 0, D), (20, 25, 936)])
def test_distances_are_those_of_scikit_learns_covariance(own: int, sibling: int, d: int) -> None:
    """Fewer residuals than dimensions or more of them; the whole covariance matrix inverted, by scipy."""
    mine = residuals(clips(own, 2, d), np.zeros(own, np.int64))
    others = [residuals(clips(sibling, 3, d), np.zeros(sibling, np.int64))] if sibling else []
    pool = np.concatenate([mine, *others])
    scale = np.sqrt(0.5 * mine.var(axis=0) + 0.5 * pool.var(axis=0)) + 1e-9
    covariance, _ = ledoit_wolf(pool / scale, assume_centered=True)
    queries, references = clips(4, 4, d), clips(7, 5, d)
    expected = cdist(queries / scale, references / scale, "mahalanobis", VI=np.linalg.inv(covariance))
    whiten = fit_whitening(mine, [mine, *others])
    np.testing.assert_allclose(cdist(whiten(queries), whiten(references)), expected, rtol=2e-4)


def test_a_section_without_residuals_takes_its_siblings_and_one_without_any_stays_plain() -> None:
    nothing, others = np.empty((0, D)), residuals(clips(20, 6), np.zeros(20, np.int64))
    whiten = fit_whitening(nothing, [nothing, others])
    np.testing.assert_allclose(whiten.scale, np.sqrt(np.mean(others**2, axis=0)) + 1e-9)
    x = clips(2, 7)
    np.testing.assert_allclose(fit_whitening(nothing, [nothing])(x), x, rtol=1e-6)


def test_copies_leave_a_geometry_that_is_finite() -> None:
    """The same clip five times: no direction varies."""
    still = np.zeros((5, D))
    assert np.isfinite(fit_whitening(still, [still])(clips(3, 8))).all()
