"""Systems beside each other: totals over all groups, differences on the same draws, and the spread over seeds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from training.intervals import difference_interval, harmonic_interval, mean_interval
from training.measure import Areas, Figure, Measured
from training.metrics import MIN_NORMAL_FOR_PARTIAL, Interval, harmonic_means, reciprocals
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
    return Totals(**{name: _estimate(total, areas) for name, total in _TOTALS.items()})


def difference(labels: tuple[str, str], first: Group, other: Group) -> Difference:
    """The first system minus the other.

    A draw that favours one system favours the other too where they hear the same: paired, that cancels. Of totals as
    much cancels as cancels in their groups, each counted as far as it reaches: groups of which the draws show nothing
    are as unsure together as alone.
    """
    shared = {
        place: (one.areas, theirs)
        for place, one in first.items()
        if one.areas is not None and (theirs := other[place].areas) is not None
    }
    groups = [
        GroupDifference(
            *place,
            auc=_minus(both, lambda one: one.auc),
            pauc=_minus(both, lambda one: one.pauc)
            if first[place].row.normal >= MIN_NORMAL_FOR_PARTIAL
            else Estimate(None, None),
        )
        for place, both in shared.items()
    ]
    if not shared:
        return Difference(*labels, groups=(), totals=_no_totals())
    total = {name: _total_minus(kind, list(shared.values())) for name, kind in _TOTALS.items()}
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


@dataclass(frozen=True, slots=True)
class _Total:
    """``figures``: of a place. ``mean``: of (figures, n). ``scale``: on which figures add up to it."""

    figures: Callable[[Areas], Sequence[Figure]]
    mean: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    interval: Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], Interval]
    scale: Callable[[NDArray[np.float64]], NDArray[np.float64]]


_TOTALS: Mapping[str, _Total] = {
    "official_score": _Total(lambda one: (one.auc, one.pauc), harmonic_means, harmonic_interval, reciprocals),
    "harmonic_mean_auc": _Total(lambda one: (one.auc,), harmonic_means, harmonic_interval, reciprocals),
    "mean_auc": _Total(
        lambda one: (one.auc,), lambda figures: np.mean(figures, axis=0), mean_interval, lambda figures: figures
    ),
}
"""The fields of `Totals`."""


def _estimate(total: _Total, areas: Sequence[Areas]) -> Estimate:
    """Without interval where one of the figures has none."""
    figures = [figure for one in areas for figure in total.figures(one)]
    values = np.array([one.value for one in figures])
    value = float(total.mean(values[:, None])[0])
    ends = [one.interval for one in figures if one.interval is not None]
    if len(ends) < len(figures):
        return Estimate(value, None)
    return Estimate(value, total.interval(values, np.array(ends), _within(total, areas)))


def _total_minus(total: _Total, places: Sequence[tuple[Areas, Areas]]) -> Estimate:
    """The difference of totals over places that both systems have."""
    both = tuple(zip(*places, strict=True))
    first, other = (_estimate(total, areas) for areas in both)
    together = 0.0
    if first.interval is not None and other.interval is not None:
        reaches = [
            np.ptp(total.scale(np.array([figure.interval for one in areas for figure in total.figures(one)])), axis=1)
            for areas in both
        ]
        between = block_diag(*(_between(*pair, total.figures) for pair in places))
        own = [reach @ _within(total, areas) @ reach for reach, areas in zip(reaches, both, strict=True)]
        together = float(np.clip(reaches[0] @ between @ reaches[1] / math.sqrt(own[0] * own[1]), -1.0, 1.0))
    return _less(first, other, together)


def _minus(both: tuple[Areas, Areas], figure: Callable[[Areas], Figure]) -> Estimate:
    """The difference of one figure of one place."""
    together = float(_between(*both, lambda one: (figure(one),))[0, 0])
    return _less(figure(both[0]).estimate, figure(both[1]).estimate, together)


def _less(first: Estimate, other: Estimate, together: float) -> Estimate:
    assert first.value is not None
    assert other.value is not None
    value = first.value - other.value
    if first.interval is None or other.interval is None:
        return Estimate(value, None)
    return Estimate(value, difference_interval((first.value, other.value), (first.interval, other.interval), together))


def _within(total: _Total, areas: Sequence[Areas]) -> NDArray[np.float64]:
    """How far figures of one system go together: those of a place wholly where draws show nothing; places are apart."""
    found: NDArray[np.float64] = block_diag(*(_correlations(*[total.figures(one)] * 2, unknown=1.0) for one in areas))
    return found


def _between(ours: Areas, theirs: Areas, figures: Callable[[Areas], Sequence[Figure]]) -> NDArray[np.float64]:
    """How far two systems' figures of a place go together, not at all where draws do not show it.

    Two that part the clips without an error have equal draws, and are no less two. But one that gives each clip the
    same score as the other is the same.
    """
    same = all(np.array_equal(one, other) for one, other in zip(ours.scores, theirs.scores, strict=True))
    return _correlations(figures(ours), figures(theirs), unknown=1.0 if same else 0.0)


def _correlations(some: Sequence[Figure], others: Sequence[Figure], *, unknown: float) -> NDArray[np.float64]:
    """(some, others), of their draws."""
    known = [[correlation(one.draws, other.draws) for other in others] for one in some]
    return np.array([[unknown if each is None else each for each in row] for row in known])


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
