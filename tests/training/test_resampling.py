"""Draws against plain loops over the same, and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import auc, partial_auc
from training.resampling import RESAMPLES, Draws, correlation, interval, resampled_areas

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


def test_figures_that_go_together() -> None:
    """A figure goes wholly with itself, exactly; how far it goes with what is the same in all draws, nobody knows."""
    random = np.random.default_rng(0)
    values = random.normal(size=50)
    assert correlation(values, values.copy()) == 1.0
    assert correlation(values, -values) == pytest.approx(-1.0)
    assert correlation(values, random.normal(size=50)) == pytest.approx(0.0, abs=0.3)
    assert correlation(values, np.ones(50)) is None
    assert correlation(np.empty(0), np.empty(0)) is None
