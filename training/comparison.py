"""Systems beside each other: totals over all groups, differences on the same draws, and the spread over seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.intervals import difference_interval, harmonic_interval, mean_interval
from training.measure import Areas, Figure, Measured
from training.metrics import MIN_NORMAL_FOR_PARTIAL, Interval, harmonic_means
from training.recordings import Place
from training.resampling import correlation
from training.tables import (
    Difference,
    Estimate,
    GroupDifference,
    GroupSpread,
    Range,
    Row,
    Spread,
    System,
    Totals,
)

Group: TypeAlias = Mapping[Place, Measured]
"""What was measured of one system, by place."""


def totals(measured: Group) -> Totals:
    """The totals over all places where the system has an AUC; without interval where one of these has no draws."""
    areas = [one.areas for one in measured.values() if one.areas is not None]
    if not areas:
        return _no_totals()
    return Totals(**{name: total(areas).estimate for name, total in _TOTALS.items()})


def difference(labels: tuple[str, str], first: Group, other: Group) -> Difference:
    """The first system minus the other.

    A draw that favours one system favours the other too where they hear the same: paired, that cancels.
    """
    shared = {
        place: (one.areas, theirs)
        for place, one in first.items()
        if one.areas is not None and (theirs := other[place].areas) is not None
    }
    groups = [
        GroupDifference(
            *place,
            auc=_minus(ours.auc, theirs.auc),
            pauc=_minus(ours.pauc, theirs.pauc)
            if first[place].row.normal >= MIN_NORMAL_FOR_PARTIAL
            else Estimate(None, None),
        )
        for place, (ours, theirs) in shared.items()
    ]
    if not shared:
        return Difference(*labels, groups=(), totals=_no_totals())
    both = [list(areas) for areas in zip(*shared.values(), strict=True)]
    total = {name: _minus(*(of(areas) for areas in both)) for name, of in _TOTALS.items()}
    return Difference(*labels, groups=tuple(groups), totals=Totals(**total))


def spreads(systems: Sequence[System]) -> tuple[Spread, ...]:
    """A spread for each lineage of which several seeds are there; a seed's first system counts."""
    found: dict[str, dict[int, System]] = {}
    for system in systems:
        if system.seed is not None:
            found.setdefault(system.lineage, {}).setdefault(system.seed, system)
    return tuple(_spread(list(by_seed.values())) for by_seed in found.values() if len(by_seed) > 1)


def _no_totals() -> Totals:
    return Totals(*[Estimate(None, None)] * len(_TOTALS))


def _official_score(areas: Sequence[Areas]) -> Figure:
    """Areas of one place go together, where that is known as far as it is so; other places are drawn apart."""
    figures = [*(one.auc for one in areas), *(one.pauc for one in areas)]
    known = [correlation(one.auc.draws, one.pauc.draws) for one in areas]
    within = np.diag([1.0 if one is None else one for one in known])
    apart = np.eye(len(areas))
    return _mean(figures, harmonic_means, harmonic_interval, np.block([[apart, within], [within, apart]]))


def _harmonic_mean_auc(areas: Sequence[Areas]) -> Figure:
    return _mean([one.auc for one in areas], harmonic_means, harmonic_interval, np.eye(len(areas)))


def _mean_auc(areas: Sequence[Areas]) -> Figure:
    return _mean(
        [one.auc for one in areas], lambda figures: np.mean(figures, axis=0), mean_interval, np.eye(len(areas))
    )


def _mean(
    figures: Sequence[Figure],
    mean: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    interval: Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], Interval],
    correlations: NDArray[np.float64],
) -> Figure:
    """Of (figures, n) and of its intervals; without draws and interval where one of the figures has none."""
    values = np.array([one.value for one in figures])
    value = float(mean(values[:, None])[0])
    intervals = [one.interval for one in figures if one.interval is not None]
    if len(intervals) < len(figures):
        return Figure(value, np.empty(0), None)
    draws = mean(np.stack([one.draws for one in figures]))
    return Figure(value, draws, interval(values, np.array(intervals), correlations))


_TOTALS: Mapping[str, Callable[[Sequence[Areas]], Figure]] = {
    "official_score": _official_score,
    "harmonic_mean_auc": _harmonic_mean_auc,
    "mean_auc": _mean_auc,
}
"""The fields of `Totals`."""


def _minus(first: Figure, other: Figure) -> Estimate:
    """The difference; the draws show how far the two go together, and where they show nothing they are taken apart."""
    value = first.value - other.value
    if first.interval is None or other.interval is None:
        return Estimate(value, None)
    together = correlation(first.draws, other.draws) or 0.0
    return Estimate(value, difference_interval((first.value, other.value), (first.interval, other.interval), together))


def _spread(systems: Sequence[System]) -> Spread:
    return Spread(
        system=systems[0].name,
        recipe=systems[0].recipe,
        seeds=tuple(system.seed for system in systems if system.seed is not None),
        groups=tuple(_group_spread(rows) for rows in zip(*(system.rows for system in systems), strict=True)),
        official_score=_range(system.totals.official_score.value for system in systems),
        harmonic_mean_auc=_range(system.totals.harmonic_mean_auc.value for system in systems),
        mean_auc=_range(system.totals.mean_auc.value for system in systems),
    )


def _group_spread(rows: Sequence[Row]) -> GroupSpread:
    return GroupSpread(
        *rows[0].place,
        auc=_range(row.auc for row in rows),
        pauc=_range(row.pauc for row in rows),
        false_alarm_rate=_range(row.false_alarm_rate for row in rows),
        hit_rate=_range(row.hit_rate for row in rows),
    )


def _range(values: Iterable[float | None]) -> Range | None:
    defined = [value for value in values if value is not None]
    return Range(float(np.mean(defined)), min(defined), max(defined), len(defined)) if defined else None
