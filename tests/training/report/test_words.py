"""What a reader is told: each verdict says what its figures support and no more."""

import pytest

from training.report.words import (
    Tone,
    count,
    hearing_verdict,
    interval_words,
    per_cent,
    promise_verdict,
    signed,
    typeset,
)


def test_figures_in_words() -> None:
    assert per_cent(0.5814, (0.309, 0.84)) == "58.1 (31–84)"
    assert per_cent(None) == "–"
    assert per_cent(0.0) == "0.0"
    assert (count(1, "clip"), count(0, "clip"), count(1200, "clip")) == ("1 clip", "0 clips", "1,200 clips")
    assert signed(-1246.31) == "−1,246.3"
    assert interval_words((0.131, 0.277)).replace("\u2060", "").replace("\u00a0", " ") == "95 % interval 13–28 %"


def test_figures_are_set_as_in_print() -> None:
    """What a terminal shows with the one stroke that it has."""
    assert typeset("-") == "–"
    assert typeset("58.1* (31-84)") == "58.1* (31–84)"
    assert typeset("-1.2 (-2.0 to +0.1)") == "−1.2 (−2.0 to +0.1)"
    assert typeset("64.1, -") == "64.1, –"
    assert typeset("held_out") == "held_out"


@pytest.mark.parametrize(
    ("rate", "interval", "normal", "short", "tone"),
    [
        (0.44, (0.24, 0.65), 25, "broken", Tone.BAD),
        (0.10, (0.05, 0.18), 200, "kept", Tone.GOOD),
        (0.02, (0.00, 0.05), 200, "kept", Tone.GOOD),
        (0.233, (0.0993, 0.423), 30, "undecided", Tone.DOUBT),
        (0.0, (0.0, 0.6), 4, "undecided", Tone.DOUBT),
        (None, None, 4, "not measured", Tone.UNKNOWN),
        (None, None, 0, "not measured", Tone.UNKNOWN),
    ],
)
def test_a_promise_is_kept_only_where_the_clips_can_tell(
    rate: float | None, interval: tuple[float, float] | None, normal: int, short: str, tone: Tone
) -> None:
    """Not being contradicted by four clips is no proof."""
    verdict = promise_verdict(0.1, rate, interval, normal)
    assert (verdict.short, verdict.tone) == (short, tone)


@pytest.mark.parametrize(
    ("auc", "interval", "normal", "short"),
    [
        (0.97, (0.94, 1.0), 30, "clearly"),
        (0.69, (0.56, 0.81), 30, "partly"),
        (0.58, (0.31, 0.84), 8, "undecided"),
        (0.30, (0.20, 0.45), 30, "not heard"),
        (1.0, None, 1, "undecided"),
        (None, None, 8, "not measured"),
        (None, None, 0, "not measured"),
    ],
)
def test_faults_are_heard_only_where_chance_is_ruled_out(
    auc: float | None, interval: tuple[float, float] | None, normal: int, short: str
) -> None:
    assert hearing_verdict(auc, interval, normal).short == short


def test_what_is_missing_is_named() -> None:
    assert "no faulty clips" in hearing_verdict(None, None, 8).words
    assert "no normal clips" in hearing_verdict(None, None, 0).words
    assert "no threshold" in promise_verdict(None, None, None, 3).words
