"""Intervals against plain loops over the same draws, scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import auc, partial_auc
from training.resampling import (
    RESAMPLES,
    Draws,
    exact_interval,
    interval,
    rate_interval,
    resampled_areas,
    score_interval,
)

few_scores = st.lists(st.integers(0, 6), min_size=1, max_size=30).map(lambda values: np.array(values, np.float64))


def draws_of(*recordings: str, name: str = "fan") -> Draws:
    draws = Draws.of(recordings, name)
    assert draws is not None
    return draws


@given(normal=few_scores, anomalous=few_scores, data=st.data())
def test_resampled_areas_are_those_of_repeated_clips(
    normal: np.ndarray, anomalous: np.ndarray, data: st.DataObject
) -> None:
    """What is counted at once is what scikit-learn gives for clips that occur several times, ties and all."""
    weights = [
        np.array(
            data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)).filter(any)), np.float64
        )
        for scores in (normal, anomalous)
    ]
    area, partial = resampled_areas(normal, anomalous, weights[0][None], weights[1][None])
    repeated = [np.repeat(s, w.astype(int)) for s, w in zip((normal, anomalous), weights, strict=True)]
    assert area[0] == pytest.approx(auc(*repeated))
    assert partial[0] == pytest.approx(partial_auc(*repeated))


def test_many_clips_are_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one draw give what one block of all gives."""
    random = np.random.default_rng(0)
    scores = random.normal(0, 1, 9), random.normal(1, 1, 7)
    weights = random.integers(1, 3, (5, 9)).astype(float), random.integers(1, 3, (5, 7)).astype(float)
    whole = resampled_areas(*scores, *weights)
    monkeypatch.setattr("training.resampling._CELLS", 1)
    for one, other in zip(whole, resampled_areas(*scores, *weights), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_draws_depend_on_names_alone() -> None:
    """The same recordings of the same group are drawn the same for every system, in whatever order it scored them."""
    names = [f"{number}.wav" for number in range(20)]
    one, other = draws_of(*names), draws_of(*reversed(names))
    np.testing.assert_array_equal(one.weights(names), other.weights(names))
    np.testing.assert_array_equal(one.weights(names[::-1]), other.weights(names)[:, ::-1])
    assert (draws_of(*names, name="valve").counts != one.counts).any()


def test_a_draw_has_as_many_recordings_as_there_are() -> None:
    """With replacement: some several times, about 1/e of them not at all."""
    counts = draws_of(*map(str, range(50))).counts
    assert counts.shape == (RESAMPLES, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_draws_take_recordings_whole() -> None:
    """Ten clips of each of five recordings say no more than one of each, where the clips of a recording agree."""
    normal, anomalous = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.5, 3.5, 6.0, 7.0, 0.5])
    names = list("abcde")
    draws = draws_of(*names), draws_of(*names, name="anomalies")
    once = resampled_areas(normal, anomalous, *(drawn.weights(names) for drawn in draws))
    tenfold = resampled_areas(
        np.repeat(normal, 10), np.repeat(anomalous, 10), *(drawn.weights(list(np.repeat(names, 10))) for drawn in draws)
    )
    np.testing.assert_allclose(once[0], tenfold[0])


def test_one_recording_cannot_be_drawn_from() -> None:
    assert Draws.of(["a", "a", "a"], "fan") is None
    assert Draws.of([], "fan") is None


def test_an_interval_holds_95_per_cent() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


@pytest.mark.parametrize(("count", "total"), [(0, 1), (0, 25), (3, 25), (25, 25), (7, 90)])
def test_exact_interval(count: int, total: int) -> None:
    """Clopper and Pearson, as SciPy's binomial test has it."""
    expected = scipy.stats.binomtest(count, total).proportion_ci(0.95, method="exact")
    assert exact_interval(count, total) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("area", "normal", "anomalous"), [(0.5, 25, 25), (0.92, 8, 20), (1.0, 4, 13), (0.0, 30, 45)])
def test_a_score_interval_ends_where_chance_does(area: float, normal: int, anomalous: int) -> None:
    """1.96 standard errors of each end away; of what it was turned round to it is the mirror image."""
    low, high = score_interval(area, normal, anomalous)
    assert low <= area <= high
    half = (normal + anomalous) / 2 - 1
    for end in {low, high} - {0.0, 1.0}:
        variance = end * (1 - end) * (1 + half * ((1 - end) / (2 - end) + end / (1 + end))) / (normal * anomalous)
        assert abs(area - end) == pytest.approx(1.959964 * variance**0.5, rel=1e-5)
    assert score_interval(1.0 - area, normal, anomalous) == pytest.approx((1.0 - high, 1.0 - low))


def test_without_an_error_there_is_no_certainty() -> None:
    """Two normal recordings below two faulty ones say next to nothing, thirty below forty-five much."""
    assert score_interval(1.0, 2, 2)[0] < 0.5
    assert 0.5 < score_interval(1.0, 4, 13)[0] < 0.8 < score_interval(1.0, 30, 45)[0] < 1.0


def test_intervals_of_areas_hold_what_they_promise() -> None:
    """An AUC of .985 from four normal clips and thirteen faulty ones: mostly they part, and draws are all alike."""
    random = np.random.default_rng(0)
    truth = scipy.stats.norm.cdf(3.07 / 2**0.5)
    names = [str(number) for number in range(13)]
    weights = draws_of(*names[:4]).weights(names[:4])[:200], draws_of(*names, name="faults").weights(names)[:200]
    held = np.zeros(2)
    for _ in range(200):
        normal, anomalous = random.normal(0, 1, 4), random.normal(3.07, 1, 13)
        drawn = interval(resampled_areas(normal, anomalous, *weights)[0])
        scored = score_interval(auc(normal, anomalous) or 0.0, 4, 13)
        held += [drawn[0] <= truth <= drawn[1], min(drawn[0], scored[0]) <= truth <= max(drawn[1], scored[1])]
    assert held[0] <= 0.5 * 200
    assert held[1] >= 0.93 * 200


def test_the_rate_of_independent_clips_has_the_exact_interval() -> None:
    names = [str(number) for number in range(25)]
    assert rate_interval([number < 3 for number in range(25)], names) == exact_interval(3, 25)
    assert rate_interval([True], ["a"]) == exact_interval(1, 1)


def test_clips_of_one_recording_are_no_independent_observations() -> None:
    """Three of ten recordings alarm in all of their clips: as sure as nine observations, and ten recordings are few."""
    names = [f"{number // 20}" for number in range(200)]
    few = (scipy.stats.t.ppf(0.975, 199) / scipy.stats.t.ppf(0.975, 9)) ** 2
    found = rate_interval([number < 60 for number in range(200)], names)
    assert found == pytest.approx(exact_interval(0.3 * 9 * few, 9 * few))


def test_clips_that_differ_within_recordings_as_between_them_count_in_full() -> None:
    """Never more than in full, however alike the recordings are."""
    names = [f"{number // 20}" for number in range(200)]
    assert rate_interval([number % 20 < 6 for number in range(200)], names) == pytest.approx(exact_interval(60, 200))


def test_intervals_of_rates_hold_what_they_promise() -> None:
    """Five recordings of thirty clips, some of them worse than others: taken for independent, they promise too much."""
    random = np.random.default_rng(0)
    names = [f"{number // 30}" for number in range(150)]
    held = np.zeros(2)
    for _ in range(300):
        rates = np.repeat(random.beta(0.5, 0.5, 5), 30)
        called = (random.random(150) < rates).tolist()
        found = rate_interval(called, names)
        assert found is not None
        held += [low <= 0.5 <= high for low, high in (found, exact_interval(sum(called), 150))]
    assert held[0] >= 0.93 * 300
    assert held[1] <= 0.5 * 300


@pytest.mark.parametrize("called", [False, True])
def test_a_rate_of_0_or_1_is_as_sure_as_the_number_of_recordings(called: bool) -> None:
    """Between the recordings there is no variance then, which is no certainty."""
    assert rate_interval([called] * 9, list("aaabbbccc")) == exact_interval(3 * called, 3)


def test_the_rate_of_a_single_recording_has_no_interval() -> None:
    assert rate_interval([True, False], ["a", "a"]) is None
    assert rate_interval([], []) is None
