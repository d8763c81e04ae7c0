"""An evaluation as tables for a terminal; see `training.layout` for its marks.

The paper's own figures stand beside, with its two decimals, where the recordings are DCASE 2021's own
(`training.dcase2021`). A table has one line a group or machine type, however wide that becomes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from models.vocabulary import Domain
from training.dcase2021 import MACHINE_TYPES, SECTIONS, DataSet
from training.layout import DASH, Mean, change, columns, figure, marks, mean_cells
from training.metrics import harmonic_mean
from training.paper_tables import ALL, ENSEMBLE, Figures, official_scores, part_figures, system_figures
from training.promises import RATES, Promise
from training.recordings import Place
from training.scored import PartKind, PartName, SystemName
from training.tables import Difference, Estimate, Evaluation, Part, Range, Row, Spread, System, Totals

_PAPERS_SYSTEMS = {
    SystemName.AUTOENCODER: "paper: autoencoder",
    SystemName.MOBILENETV2: "paper: MobileNetV2",
    SystemName.EARWITNESS: "paper: proposed",
}
_TOTALS = {
    "official_score": "official score",
    "harmonic_mean_auc": "harmonic mean AUC",
    "mean_auc": "arithmetic mean AUC",
}
_PLACE = ("machine type", "section", "domain")
_BOTH = "both"


def as_text(evaluation: Evaluation) -> str:
    """All tables of an evaluation, what they say in words, and its notes."""
    tables = [_figures(evaluation), _promises(evaluation)]
    if any(row.auc is not None for row in evaluation.rows):
        tables.append(_totals(evaluation))
        tables += [_means(evaluation, block) for block in _blocks(evaluation)]
        for kind in PartKind:
            tables += [_parts(evaluation, block, kind) for block in _blocks(evaluation)]
    tables += [_difference(difference) for difference in evaluation.differences]
    tables += [_spread(spread) for spread in evaluation.spread]
    tables.append([*in_words(evaluation), *(f"note: {note}" for note in evaluation.notes)])
    return "\n\n".join("\n".join(lines) for lines in tables if lines)


def _figures(evaluation: Evaluation) -> list[str]:
    """Every figure with its interval: a line a group and system."""
    several = len(evaluation.systems) > 1
    lines = []
    for rows in zip(*(system.rows for system in evaluation.systems), strict=True):
        areas, partials = marks([row.auc for row in rows]), marks([row.pauc for row in rows])
        for system, row, area, partial in zip(evaluation.systems, rows, areas, partials, strict=True):
            cells = (
                str(row.normal),
                str(row.anomalous),
                figure(row.auc, row.auc_interval, area),
                figure(row.pauc, row.pauc_interval, partial),
                figure(row.false_alarm_rate, row.false_alarm_interval),
                figure(row.hit_rate, row.hit_interval),
            )
            lines.append((*row.place, *([system.label] if several else []), *cells))
    header = ("normal", "anom.", "AUC", "pAUC", "false alarms", "hits")
    return [
        *columns((*_PLACE, *(["system"] if several else []), *header), lines),
        "per cent, 95 % intervals" + ("; * best of its group" if several else ""),
    ]


def _promises(evaluation: Evaluation) -> list[str]:
    """What thresholds promise and keep: a line a group and system, columns for each rate."""
    several = len(evaluation.systems) > 1
    found: dict[tuple[Place, str], list[Promise]] = {}
    for place in (row.place for row in evaluation.first.rows):
        for system in evaluation.systems:
            if own := [promise for promise in system.promises if promise.place == place]:
                found[place, system.label] = own
    if not found:
        return []
    lines = []
    for (place, label), own in found.items():
        cells = [str(own[0].rule), str(own[0].clips)]
        for one in own:
            cells.append(figure(one.cross_validated))
            cells.append(figure(one.false_alarms, one.false_alarm_interval))
            cells.append(figure(one.hits, one.hit_interval))
        lines.append((*place, *([label] if several else []), *cells))
    rates = [name for rate in RATES for name in (f"{100 * rate:g} asked: by folds", "test clips", "hits")]
    return [
        *columns((*_PLACE, *(["system"] if several else []), "rule", "clips", *rates), lines),
        "false alarms on normal clips, per cent: by folds, training clips against the threshold of the other folds' "
        "scores; test clips against the threshold in force",
    ]


def _totals(evaluation: Evaluation) -> list[str]:
    """A column a system, and the paper's official scores where all that is scored is a whole data set of DCASE 2021."""
    (block, *_) = _blocks(evaluation)
    papers = official_scores(block.data_set) if block.data_set and block.is_whole else {}
    groups = [_groups(system.rows) for system in evaluation.systems]
    there = _all_groups([system.rows for system in evaluation.systems])
    lines = []
    for field in fields(Totals):
        found = [getattr(system.totals, field.name) for system in evaluation.systems]
        comparable = [one.value if own == there else None for one, own in zip(found, groups, strict=True)]
        cells = [figure(one.value, one.interval, mark) for one, mark in zip(found, marks(comparable), strict=True)]
        printed = [f"{papers[name]:.2f}" if field.name == "official_score" else DASH for name in papers]
        lines.append((_TOTALS[field.name], *cells, *printed))
    lines.append(("groups", *map(str, groups), *(DASH for _ in papers)))
    header = (
        "over all groups",
        *(system.label for system in evaluation.systems),
        *(_PAPERS_SYSTEMS[name] for name in papers),
    )
    return columns(header, lines)


@dataclass(frozen=True, slots=True)
class _Block:
    """Groups whose means make one table, and the data set and machine types whose figures the paper has."""

    title: str
    places: frozenset[Place]
    data_set: DataSet | None
    own: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether these are all seven machine types of the data set and nothing else."""
        return self.own == MACHINE_TYPES and {machine_type for machine_type, _, _ in self.places} == set(MACHINE_TYPES)

    def of(self, rows: Iterable[Row], machine_type: str, domain: Domain | None) -> list[Row]:
        """The rows of a machine type or `ALL`, and of a domain or both."""
        return [
            row
            for row in rows
            if row.place in self.places
            and machine_type in {ALL, row.machine_type}
            and (domain is None or row.domain is domain)
        ]

    def lines(self) -> list[tuple[str, Domain | None]]:
        """Machine types and then all, each by domain and, of several domains, both."""
        found: list[tuple[str, Domain | None]] = []
        for name in [*sorted({machine_type for machine_type, _, _ in self.places}), ALL]:
            there = {domain for machine_type, _, domain in self.places if name in {ALL, machine_type}}
            found += [(name, domain) for domain in Domain if domain in there]
            found += [(name, None)] if len(there) > 1 else []
        return found

    def has_papers(self, machine_type: str) -> bool:
        """Whether the paper's figures of a machine type, or of all, may stand beside."""
        return self.is_whole if machine_type == ALL else machine_type in self.own


def _blocks(evaluation: Evaluation) -> list[_Block]:
    """All groups; where a data set is only a part of them, first all without the paper's figures, then it with them."""
    places = frozenset(row.place for row in evaluation.first.rows)
    sets = [
        _Block(
            f"harmonic means, DCASE 2021 {data_set} set",
            frozenset(place for place in places if place[0] in own and place[1] in SECTIONS[data_set]),
            data_set,
            own,
        )
        for data_set, own in evaluation.data_sets.items()
    ]
    if len(sets) == 1 and sets[0].places == {place for place in places if place[0] in sets[0].own}:
        return [replace(sets[0], places=places)]
    return [_Block("harmonic means", places, None, ()), *sets]


def _means(evaluation: Evaluation, block: _Block) -> list[str]:
    """Tables 2 and 5: harmonic means of AUCs and pAUCs, a column a system, and the paper's three."""
    names = list(_PAPERS_SYSTEMS) if block.data_set else []
    lines = []
    for machine_type, domain in block.lines():
        rows = [block.of(system.rows, machine_type, domain) for system in evaluation.systems]
        cells = mean_cells([_mean(own) for own in rows], _all_groups(rows))
        papers = (
            system_figures(block.data_set, machine_type, domain)
            if block.data_set and block.has_papers(machine_type)
            else {}
        )
        lines.append((machine_type, domain or _BOTH, *cells, *(_printed(papers.get(name)) for name in names)))
    header = [system.label for system in evaluation.systems] + [_PAPERS_SYSTEMS[name] for name in names]
    return [f"{block.title}: AUC, pAUC", *columns(("machine type", "domain", *header), lines)]


def _parts(evaluation: Evaluation, block: _Block, kind: PartKind) -> list[str]:
    """Tables 3 and 4: what each term, or each loss, of the first system would be alone; the paper's in brackets."""
    system = evaluation.first
    names = _part_names(system, kind)
    if len(names) < 2:
        return []
    compared = block.data_set is DataSet.DEVELOPMENT
    lines = []
    for machine_type, domain in block.lines():
        if domain is None:
            continue
        rows = block.of(system.rows, machine_type, domain)
        places = {row.place for row in rows}
        means = [
            _mean([p for p in system.parts if (p.kind, p.name) == (kind, name) and p.place in places]) for name in names
        ]
        papers: Mapping[PartName | str, Figures] = (
            part_figures(machine_type, domain) if compared and block.has_papers(machine_type) else {}
        )
        own: list[PartName | str] = [*((kind, name) for name in names), ENSEMBLE]
        cells = [
            f"{cell} [{_printed(papers[name])}]" if name in papers else cell
            for cell, name in zip(mean_cells([*means, _mean(rows)], _groups(rows)), own, strict=True)
        ]
        lines.append((machine_type, domain, *cells))
    return [
        f"{block.title}, {system.label} by {kind}: AUC, pAUC" + (" [the paper's]" if compared else ""),
        *columns(("machine type", "domain", *names, ENSEMBLE), lines),
    ]


def _part_names(system: System, kind: PartKind) -> list[str]:
    """Terms alone before sums of them."""
    names = dict.fromkeys(part.name for part in system.parts if part.kind is kind)
    return sorted(names, key=lambda name: name.count(" + "))


def _difference(difference: Difference) -> list[str]:
    """The first system minus another."""
    lines: list[tuple[str, ...]] = [
        (*group.place, change(group.auc.value, group.auc.interval), change(group.pauc.value, group.pauc.interval))
        for group in difference.groups
    ]
    for field in fields(Totals):
        total = getattr(difference.totals, field.name)
        lines.append((_TOTALS[field.name], "", "", change(total.value, total.interval), ""))
    return [
        f"{difference.minuend} minus {difference.subtrahend}, over {len(difference.groups)} shared groups; "
        "95 % intervals of paired draws",
        *columns((*_PLACE, "AUC", "pAUC"), lines),
    ]


def _spread(spread: Spread) -> list[str]:
    """Mean (least-greatest) over seeds."""
    lines = [
        (
            *group.place,
            *map(_range, (group.auc, group.pauc, group.false_alarm_rate, group.hit_rate)),
            str(max((one.seeds for one in (group.auc, group.false_alarm_rate) if one), default=0)),
        )
        for group in spread.groups
    ]
    for name, words in _TOTALS.items():
        total: Range | None = getattr(spread, name)
        lines.append((words, "", "", _range(total), "", "", "", str(total.seeds if total else 0)))
    recipe = f" {spread.recipe}" if spread.recipe else ""
    return [
        f"{spread.system}{recipe} over seeds {', '.join(map(str, spread.seeds))}: mean (least-greatest)",
        *columns((*_PLACE, "AUC", "pAUC", "false alarms", "hits", "seeds"), lines),
    ]


def in_words(evaluation: Evaluation) -> Iterator[str]:
    """Where a baseline or the floor wins against the system in question: a sentence a baseline."""
    first = evaluation.first
    if first.name is not SystemName.EARWITNESS:
        return
    for system, difference in zip(evaluation.systems[1:], evaluation.differences, strict=True):
        if system.name is SystemName.EARWITNESS or not difference.groups:
            continue
        won = [group for group in difference.groups if group.auc.value is not None and group.auc.value < 0.0]
        places = [f"{' '.join(group.place)} by {_lead(group.auc)}" for group in won]
        total = difference.totals.official_score
        lead = total.value is not None and total.value < 0.0
        where = f"in {len(won)} of {len(difference.groups)} groups: {', '.join(places)}" if won else "in no group"
        score = f"a higher official score, by {_lead(total)}" if lead else "no higher official score"
        yield f"{system.label} has a higher AUC than {first.label} {where}; and {score}."


def _lead(difference: Estimate) -> str:
    """How far the other system is ahead, and whether that may be chance."""
    assert difference.value is not None
    sure = difference.interval is not None and difference.interval[1] < 0.0
    return f"{-100 * difference.value:.1f}{'' if sure else ' (may be chance)'}"


def _mean(rows: Sequence[Row] | Sequence[Part]) -> Mean:
    """Harmonic means of rows or parts."""
    return Mean(harmonic_mean(row.auc for row in rows), harmonic_mean(row.pauc for row in rows), _groups(rows))


def _groups(rows: Iterable[Row | Part]) -> int:
    """How many have an AUC."""
    return sum(row.auc is not None for row in rows)


def _all_groups(systems: Iterable[Iterable[Row]]) -> int:
    """How many groups have an AUC of any system."""
    return len({row.place for rows in systems for row in rows if row.auc is not None})


def _range(found: Range | None) -> str:
    if found is None:
        return DASH
    return f"{100 * found.mean:.1f} ({100 * found.min:.1f}-{100 * found.max:.1f})"


def _printed(figures: Figures | None) -> str:
    """The paper's figures as it prints them."""
    if figures is None:
        return DASH
    return ", ".join(DASH if value is None else f"{value:.2f}" for value in figures)
