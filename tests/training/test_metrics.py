"""The challenge's figures against the paper's tables, scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from training.metrics import auc, harmonic_mean, harmonic_means, official_score, partial_auc


def test_official_score_of_the_papers_evaluation_set() -> None:
    """Table 5: 64.20 from its four harmonic means."""
    assert official_score([73.13, 65.76], [60.21, 59.47]) == pytest.approx(64.20, abs=0.005)


def test_harmonic_mean_leaves_out_what_is_undefined() -> None:
    assert harmonic_mean([0.5, None, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([None]) is None
    assert harmonic_mean([]) is None


def test_harmonic_means_are_scipys() -> None:
    """A column each."""
    figures = np.random.default_rng(0).uniform(0.1, 1.0, (5, 7))
    np.testing.assert_allclose(harmonic_means(figures), scipy.stats.hmean(figures, axis=0))


def test_harmonic_mean_with_a_zero_is_zero() -> None:
    assert harmonic_mean([0.0, 0.9]) == pytest.approx(0.0, abs=1e-12)


def test_areas_are_none_where_one_kind_is_missing() -> None:
    some, none = np.array([1.0, 2.0]), np.array([])
    for area in (auc, partial_auc):
        assert area(some, none) is None
        assert area(none, some) is None


def test_areas_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    normal, anomalous = random.normal(0, 1, 60), random.normal(0.7, 1, 50)
    truth, scores = [0] * 60 + [1] * 50, [*normal, *anomalous]
    assert auc(normal, anomalous) == roc_auc_score(truth, scores)
    assert partial_auc(normal, anomalous) == roc_auc_score(truth, scores, max_fpr=0.1)
