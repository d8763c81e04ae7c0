"""The challenge's figures against the paper's tables, scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from training.metrics import (
    auc,
    bootstrap_intervals,
    harmonic_mean,
    official_score,
    partial_auc,
    rate_interval,
    weighted_areas,
)

TABLE_2 = {
    "ToyCar": (78.37, 66.64),
    "ToyTrain": (77.17, 60.71),
    "fan": (74.66, 67.34),
    "gearbox": (76.13, 56.00),
    "pump": (76.59, 63.00),
    "slide rail": (80.16, 63.86),
    "valve": (81.13, 64.92),
}
"""The harmonic means of each machine type: AUC and pAUC of the proposed system."""

few_scores = st.lists(st.integers(0, 6), min_size=1, max_size=30).map(lambda values: np.array(values, np.float64))


def test_official_score_of_the_papers_evaluation_set() -> None:
    """Table 5: 64.20 from its four harmonic means."""
    assert official_score([73.13, 65.76], [60.21, 59.47]) == pytest.approx(64.20, abs=0.01)


@pytest.mark.parametrize(("column", "expected"), [(0, 77.69), (1, 62.99)])
def test_last_row_of_table_2(column: int, expected: float) -> None:
    """Equal numbers of rows a machine type make the mean of their means the mean of all."""
    assert harmonic_mean(row[column] for row in TABLE_2.values()) == pytest.approx(expected, abs=0.01)


def test_harmonic_mean_leaves_out_what_is_undefined() -> None:
    assert harmonic_mean([0.5, None, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([None]) is None
    assert harmonic_mean([]) is None


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


@given(normal=few_scores, anomalous=few_scores, data=st.data())
def test_weighted_areas_are_those_of_repeated_clips(
    normal: np.ndarray, anomalous: np.ndarray, data: st.DataObject
) -> None:
    """What the bootstrap counts at once is what scikit-learn gives for clips that occur several times."""
    weights = [
        np.array(
            data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)).filter(any)), np.float64
        )
        for scores in (normal, anomalous)
    ]
    area, partial = weighted_areas(normal, anomalous, weights[0][None], weights[1][None])
    repeated = [np.repeat(s, w.astype(int)) for s, w in zip((normal, anomalous), weights, strict=True)]
    assert area[0] == pytest.approx(auc(*repeated))
    assert partial[0] == pytest.approx(partial_auc(*repeated))


@pytest.mark.parametrize(("count", "total"), [(0, 1), (0, 25), (3, 25), (25, 25), (7, 90)])
def test_rate_interval_is_exact(count: int, total: int) -> None:
    """Clopper and Pearson, as SciPy's binomial test has it."""
    expected = scipy.stats.binomtest(count, total).proportion_ci(0.95, method="exact")
    assert rate_interval(count, total) == pytest.approx((expected.low, expected.high))


def test_rate_interval_of_nothing_is_none() -> None:
    assert rate_interval(0, 0) is None


def test_bootstrap_is_seeded_and_brackets_the_auc() -> None:
    random = np.random.default_rng(1)
    normal, anomalous = random.normal(0, 1, 40), random.normal(1, 1, 40)
    names = [str(i) for i in range(40)]
    found = bootstrap_intervals(normal, anomalous, names, names, seed=5)
    assert found is not None
    assert found == bootstrap_intervals(normal, anomalous, names, names, seed=5)
    assert found != bootstrap_intervals(normal, anomalous, names, names, seed=6)
    (low, high), (partial_low, partial_high) = found
    point, partial = auc(normal, anomalous), partial_auc(normal, anomalous)
    assert point is not None
    assert partial is not None
    assert low < point < high
    assert partial_low <= partial <= partial_high
    assert 0.1 < high - low < 0.3  # DeLong's standard error here is about 0.05


def test_bootstrap_takes_recordings_whole() -> None:
    """Ten clips of each of five recordings say no more than one of each, where the clips of a recording agree."""
    normal, anomalous = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.5, 3.5, 6.0, 7.0, 0.5])
    names = list("abcde")
    once = bootstrap_intervals(normal, anomalous, names, names, seed=0)
    tenfold = bootstrap_intervals(
        np.repeat(normal, 10),
        np.repeat(anomalous, 10),
        names[:1] * 10 + sorted(names[1:] * 10),
        sorted(names * 10),
        seed=0,
    )
    assert once is not None
    assert tenfold is not None
    assert tenfold[0] == pytest.approx(once[0])


def test_bootstrap_of_a_single_recording_is_none() -> None:
    scores = np.array([1.0, 2.0])
    assert bootstrap_intervals(scores, scores, ["a", "a"], ["b", "c"], seed=0) is None
