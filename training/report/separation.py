"""How well normal and faulty clips are told apart: scores against the threshold, and ROC curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from models.bundle import CalibrationKey
from models.vocabulary import Condition
from training.metrics import MAX_FALSE_POSITIVE_RATE
from training.report.contents import (
    ReportData,
    anomaly_scores,
    by_place,
    decision_scores,
    of_condition,
)
from training.report.panels import DASHES, plates, quarters, row_place, system_hue
from training.report.theme import LIGHT, Key, Panel, Plate
from training.report.words import count, per_cent, place_name
from training.scored import Scored
from training.tables import Row

Array = NDArray[np.float64]

_BINS = 30
_BEYOND = 1.0
"""Scores further above the normal ones than so many times their range share the last bar."""
_KINDS: Mapping[Condition | None, tuple[str, str]] = {
    Condition.NORMAL: ("normal test clips", "normal"),
    Condition.ANOMALY: ("faulty test clips", "faulty"),
    None: ("test clips of unknown condition", "known"),
}


def score_plates(data: ReportData) -> list[Plate]:
    """Histograms of the scores that are compared with the threshold, and the calibration's."""
    kinds = {clip.recording.condition for clip in data.clips}
    keys = [Key(_KINDS[kind][0], _KINDS[kind][1], "area") for kind in _KINDS if kind in kinds]
    keys += [Key("calibration clips", "ink", "line"), Key("threshold", "ink", "dashes")]
    panels = [(place[0].machine_type, _score_panel(data, place, clips)) for place, clips in data.places.items()]
    return list(plates("scores", "Scores and thresholds", panels, keys))


def score_edges(normal: Array, others: Array, n_bins: int = _BINS) -> tuple[Array, float]:
    """The edges of a histogram's bars, and where its last bar, that of all higher scores, begins to be such (or inf).

    Parameters
    ----------
    normal : scores that must be seen apart: of normal clips, of the calibration, the threshold.
    others : scores of the other clips; may be empty.
    """
    low = float(min(normal.min(), others.min(initial=np.inf)))
    top, highest = float(normal.max()), float(max(normal.max(), others.max(initial=-np.inf)))
    limit = top + _BEYOND * (top - low)
    if highest <= limit or top == low:
        low, highest = (low, highest) if highest > low else (low - 0.5, low + 0.5)
        return np.linspace(low, highest, n_bins + 1), np.inf
    return np.linspace(low, limit, n_bins + 1), limit


def _score_panel(data: ReportData, place: CalibrationKey, clips: Sequence[Scored]) -> Panel:
    threshold = clips[0].threshold
    behind = data.calibrations[place].calibration.scores if place in data.calibrations else np.empty(0)
    scores = {kind: decision_scores(of_condition(clips, kind)) for kind in _KINDS}
    near = np.concatenate([scores[Condition.NORMAL], behind, [] if threshold is None else [threshold]])
    others = np.concatenate([scores[Condition.ANOMALY], scores[None]])
    edges, limit = score_edges(near, others) if len(near) else score_edges(others, near)

    def draw(ax: Axes) -> None:
        for kind, (_, colour) in _KINDS.items():
            if len(scores[kind]):
                _bars(ax, scores[kind], edges, LIGHT[colour], -1.0 if kind is Condition.ANOMALY else 1.0)
        if len(behind):
            shares, _ = np.histogram(behind, edges)
            ax.stairs(shares / len(behind), edges, color=LIGHT["ink"], lw=0.9)
        if threshold is not None:
            ax.axvline(threshold, color=LIGHT["ink"], ls=DASHES, lw=1.2)
        ax.axhline(0, color=LIGHT["rule"], lw=0.8)
        beyond = int(np.count_nonzero(others > limit))
        if beyond:
            ax.annotate(
                f"{beyond} beyond →",
                (1, 0),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=LIGHT["muted"],
            )
        ax.set(xlabel="score (nats)", ylabel="share of clips")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(lambda share, _: f"{abs(share):.0%}")

    found = [
        f"{name} {own.min():.0f} to {own.max():.0f}, median {np.median(own):.0f}"
        for kind, (name, _) in _KINDS.items()
        if len(own := scores[kind])
    ]
    line = "no threshold" if threshold is None else f"threshold {threshold:.0f}"
    return Panel(place_name(place), f"Scores of {place_name(place)} in nats: {'; '.join(found)}; {line}.", draw)


def _bars(ax: Axes, scores: Array, edges: Array, colour: str, sign: float) -> None:
    """Up, or with a negative ``sign`` down."""
    shares, _ = np.histogram(np.minimum(scores, edges[-1]), edges)
    ax.stairs(sign * shares / len(scores), edges, fill=True, color=colour, alpha=0.6, lw=0)


def roc_plates(data: ReportData) -> list[Plate]:
    """ROC curves of every system, for each place with clips of both conditions."""
    systems = {label: by_place(clips) for label, clips in data.scored.items()}
    keys = [Key(one, system_hue(data, one), "line") for one in systems]
    keys += [
        Key("region of the pAUC", system_hue(data, data.labels[0]), "area"),
        Key("threshold in force", "ink", "diamond"),
        Key("chance", "muted", "dashes"),
    ]
    panels = []
    for row in data.own_rows:
        if row.auc is not None:
            curves = {one: own[row_place(row)] for one, own in systems.items() if row_place(row) in own}
            panels.append((row.machine_type, _roc_panel(data, row, curves)))
    return list(plates("roc", "ROC curves", panels, keys))


def _roc_panel(data: ReportData, row: Row, curves: Mapping[str, Sequence[Scored]]) -> Panel:
    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], color=LIGHT["muted"], ls=DASHES, lw=1)
        for label, clips in reversed(list(curves.items())):  # the bundle's own last, above the others
            false_rate, hit_rate = _roc(clips)
            colour = LIGHT[system_hue(data, label)]
            ax.plot(false_rate, hit_rate, color=colour, clip_on=False)
            if label == data.labels[0]:
                inside = np.append(false_rate[false_rate < MAX_FALSE_POSITIVE_RATE], MAX_FALSE_POSITIVE_RATE)
                height = np.interp(inside, false_rate, hit_rate)
                height[:-1] = hit_rate[: len(inside) - 1]  # where a curve is steep, its corners
                ax.fill_between(inside, height, color=colour, alpha=0.35, lw=0)
        if row.false_alarm_rate is not None and row.hit_rate is not None:
            ax.plot([row.false_alarm_rate], [row.hit_rate], "D", color=LIGHT["ink"], ms=5, clip_on=False, zorder=3)
        ax.axvline(MAX_FALSE_POSITIVE_RATE, color=LIGHT["rule"], lw=0.8)
        for height, (words, colour) in enumerate(reversed(_figures(data, row, list(curves)))):
            ax.text(0.98, 0.04 + 0.085 * height, words, ha="right", color=LIGHT[colour])
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="false alarms", ylabel="hits")
        quarters(ax, "{:.0%}".format)

    seen = f"AUC {per_cent(row.auc, row.auc_interval)} per cent, pAUC {per_cent(row.pauc, row.pauc_interval)} per cent"
    words = f"{count(row.normal, 'normal clip')} and {row.anomalous} faulty"
    return Panel(place_name(row_place(row)), f"ROC curve of {place_name(row_place(row))}: {seen}; {words}.", draw)


def _figures(data: ReportData, row: Row, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Lines beside the curve, each with its colour: the bundle's figures, or of several systems the AUC of each."""
    if len(labels) == 1:
        lines = (f"AUC {per_cent(row.auc, row.auc_interval)}", f"pAUC {per_cent(row.pauc, row.pauc_interval)}")
        return [(line, "ink") for line in lines]
    aucs = {label: one.auc for label in labels for one in data.rows[label] if row_place(one) == row_place(row)}
    return [(f"{label}: AUC {per_cent(auc)}", system_hue(data, label)) for label, auc in aucs.items()]


def _roc(clips: Sequence[Scored]) -> tuple[Array, Array]:
    normal, anomalous = (anomaly_scores(of_condition(clips, condition)) for condition in Condition)
    truth = np.repeat([0, 1], [len(normal), len(anomalous)])
    false_rate, hit_rate, _ = roc_curve(truth, np.concatenate([normal, anomalous]))
    return false_rate, hit_rate
