"""Systems beside each other: totals over all groups, differences on the same draws, and the spread over seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.measure import Measured, Sample, estimate
from training.metrics import MIN_NORMAL_FOR_PARTIAL, harmonic_means
from training.recordings import Place
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

_Total = Callable[[NDArray[np.float64], NDArray[np.float64]], Sample]
"""(places, 1 + draws) AUCs and pAUCs to a total: (1 + draws,)."""

_TOTALS: Mapping[str, _Total] = {
    "official_score": lambda aucs, paucs: harmonic_means(np.concatenate([aucs, paucs])),
    "harmonic_mean_auc": lambda aucs, _: harmonic_means(aucs),
    "mean_auc": lambda aucs, _: np.asarray(aucs.mean(axis=0)),
}
"""The fields of `Totals`."""


def totals(measured: Group) -> Totals:
    """The totals over all places where the system has an AUC; without interval where one of these has no draws."""
    areas = _stacked(measured, measured)
    if areas is None:
        return Totals(*[Estimate(None, None)] * len(_TOTALS))
    return Totals(**{name: estimate(total(*areas)) for name, total in _TOTALS.items()})


def difference(labels: tuple[str, str], first: Group, other: Group) -> Difference:
    """The first system minus the other, draw by draw.

    A draw that favours one system favours the other too where they hear the same: paired, that cancels.
    """
    shared = [place for place, one in first.items() if one.areas is not None and other[place].areas is not None]
    groups = []
    for place in shared:
        ours, theirs = first[place].areas, other[place].areas
        assert ours is not None
        assert theirs is not None
        shown = first[place].row.normal >= MIN_NORMAL_FOR_PARTIAL
        partial = estimate(ours.pauc - theirs.pauc) if shown else Estimate(None, None)
        groups.append(GroupDifference(*place, auc=estimate(ours.auc - theirs.auc), pauc=partial))
    ours_stacked, theirs_stacked = _stacked(first, shared), _stacked(other, shared)
    if ours_stacked is None or theirs_stacked is None:
        total = Totals(*[Estimate(None, None)] * len(_TOTALS))
    else:
        total = Totals(**{name: estimate(of(*ours_stacked) - of(*theirs_stacked)) for name, of in _TOTALS.items()})
    return Difference(*labels, groups=tuple(groups), totals=total)


def spreads(systems: Sequence[System]) -> tuple[Spread, ...]:
    """A spread for each lineage of which several seeds are there; a seed's first system counts."""
    found: dict[str, dict[int, System]] = {}
    for system in systems:
        if system.seed is not None:
            found.setdefault(system.lineage, {}).setdefault(system.seed, system)
    return tuple(_spread(list(by_seed.values())) for by_seed in found.values() if len(by_seed) > 1)


def _stacked(measured: Group, places: Iterable[Place]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """AUCs and pAUCs of those of ``places`` that have them: (places, 1 + draws); one column where one has no draws."""
    areas = [own for place in places if (own := measured[place].areas) is not None]
    if not areas:
        return None
    columns = min(len(own.auc) for own in areas)
    return np.stack([own.auc[:columns] for own in areas]), np.stack([own.pauc[:columns] for own in areas])


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
