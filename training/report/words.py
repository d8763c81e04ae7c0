"""Figures in words: per cents with their intervals, and what a person may conclude from them."""

import re
from dataclasses import dataclass
from enum import StrEnum

from models.bundle import CalibrationKey
from training.metrics import Interval

FEW_CLIPS = 30
"""Fewer clips than this, behind a threshold or a rate, are said to be few."""
_NBSP, _JOINED = "\N{NO-BREAK SPACE}", "\N{WORD JOINER}–\N{WORD JOINER}"


class Tone(StrEnum):
    """How a finding is coloured; the words say the same."""

    GOOD = "good"
    DOUBT = "doubt"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding in a few words; ``short`` is what findings are counted by."""

    short: str
    words: str
    tone: Tone


def per_cent(value: float | None, interval: Interval | None = None) -> str:
    """``58.1 (31-84)`` with an en dash; a dash where there is nothing."""
    if value is None:
        return "–"
    bounds = "" if interval is None else f" ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})"
    return f"{100 * value:.1f}{bounds}"


def place_name(place: CalibrationKey) -> str:
    """``fan 00, source``."""
    return f"{place[0].machine_type} {place[0].section}, {place[1]}"


def count(number: int, noun: str) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def signed(value: float, digits: int = 1) -> str:
    """A number with a minus sign, not a hyphen, where it is negative."""
    return f"{value:,.{digits}f}".replace("-", "−")


def typeset(cell: str) -> str:
    """A table's figures as print has them: en dashes for nothing and between numbers, a minus sign before one."""
    return re.sub(r"-(?=\d)", "−", re.sub(r"(?<=\d)-(?=\d)|(?<![^ ])-(?![^,])", "–", cell))


def interval_words(interval: Interval) -> str:
    """``95 % interval 13–28 %``, which no line break divides."""
    low, high = (f"{100 * value:.0f}" for value in interval)
    return f"95{_NBSP}% interval {low}{_JOINED}{high}{_NBSP}%"


def promise_verdict(promised: float | None, rate: float | None, interval: Interval | None, normal: int) -> Verdict:
    """Whether false alarms come as often as promised, as far as the clips can tell.

    A promise counts as kept where the clips rule out twice as many alarms: not being contradicted is no proof.
    """
    if normal == 0:
        return Verdict("not measured", "not measured: no normal clips", Tone.UNKNOWN)
    if promised is None or rate is None or interval is None:
        return Verdict("not measured", "no threshold, so no alarms", Tone.UNKNOWN)
    if interval[0] > promised:
        return Verdict("broken", "broken: more alarms", Tone.BAD)
    if interval[1] <= 2.0 * promised:
        return Verdict("kept", "kept", Tone.GOOD)
    return Verdict("undecided", f"undecided: {count(normal, 'clip')} cannot tell", Tone.DOUBT)


def hearing_verdict(auc: float | None, interval: Interval | None, normal: int) -> Verdict:
    """Whether faulty clips score higher than normal ones, as far as the clips can tell."""
    if auc is None:
        return Verdict("not measured", f"not measured: no {'faulty' if normal else 'normal'} clips", Tone.UNKNOWN)
    if interval is None:
        return Verdict("undecided", "undecided: too few recordings", Tone.DOUBT)
    if interval[1] < 0.5:
        return Verdict("not heard", "no: faulty clips score lower", Tone.BAD)
    if interval[0] <= 0.5:
        return Verdict("undecided", "undecided: may be chance", Tone.DOUBT)
    if interval[0] < 0.8:
        return Verdict("partly", "partly: better than chance", Tone.DOUBT)
    return Verdict("clearly", "clearly", Tone.GOOD)
