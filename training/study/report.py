"""The study's table: every system beside the default, over all seeds.

**The rule**, named before any system was trained: a choice becomes the default where its criterion is above the
default's with every seed, of three at least, and above it on average by more than the default's own criterion differs
between seeds; at the default's training budget, and for source clips, for six target clips carry no decision.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.layout import columns
from training.study.figures import Figures
from training.study.plan import StudiedSystem

LEAST_SEEDS = 3
"""Fewer decide nothing."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure's mean, least and greatest over the seeds."""

    mean: float
    least: float
    greatest: float

    def __str__(self) -> str:
        """Per cent."""
        return f"{100 * self.mean:.1f} ({100 * self.least:.1f} to {100 * self.greatest:.1f})"


@dataclass(frozen=True, slots=True)
class Line:
    """One system over the seeds.

    ``gains``: of the criterion over the default's, seed by seed. ``wins``: by the rule above; None for the default
    itself and for systems of several trainings, whose budget is another.
    """

    system: str
    criterion: Spread
    gains: tuple[float, ...]
    strangers: Spread | None
    false_alarms: Spread | None
    target_changes: Spread | None
    test_official: Spread | None
    test_mean_auc: Spread | None
    wins: bool | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def lines(systems: Sequence[StudiedSystem], figures: Sequence[Figures]) -> list[Line]:
    """A line a system, beside the first of them, the default."""
    found: dict[str, dict[int, Figures]] = {system.name: {} for system in systems}
    for one in figures:
        found[one.system][one.seed] = one
    return [_line(system, found[system.name], found[systems[0].name]) for system in systems]


def _line(system: StudiedSystem, own: Mapping[int, Figures], usual: Mapping[int, Figures]) -> Line:
    gains = tuple(own[seed].criterion - usual[seed].criterion for seed in own)
    noise = float(np.ptp([usual[seed].criterion for seed in own]))

    def spread(figure: Callable[[Figures], float | None]) -> Spread | None:
        values = [value for value in map(figure, own.values()) if value is not None]
        return Spread(float(np.mean(values)), min(values), max(values)) if values else None

    criterion = spread(lambda one: one.criterion)
    assert criterion is not None
    return Line(
        system=system.name,
        criterion=criterion,
        gains=gains,
        strangers=spread(lambda one: one.strangers),
        false_alarms=spread(lambda one: one.false_alarms),
        target_changes=spread(lambda one: one.target_changes),
        test_official=spread(lambda one: one.test_official),
        test_mean_auc=spread(lambda one: one.test_mean_auc),
        wins=None
        if own is usual or len(system.trainings) > 1
        else bool(len(gains) >= LEAST_SEEDS and min(gains) > 0.0 and np.mean(gains) > noise),
    )


def as_text(found: Sequence[Line]) -> str:
    """The table for a terminal."""
    header = ("system", "criterion", "gain", "wins", "strangers", "target", "false alarms", "test official")
    table = [
        (
            line.system,
            str(line.criterion),
            f"{100 * np.mean(line.gains):+.1f}",
            {None: "-", False: "no", True: "yes"}[line.wins],
            *(
                "-" if one is None else str(one)
                for one in (line.strangers, line.target_changes, line.false_alarms, line.test_official)
            ),
        )
        for line in found
    ]
    return "\n".join(
        [
            *columns(header, table),
            "",
            "per cent: mean over the seeds (least to greatest); the criterion is AUC of held-out clips against their "
            "modified copies; test figures decide nothing",
        ]
    )
