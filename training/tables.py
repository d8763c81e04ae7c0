"""What an evaluation found, and its JSON; `training.printed` makes text of it, `training.official` CSV files.

Figures are fractions from 0 to 1; what the clips do not define is None, in the JSON null. Intervals are 95 %.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.vocabulary import Domain
from training.dcase2021 import DataSet
from training.metrics import Interval, harmonic_mean, official_score
from training.promises import Promise
from training.recordings import Place
from training.scored import PartKind, Scored, SystemName


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval; None where it is not defined, or nothing can be drawn."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one system on one section and domain, clips of unknown condition left out.

    ``pauc`` is None for fewer than 20 normal clips; ``official_pauc`` is not: it enters the official score, as the
    challenge defines that, and nothing else. For intervals recordings are what is independent, see
    `training.resampling`.
    """

    system: SystemName
    bundle: str | None
    recipe: str | None
    seed: int | None
    machine_type: str
    section: str
    domain: Domain
    auc: float | None
    auc_interval: Interval | None
    pauc: float | None
    pauc_interval: Interval | None
    normal: int
    anomalous: int
    false_alarm_rate: float | None
    hit_rate: float | None
    false_alarm_interval: Interval | None
    hit_interval: Interval | None
    official_pauc: float | None

    @property
    def place(self) -> Place:
        """Where it was measured."""
        return self.machine_type, self.section, self.domain


_BINDING = tuple(Row.__dataclass_fields__)[:15]
"""The fields of a row in the JSON: a contract with who reads it. The rates' intervals stand beside, in ``rates``."""
_PLACE = ("machine_type", "section", "domain")


@dataclass(frozen=True, slots=True)
class Part:
    """AUC and pAUC of a term or of a sum of terms ("section + attribute"), or of one loss's members, of one place."""

    machine_type: str
    section: str
    domain: Domain
    kind: PartKind
    name: str
    auc: float | None
    pauc: float | None

    @property
    def place(self) -> Place:
        """Where it was measured."""
        return self.machine_type, self.section, self.domain


@dataclass(frozen=True, slots=True)
class Totals:
    """One figure for all groups: harmonic mean of AUCs and pAUCs, harmonic and arithmetic mean of AUCs alone."""

    official_score: Estimate
    harmonic_mean_auc: Estimate
    mean_auc: Estimate


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """A contender and what was measured of it. ``label`` is unique among the systems of an evaluation.

    ``rows``: one a group that any system can score, without figures where this one cannot. ``promises``: none of a
    system whose thresholds are not set to a rate.
    """

    label: str
    name: SystemName
    bundle: str | None
    recipe: str | None
    seed: int | None
    lineage: str
    rows: tuple[Row, ...]
    parts: tuple[Part, ...]
    scored: tuple[Scored, ...]
    totals: Totals
    promises: tuple[Promise, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupDifference:
    """The first system's figures minus another's, of one place."""

    machine_type: str
    section: str
    domain: Domain
    auc: Estimate
    pauc: Estimate

    @property
    def place(self) -> Place:
        """Where both were measured."""
        return self.machine_type, self.section, self.domain


@dataclass(frozen=True, slots=True)
class Difference:
    """The first system minus another, both on the same draws of the same clips; totals are over the shared groups."""

    minuend: str
    subtrahend: str
    groups: tuple[GroupDifference, ...]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Range:
    """Mean, least and greatest of a figure over seeds, and of how many."""

    mean: float
    min: float
    max: float
    seeds: int


@dataclass(frozen=True, slots=True)
class GroupSpread:
    """One place's figures over the seeds; None where no seed has the figure."""

    machine_type: str
    section: str
    domain: Domain
    auc: Range | None
    pauc: Range | None
    false_alarm_rate: Range | None
    hit_rate: Range | None

    @property
    def place(self) -> Place:
        """Where they were measured."""
        return self.machine_type, self.section, self.domain


@dataclass(frozen=True, slots=True)
class Spread:
    """Contenders that differ in the seed only."""

    system: SystemName
    recipe: str | None
    seeds: tuple[int, ...]
    groups: tuple[GroupSpread, ...]
    official_score: Range | None
    harmonic_mean_auc: Range | None
    mean_auc: Range | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that was measured, the system in question first; ``notes`` says what could not be.

    ``data_sets``: which machine types are DCASE 2021's own, so that the paper's figures may stand beside.
    """

    systems: tuple[System, ...]
    differences: tuple[Difference, ...]
    spread: tuple[Spread, ...]
    data_sets: Mapping[DataSet, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def first(self) -> System:
        """The system in question."""
        return self.systems[0]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of all systems."""
        return tuple(row for system in self.systems for row in system.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``rows`` and ``harmonic_mean`` are the contract, what stands beside them adds detail."""
        return {
            "rows": [{name: getattr(row, name) for name in _BINDING} for row in self.rows],
            "harmonic_mean": means_of(self.first.rows),
            "mean_auc": self.first.totals.mean_auc.value,
            "systems": [
                {
                    **{name: getattr(system, name) for name in ("label", "bundle", "recipe", "seed")},
                    "system": system.name,
                    **_totals(system.totals),
                    "harmonic_mean": means_of(system.rows),
                    "groups": sum(row.auc is not None for row in system.rows),
                }
                for system in self.systems
            ],
            "differences": [
                {
                    "minuend": difference.minuend,
                    "subtrahend": difference.subtrahend,
                    **_totals(difference.totals),
                    "groups": [_with_intervals(asdict(group)) for group in difference.groups],
                }
                for difference in self.differences
            ],
            "spread": [asdict(spread) for spread in self.spread],
            "rates": [
                {
                    "label": system.label,
                    **{name: getattr(row, name) for name in (*_PLACE, "false_alarm_interval", "hit_interval")},
                }
                for system in self.systems
                for row in system.rows
            ],
            "promises": [{"label": system.label, **asdict(one)} for system in self.systems for one in system.promises],
            "parts": [{"label": system.label, **asdict(part)} for system in self.systems for part in system.parts],
            "dcase2021": {data_set: list(names) for data_set, names in self.data_sets.items()},
            "notes": list(self.notes),
        }

    def write_json(self, path: Path) -> None:
        """Write `to_json` into a file, which is replaced if it exists."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def means_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Harmonic means of all rows, of each domain, and of each machine type, there of both domains and each.

    The official score is of all AUCs and pAUCs; a mean of pAUCs is of those that are shown.
    """
    machine_types = sorted({row.machine_type for row in rows})
    return {
        "official_score": official_score([row.auc for row in rows], [row.official_pauc for row in rows]),
        **_means(rows),
        "domains": _by_domain(rows),
        "machine_types": {
            name: {**_means(own), **_by_domain(own)}
            for name in machine_types
            for own in [[row for row in rows if row.machine_type == name]]
        },
    }


def _means(rows: Iterable[Row]) -> dict[str, float | None]:
    rows = list(rows)
    return {"auc": harmonic_mean(row.auc for row in rows), "pauc": harmonic_mean(row.pauc for row in rows)}


def _by_domain(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    return {
        domain.value: _means(row for row in rows if row.domain is domain)
        for domain in Domain
        if any(row.domain is domain for row in rows)
    }


def _totals(totals: Totals) -> dict[str, Any]:
    return _with_intervals(asdict(totals))


def _with_intervals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each estimate as two entries, as a row has it: the figure under its name, and its interval."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            plain |= {name: value["value"], f"{name}_interval": value["interval"]}
        else:
            plain[name] = value
    return plain
