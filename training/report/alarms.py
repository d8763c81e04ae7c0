"""False alarms promised and measured, and the p-values behind them."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from models.bundle import CalibrationKey
from models.vocabulary import Condition
from training.report.contents import ReportData, of_condition
from training.report.panels import DASHES, plates, quarters, row_place, system_hue
from training.report.theme import LIGHT, Key, Panel, Plate
from training.report.words import count, per_cent, place_name
from training.tables import Row

Array = NDArray[np.float64]

_SMIRNOV = 1.358
"""Of the two-sample Kolmogorov-Smirnov test at 95 %, for many clips; for few it errs towards a wider band."""


def false_alarm_plate(data: ReportData) -> Plate | None:
    """Promised and measured rates, of all systems; None where nothing is decided on normal clips."""
    rows = sorted(
        ((label, row) for label, own in data.rows.items() for row in own if row.false_alarm_rate is not None),
        key=lambda each: (each[1].machine_type, each[1].section, each[1].domain),
    )
    if not rows:
        return None
    groups = {name: list(own) for name, own in groupby(rows, key=lambda each: each[1].machine_type)}
    labels = [label for label in data.labels if label in dict(rows)]
    most, several = max(map(len, groups.values())), len(labels) > 1
    measured = "measured, with its 95 % interval"
    return Plate(
        "false-alarms",
        "False alarms",
        [_false_alarm_panel(data, name, own, most, several=several) for name, own in groups.items()],
        [
            *(Key(f"{one}, {measured}" if several else measured, system_hue(data, one), "dot") for one in labels),
            Key("promised", "ink", "tick"),
        ],
        height_in=0.45 + 0.44 * most,
    )


def _false_alarm_panel(
    data: ReportData, machine_type: str, rows: Sequence[tuple[str, Row]], most: int, *, several: bool
) -> Panel:
    def draw(ax: Axes) -> None:
        for place, (label, row) in enumerate(rows):
            assert row.false_alarm_rate is not None
            colour = LIGHT[system_hue(data, label)]
            ax.plot([0, 1], [-place, -place], color=LIGHT["rule"], lw=1)
            if row.false_alarm_interval is not None:
                ax.plot(row.false_alarm_interval, [-place, -place], color=colour, lw=4, alpha=0.45)
            ax.plot([row.false_alarm_rate], [-place], "o", color=colour, ms=5.5)
            promised = data.promised(row_place(row)) if label == data.labels[0] else None
            if promised is not None:
                ax.plot([promised, promised], [-place - 0.2, -place + 0.2], color=LIGHT["ink"], lw=1.4)
            name = f"{row.section} {row.domain}" + (f", {label}" if several else "")
            ax.text(0, 0.24 - place, name, va="bottom")
            figures = f"{per_cent(row.false_alarm_rate, row.false_alarm_interval)} %, {count(row.normal, 'clip')}"
            ax.text(1, 0.24 - place, figures, va="bottom", ha="right", color=LIGHT["muted"])
        ax.set(xlim=(-0.015, 1.015), ylim=(0.6 - most, 0.7), yticks=[])
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_xticks([0, 0.1, 0.25, 0.5, 0.75, 1])

    seen = "; ".join(
        f"{row.section} {row.domain} {per_cent(row.false_alarm_rate, row.false_alarm_interval)} per cent "
        f"of {count(row.normal, 'clip')}"
        for _, row in rows
    )
    return Panel(machine_type, f"False alarms of {machine_type}, measured on normal test clips: {seen}.", draw)


def p_value_plates(data: ReportData) -> list[Plate]:
    """How the p-values of normal clips spread, for each place that has such clips and calibration scores."""
    keys = (
        Key("normal test clips", "normal", "line"),
        Key("as promised", "muted", "dashes"),
        Key("what chance allows (95 %)", "known", "area"),
    )
    panels = [
        (place[0].machine_type, _p_value_panel(place, *found))
        for place in data.places
        if (found := normal_p_values(data, place))
    ]
    return list(plates("p-values", "p-values of normal clips", panels, keys))


def normal_p_values(data: ReportData, place: CalibrationKey) -> tuple[Array, int] | None:
    """The p-values of a place's normal clips, and how many calibration clips are behind them; None without any."""
    clips = of_condition(data.places[place], Condition.NORMAL)
    values = [value for clip in clips if (value := data.p_value(clip)) is not None]
    return (np.array(values), len(data.calibrations[place].calibration.scores)) if values else None


def calibration_gap(p_values: Array, calibration_clips: int) -> tuple[float, float]:
    """How far the p-values of normal clips are from uniform, and how far chance takes them in 95 of 100 cases.

    The first is the largest distance between their empirical distribution and the diagonal, where it can be judged: at
    the values that so many calibration clips can give. The second is the two-sample Kolmogorov-Smirnov bound, since
    calibration scores and test scores are two samples of what should be one distribution.
    """
    steps = np.arange(1, calibration_clips + 2) / (calibration_clips + 1)
    shares = np.searchsorted(np.sort(p_values), steps + 1e-9, side="right") / len(p_values)
    bound = _SMIRNOV * np.sqrt((len(p_values) + calibration_clips) / (len(p_values) * calibration_clips))
    return float(np.abs(shares - steps).max()), float(bound)


def _p_value_panel(place: CalibrationKey, values: Array, behind: int) -> Panel:
    gap, bound = calibration_gap(values, behind)

    def draw(ax: Axes) -> None:
        line = np.linspace(0, 1, 101)
        low, high = np.clip(line - bound, 0, 1), np.clip(line + bound, 0, 1)
        ax.fill_between(line, low, high, color=LIGHT["known"], alpha=0.22, lw=0)
        ax.plot([0, 1], [0, 1], color=LIGHT["muted"], ls=DASHES, lw=1)
        ordered = np.sort(values)
        steps = np.arange(len(ordered) + 1) / len(ordered)
        ax.step([0, *ordered, 1], [*steps, 1], where="post", color=LIGHT["normal"])
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="p-value", ylabel="share of normal clips")
        quarters(ax, "{:g}".format)

    verdict = "within what chance allows" if gap <= bound else "further than chance allows"
    words = f"{count(len(values), 'normal clip')}, {count(behind, 'calibration clip')}"
    alt = f"p-values of normal clips of {place_name(place)}: {words}; {100 * gap:.0f} points off uniform, {verdict}."
    return Panel(place_name(place), alt, draw)
