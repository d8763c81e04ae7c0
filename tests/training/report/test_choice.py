"""Which clips are shown: plain numbers first, then clips."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.vocabulary import Condition
from tests.training.report.made import OTHER, SOURCE, TARGET, scored
from training.metrics import auc
from training.report.choice import Wrong, choose, on_the_wrong_side, wrongness
from training.scored import Scored

NORMAL, ANOMALY = Condition.NORMAL, Condition.ANOMALY


def no_p_value(_: Scored) -> float | None:
    return None


def names(clips: list[Scored], count: int = 10) -> list[str]:
    return [chosen.clip.recording.path.stem for chosen in choose(clips, no_p_value, count)]


def test_plain_numbers() -> None:
    """Normal clips at 1, 5 and 9 among faulty ones at 4, 5 and 8; an equal score is on the wrong side of both."""
    below, above = on_the_wrong_side(np.array([1.0, 5.0, 9.0]), np.array([4.0, 5.0, 8.0]))
    assert below.tolist() == [0, 2, 3]
    assert above.tolist() == [2, 2, 1]


@settings(deadline=None)  # a first call is slow
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=9),
    st.lists(st.integers(10, 19), min_size=1, max_size=9),
    st.permutations(range(20)),
)
def test_what_is_on_the_wrong_side_is_what_the_auc_lacks(first: list[int], second: list[int], ranks: list[int]) -> None:
    """Without ties: from either side the pairs ranked wrongly are (1 - AUC) of all pairs."""
    normal, anomalous = (np.array([float(ranks[i]) for i in places]) for places in (first, second))
    for counts in on_the_wrong_side(normal, anomalous):
        assert counts.sum() == pytest.approx((1.0 - auc(normal, anomalous)) * len(normal) * len(anomalous))  # type: ignore[operator]


def test_more_clips_on_the_wrong_side_count_more() -> None:
    """All of 25 weigh more than all of 4, and those more than 20 of 25."""
    assert wrongness(25, 25) > wrongness(4, 4) > wrongness(20, 25) > wrongness(0, 4) > wrongness(0, 25)


def test_the_worst_come_first_whatever_their_place_and_condition() -> None:
    """A normal clip above both faulty ones of its place, then one of two normal clips missed, never a right one."""
    clips = [
        scored(SOURCE, NORMAL, 9.0, path="normal above all.wav"),
        scored(SOURCE, NORMAL, 1.0, path="normal below all.wav"),
        scored(SOURCE, ANOMALY, 5.0, path="faulty between.wav"),
        scored(SOURCE, ANOMALY, 6.0, path="faulty between too.wav"),
        scored(TARGET, NORMAL, 100.0, path="other scale.wav"),
        scored(TARGET, ANOMALY, 200.0, path="right.wav"),
    ]
    assert names(clips, 3) == ["normal above all", "faulty between", "faulty between too"]
    first = choose(clips, no_p_value)[0]
    assert (first.wrong, first.beaten, first.others) == (Wrong.ALARMED, 2, 2)
    assert choose(clips, no_p_value)[1].wrong is Wrong.MISSED


def test_equally_wrong_clips_come_by_distance_then_path() -> None:
    """Two faulty clips below all normal ones: the lower is the worse; equal ones in the order of their paths."""
    normal = [scored(SOURCE, NORMAL, float(score), path=f"n{score}.wav") for score in (10, 11, 12, 13)]
    faulty = [
        scored(SOURCE, ANOMALY, score, path=f"{name}.wav") for name, score in (("b", 5.0), ("c", 1.0), ("a", 5.0))
    ]
    assert names([*normal, *faulty])[:3] == ["c", "a", "b"]


def test_where_few_are_wrong_the_highest_normal_clips_fill_up() -> None:
    """By their p-value, the rarest first; never a faulty clip that is ranked right."""
    rarity = {"rare.wav": 0.01, "usual.wav": 0.6, "in between.wav": 0.2}
    clips = [
        *(scored(OTHER, NORMAL, 0.0, path=path) for path in ("usual.wav", "rare.wav", "in between.wav")),
        scored(OTHER, ANOMALY, 50.0, path="right.wav"),
        scored(SOURCE, NORMAL, 3.0, path="wrong.wav"),
        scored(SOURCE, ANOMALY, 2.0, path="missed.wav"),
        scored(SOURCE, None, 99.0, path="unknown.wav"),
    ]
    chosen = choose(clips, lambda clip: rarity.get(clip.recording.path.name))
    assert {one.clip.recording.path for one in chosen[:2]} == {Path("wrong.wav"), Path("missed.wav")}
    assert [one.clip.recording.path.stem for one in chosen[2:]] == ["rare", "in between", "usual"]
    assert {one.wrong for one in chosen[2:]} == {Wrong.HIGHEST}


def test_without_anomalies_ten_normal_clips_are_shown() -> None:
    """A plant's usual case; without p-values by how far they lie from the others."""
    clips = [scored(SOURCE, NORMAL, float(score), path=f"{score:02d}.wav") for score in range(30)]
    assert names(clips) == [f"{score:02d}" for score in range(29, 19, -1)]


def test_one_clip_alone_is_shown_and_none_is_no_error() -> None:
    assert names([scored(SOURCE, NORMAL, 1.0, path="alone.wav")]) == ["alone"]
    assert names([scored(SOURCE, ANOMALY, 1.0)]) == []
    assert names([]) == []
