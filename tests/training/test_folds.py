"""Folds: no recording is split, no condition by condition folds, and each fold has its share."""

import logging
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.vocabulary import Condition, Domain, Split
from training.features import TrainingClip
from training.folds import clip_folds, condition_folds, condition_folds_with_copies
from training.recordings import Recording


def clip(
    number: int, *, section: str = "00", domain: Domain = Domain.SOURCE, attribute: str = "", recording: str = ""
) -> TrainingClip:
    path = Path(f"{section}-{domain}-{number}.wav")
    one = Recording(
        path, "pump", section, domain, Split.TRAIN, Condition.NORMAL, attribute, recording or str(path), challenge=False
    )
    return TrainingClip(one, 10.0 * number, 1.0)


@st.composite
def plants(draw: st.DrawFn) -> list[TrainingClip]:
    """Clips of two sections in several conditions; recordings of one to four clips, each in one condition."""
    clips: list[TrainingClip] = []
    for section in ("00", "01"):
        for domain in Domain:
            for recording in range(draw(st.integers(0, 14))):
                attribute = draw(st.sampled_from(["", "slow", "fast", "idle", "a", "b", "c"]))
                for _ in range(draw(st.integers(1, 4))):
                    names = {"attribute": attribute, "recording": f"{section}{domain}{recording}"}
                    clips.append(clip(len(clips), section=section, domain=domain, **names))
    return clips


def groups(clips: list[TrainingClip]) -> dict[tuple[str, Domain], list[int]]:
    found: defaultdict[tuple[str, Domain], list[int]] = defaultdict(list)
    for row, one in enumerate(clips):
        found[one.recording.section, one.recording.domain].append(row)
    return found


@given(plants(), st.integers(0, 99))
def test_no_fold_splits_a_recording_and_no_condition_fold_a_condition(clips: list[TrainingClip], seed: int) -> None:
    """But a section's only recording, of which there is nothing else to leave out than its parts."""
    for deal in (clip_folds, condition_folds):
        folds = deal(clips, seed)
        for (_, domain), rows in groups(clips).items():
            units: defaultdict[str, set[int]] = defaultdict(set)
            conditions: defaultdict[str, set[int]] = defaultdict(set)
            for row in rows:
                units[clips[row].recording.recording].add(int(folds[row]))
                conditions[clips[row].recording.attribute].add(int(folds[row]))
            if len(units) > 1:
                assert all(len(own) == 1 for own in units.values())
            if deal is condition_folds and domain is Domain.SOURCE and len(conditions) > 1:
                assert all(len(own) == 1 for own in conditions.values())


def test_clips_are_dealt_evenly_within_conditions_and_the_count_runs_on() -> None:
    """Seven conditions of three clips: no fold has more than one clip more than another, in all and in each."""
    clips = [clip(i, attribute=f"speed-{i % 7}") for i in range(21)]
    folds = clip_folds(clips, 3)
    assert sorted(Counter(folds).values()) == [4, 4, 4, 4, 5]
    for speed in range(7):
        assert len(set(folds[speed::7])) == 3


def test_conditions_are_dealt_in_snake_order_the_largest_first() -> None:
    """Sizes 11 to 1 over five folds: 11 7... the snake keeps the folds alike."""
    clips = [clip(100 * size + i, attribute=f"load-{size}") for size in range(1, 12) for i in range(size)]
    folds = condition_folds(clips, 0)
    of_condition = {one.recording.attribute: int(fold) for one, fold in zip(clips, folds, strict=True)}
    order = [of_condition[f"load-{size}"] for size in range(11, 0, -1)]
    assert order == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0]


def test_target_clips_go_one_to_a_fold() -> None:
    clips = [clip(i, domain=Domain.TARGET, attribute="x") for i in range(3)]
    for deal in (clip_folds, condition_folds):
        assert len(set(deal(clips, 1))) == 3


def test_equal_seeds_give_equal_folds_and_another_section_changes_none() -> None:
    """A machine that is added later must not deal the others anew."""
    clips = [clip(i, attribute=f"a{i % 4}") for i in range(23)]
    more = [*clips, *(clip(i, section="01") for i in range(9))]
    for deal in (clip_folds, condition_folds):
        np.testing.assert_array_equal(deal(clips, 5), deal(more, 5)[:23])
        assert (deal(clips, 5) != deal(clips, 6)).any()


def test_a_single_recording_is_dealt_as_its_consecutive_parts(caplog: pytest.LogCaptureFixture) -> None:
    clips = [clip(i, recording="one-visit") for i in range(10)]
    with caplog.at_level(logging.WARNING):
        folds = clip_folds(clips, 0)
    assert folds.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert "single recording" in caplog.text


def test_conditions_that_share_a_recording_stay_together() -> None:
    """A recording that ran through two speeds ties them."""
    clips = [clip(0, attribute="slow"), clip(1, attribute="fast"), clip(2, attribute="idle")]
    shared = [clip(3, attribute="slow", recording="ramp"), clip(4, attribute="fast", recording="ramp")]
    folds = condition_folds([*clips, *shared], 2)
    assert folds[0] == folds[1] == folds[3] == folds[4] != folds[2]


def test_a_copy_at_another_speed_is_left_out_with_its_clip() -> None:
    """Also where a single recording is dealt as its parts: a copy on the other side would have told the clip."""
    for recording in ("", "one-visit"):
        own = [clip(i, recording=recording) for i in range(12)]
        clips = [replace(one, speed=speed) for one in own for speed in (1.0, 0.8, 1.25)]
        folds = condition_folds_with_copies(clips, 4).reshape(12, 3)
        np.testing.assert_array_equal(folds, np.repeat(condition_folds(own, 4)[:, None], 3, axis=1))
        assert len(set(folds[:, 0].tolist())) == 5
