"""p-values of distances against scipy and plain loops, and their fusion."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from models.fusion import Spread, fused_score, left_out_log_p_values, log_distance, log_p_value, log_upper_tail
from models.vocabulary import SubSystem


@pytest.mark.parametrize("degrees", [2, 4, 9, 69, 144, 1000])
def test_the_tail_is_scipy_s(degrees: int) -> None:
    z = np.concatenate([np.linspace(-8, 8, 33), np.geomspace(8, 60, 12)])
    expected = scipy.stats.t.logsf(z, degrees)
    known = expected > -600.0  # beyond, scipy takes the logarithm of what has lost its digits
    np.testing.assert_allclose(log_upper_tail(z, degrees)[known], expected[known], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("degrees", [30, 144, 1000])
def test_the_tail_has_no_step_where_its_form_changes(degrees: int) -> None:
    """About 1e-200 the series takes over: the logarithm goes on as smoothly as before."""
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if scipy.stats.t.sf(middle, degrees) > 1e-200 else (low, middle)
    z = low * np.linspace(0.999, 1.001, 21)
    steps = np.diff(log_upper_tail(z, degrees))
    assert (steps < 0).all()
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)


@given(st.floats(-1e12, 1e12), st.integers(2, 100_000))
def test_the_tail_is_finite_and_no_probability_above_one(z: float, degrees: int) -> None:
    log_p = float(log_upper_tail(z, degrees))
    assert np.isfinite(log_p)
    assert log_p <= 0.0


def test_a_new_clip_s_p_value_is_a_prediction_from_n_clips() -> None:
    """The interval that n normal values predict the next one with, by the t distribution of n - 1 degrees."""
    x = np.array([0.3, 0.1, 0.7, 0.4, 0.2])
    expected = scipy.stats.t.logsf((0.9 - x.mean()) / (x.std(ddof=1) * np.sqrt(1 + 1 / 5)), 4)
    np.testing.assert_allclose(log_p_value(np.array([0.9]), Spread.of(x)), expected, rtol=1e-12)


def test_normal_values_have_uniform_p_values() -> None:
    """What calibrates the fusion: of 20,000 next values after ten, each tenth of p-values holds a tenth."""
    random = np.random.default_rng(0)
    values = random.normal(3.0, 0.2, (20_000, 11))
    p = [np.exp(log_p_value(row[-1:], Spread.of(row[:-1])))[0] for row in values]
    counts, _ = np.histogram(p, np.linspace(0, 1, 11))
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_training_clip_is_held_against_the_others() -> None:
    x = np.random.default_rng(1).normal(size=7)
    found = left_out_log_p_values(x)
    for i in range(7):
        rest = np.delete(x, i)
        z = (x[i] - rest.mean()) / (rest.std(ddof=1) * np.sqrt(1 + 1 / 6))
        assert found[i] == pytest.approx(scipy.stats.t.logsf(z, 6), rel=1e-10)


def test_its_own_value_stays_where_it_was_not_its_own() -> None:
    """By another dealing's x: those of another fold are held against all n."""
    random = np.random.default_rng(2)
    x, among = random.normal(size=6), random.normal(size=6)
    same = np.array([True, False, True, False, False, False])
    found = left_out_log_p_values(x, among, same)
    whole = log_p_value(x, Spread.of(among))
    np.testing.assert_allclose(found[~same], whole[~same])
    rest = np.delete(among, 2)
    z = (x[2] - rest.mean()) / (rest.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert found[2] == pytest.approx(scipy.stats.t.logsf(z, 5), rel=1e-10)


def test_copies_and_zero_distances_stay_finite() -> None:
    """Clips that are copies of each other have distance 0 and no spread at all."""
    x = log_distance(np.zeros(4))
    np.testing.assert_allclose(x, np.log(1e-9))
    assert np.isfinite(left_out_log_p_values(x)).all()
    assert np.isfinite(log_p_value(np.array([0.0]), Spread.of(x))).all()


def test_fewer_than_three_clips_have_no_spread() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        Spread.of(np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="finite"):
        Spread.of(np.array([0.1, 0.2, np.nan]))


def test_the_networks_are_averaged_and_the_dynamics_added() -> None:
    log_p = {SubSystem.A: np.array([-1.0]), SubSystem.L: np.array([-3.0]), SubSystem.F: np.array([-5.0])}
    assert fused_score(log_p, (SubSystem.A, SubSystem.L)) == 2.0
    assert fused_score(log_p, tuple(log_p)) == 7.0
    assert fused_score(log_p, (SubSystem.F,)) == 5.0
    with pytest.raises(ValueError, match="counts"):
        fused_score(log_p, ())
