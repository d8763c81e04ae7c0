"""Intervals against SciPy, against what they are made of, and against truths that are known because scores are made."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from models.vocabulary import Condition
from tests.training.test_resampling import draws_of
from tests.training.told import Told, ignore, recordings
from training.evaluate import evaluate
from training.intervals import (
    difference_interval,
    exact_interval,
    harmonic_interval,
    mean_interval,
    partial_interval,
    rate_interval,
    score_interval,
    wider,
)
from training.metrics import auc, partial_auc, standardised
from training.resampling import interval, resampled_areas

Piece = tuple[float, tuple[float, float]]
"""A figure and its interval."""


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


def of_population(distance: float) -> float:
    """The pAUC of all recordings that there could be, normally distributed, so far apart."""
    rates = np.linspace(0.0, 0.1, 2001)[1:] - 0.000025
    return standardised(float(np.mean(scipy.stats.norm.cdf(distance + scipy.stats.norm.ppf(rates)))) * 0.1)


@pytest.mark.parametrize(("partial", "normal", "anomalous"), [(0.53, 20, 25), (0.9, 30, 45)])
def test_an_end_of_a_partial_area_is_where_chance_ends(partial: float, normal: int, anomalous: int) -> None:
    """From scores that are as far apart as an end says, one set in forty gives a pAUC at or beyond the one found."""
    random = np.random.default_rng(1)
    ends = partial_interval(partial, normal, anomalous)
    assert ends[0] < partial < ends[1]
    for end, sign in zip(ends, (1.0, -1.0), strict=True):
        distance = scipy.optimize.brentq(lambda far, end=end: of_population(far) - end, -2.5, 6.5)
        sets = random.normal(size=(4000, normal)), random.normal(distance, 1.0, (4000, anomalous))
        loudest = -np.sort(-sets[0], axis=1)[:, : normal // 10]
        found = standardised((sets[1][:, None, :] > loudest[:, :, None]).mean(axis=2).sum(axis=1) / normal)
        assert found[0] == pytest.approx(partial_auc(sets[0][0], sets[1][0]))
        assert np.mean(sign * found >= sign * partial - 1e-9) == pytest.approx(0.025, abs=0.01)


def test_a_partial_area_without_an_error_is_not_certain() -> None:
    """The less so the fewer recordings; what is too high on average may be the upper end itself."""
    ends = [partial_interval(1.0, *counts) for counts in ((4, 13), (20, 20), (30, 45), (60, 60))]
    lows = [end[0] for end in ends]
    assert [end[1] for end in ends] == [1.0] * 4
    assert lows == sorted(lows)
    assert 0.5 < lows[0] < 0.65
    assert 0.9 < lows[2] < 0.97
    assert np.array(partial_interval(0.98, 4, 50)) == pytest.approx([0.6, 0.99], abs=0.1)


def test_many_recordings_of_one_kind_make_nothing_certain() -> None:
    """Five faulty recordings above all normal ones are five, of however many normal ones; and the other way about."""
    for counts in ((1000, 5), (5, 1000)):
        low, high = partial_interval(1.0, *counts)
        assert 0.5 < low < 0.93
        assert high == 1.0
    assert partial_interval(1.0, 1000, 5) == pytest.approx(partial_interval(1.0, 400, 5), abs=0.01)
    contender = Told(lambda one, _: float(one.condition is Condition.ANOMALY), threshold=None)
    (system,) = evaluate([contender], recordings(500, 5), advance=ignore).systems
    assert system.rows[0].pauc_interval == partial_interval(1.0, 500, 5)
    assert system.totals.official_score.interval is not None
    assert system.totals.official_score.interval[0] < 0.95


@pytest.mark.parametrize("counts", [(300, 12), (12, 300), (150, 150)])
def test_of_many_recordings_an_interval_is_no_surer_than_made_in_full(
    counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets of a hundred of a kind at most, against sets of all: to a point; nor much less sure, where errors are."""
    partials = (0.6, 0.85, 1.0)
    full = [partial_interval(partial, *counts) for partial in partials]
    monkeypatch.setattr("training.intervals._MOST_MADE", 100)
    for partial, made in zip(partials, full, strict=True):
        low, high = partial_interval(partial, *counts)
        assert low <= made[0] + 0.01
        assert high >= made[1] - 0.01
        assert partial == 1.0 or high - low < 1.3 * (made[1] - made[0])


def test_intervals_of_partial_areas_hold_what_they_promise() -> None:
    """Thirty normal and forty-five faulty recordings at .978; and faulty ones of which two in five cannot be heard.

    Of the latter the draws' own interval is honest: what is shown must not be less so.
    """
    random = np.random.default_rng(0)
    names = [str(number) for number in range(45)]
    weights = draws_of(*names[:30]).weights(names[:30])[:150], draws_of(*names, name="faults").weights(names)[:150]
    held_by_draws = []
    for distance, heard, truth in ((3.64, 1.0, 0.978), (6.0, 0.6, 0.8)):
        held = np.zeros(2)
        for _ in range(150):
            faulty = random.normal(0, 1, 45) + distance * (random.random(45) < heard)
            one = random.normal(0, 1, 30), faulty
            drawn = interval(resampled_areas(*one, *weights)[1])
            shown = wider(drawn, partial_interval(partial_auc(*one) or 0.0, 30, 45))
            held += [low <= truth <= high for low, high in (drawn, shown)]
        held_by_draws.append(held[0] / 150)
        assert held[1] >= 0.93 * 150
    assert held_by_draws[0] <= 0.87
    assert held_by_draws[1] >= 0.9


def test_the_wider_of_two() -> None:
    assert wider((0.4, 0.6), (0.5, 0.7)) == (0.4, 0.7)
    assert wider((0.4, 0.6), (0.45, 0.5)) == (0.4, 0.6)


def test_a_mean_of_independent_figures_reaches_less_far_than_they_do() -> None:
    """By the root of the sum of squares, each side for itself; what goes wholly together as far as on average."""
    figures, ends = np.array([0.6, 0.9]), np.array([[0.2, 0.7], [0.6, 1.0]])
    expected = (0.75 - 0.5 * 0.5, 0.75 + 0.5 * 0.02**0.5)
    assert mean_interval(figures, ends, np.eye(2)) == pytest.approx(expected)
    assert mean_interval(figures, ends, np.ones((2, 2))) == pytest.approx((0.4, 0.85))
    same = np.array([0.8]), np.array([[0.7, 0.95]])
    assert mean_interval(*same, np.eye(1)) == pytest.approx((0.7, 0.95))
    assert harmonic_interval(*same, np.eye(1)) == pytest.approx((0.7, 0.95))


def test_a_harmonic_mean_falls_with_its_least() -> None:
    """Between the harmonic means of all lower and all upper ends; and to nothing where one may be nothing."""
    figures, ends = np.array([0.6, 0.9]), np.array([[0.2, 0.7], [0.6, 1.0]])
    low, high = harmonic_interval(figures, ends, np.eye(2))
    assert 0.3 < low < 2 / (1 / 0.2 + 1 / 0.9)
    assert 2 / (1 / 0.6 + 1 / 0.9) < high < 2 / (1 / 0.7 + 1 / 1.0)
    assert harmonic_interval(figures, np.array([[0.0, 0.7], [0.6, 1.0]]), np.eye(2))[0] == pytest.approx(0.0)


def test_a_difference_of_what_is_heard_alike() -> None:
    """Nothing is left of a system and itself; apart, both sides add up; of equal sides it is Zou and Donner's."""
    one, other = (0.8, (0.6, 1.0)), (0.7, (0.5, 0.8))

    def of(first: Piece, second: Piece, together: float) -> tuple[float, float]:
        return difference_interval((first[0], second[0]), (first[1], second[1]), together)

    assert of(other, other, 1.0) == (0.0, 0.0)
    assert of(one, other, 0.0) == pytest.approx((0.1 - (0.2**2 + 0.1**2) ** 0.5, 0.1 + (0.2**2 + 0.2**2) ** 0.5))
    assert of(one, other, 1.0) == pytest.approx((0.1, 0.1 + 0.1))
    for together in (-0.6, 0.0, 0.4, 1.0):
        low, high = of(one, other, together)
        assert 0.6 - 0.8 <= low <= 0.1 + 1e-9
        assert 0.1 <= high <= 1.0 - 0.5
        assert of(other, one, together) == pytest.approx((-high, -low))
        reach = (0.2**2 + 0.1**2 - 2 * together * 0.2 * 0.1) ** 0.5
        assert of(one, (0.7, (0.6, 0.8)), together) == pytest.approx((0.1 - reach, 0.1 + reach))
