"""The paper's Tables 2 to 5 of an evaluation: totals, harmonic means, and what parts of a score would be alone.

The paper's own figures stand beside, with its two decimals, where the recordings are DCASE 2021's own
(`training.dcase2021`). A table has one line a machine type and domain, however wide that becomes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from models.vocabulary import Domain
from training.dcase2021 import MACHINE_TYPES, SECTIONS, DataSet
from training.layout import DASH, Mean, Table, figure, marks, mean_cells
from training.metrics import harmonic_mean
from training.paper_tables import ALL, ENSEMBLE, Figures, official_scores, part_figures, system_figures
from training.recordings import Place
from training.scored import PartKind, PartName, SystemName
from training.tables import Evaluation, Part, Row, System, Totals

TOTALS = {
    "official_score": "official score",
    "harmonic_mean_auc": "harmonic mean AUC",
    "mean_auc": "arithmetic mean AUC",
}
"""The fields of `Totals` in words."""

_PAPERS_SYSTEMS = {
    SystemName.AUTOENCODER: "paper: autoencoder",
    SystemName.MOBILENETV2: "paper: MobileNetV2",
    SystemName.EARWITNESS: "paper: proposed",
}
_BOTH = "both"


def mean_tables(evaluation: Evaluation) -> list[Table]:
    """What the rows come to; none without an AUC."""
    if not any(row.auc is not None for row in evaluation.rows):
        return []
    blocks = _blocks(evaluation)
    tables = [_totals(evaluation), *(_means(evaluation, block) for block in blocks)]
    parts = [_parts(evaluation, block, kind) for kind in PartKind for block in blocks]
    return [*tables, *(table for table in parts if table is not None)]


def _totals(evaluation: Evaluation) -> Table:
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
        lines.append((TOTALS[field.name], *cells, *printed))
    lines.append(("groups", *map(str, groups), *(DASH for _ in papers)))
    labels = [system.label for system in evaluation.systems]
    header = ("figure", *labels, *(_PAPERS_SYSTEMS[name] for name in papers))
    return Table("over all groups, per cent with 95 % intervals", header, tuple(lines), words=1)


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


def _means(evaluation: Evaluation, block: _Block) -> Table:
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
    caption = f"{block.title}: AUC, pAUC, per cent"
    return Table(caption, ("machine type", "domain", *header), tuple(lines), words=2)


def _parts(evaluation: Evaluation, block: _Block, kind: PartKind) -> Table | None:
    """Tables 3 and 4: what each term, or each loss, of the first system would be alone; the paper's in brackets.

    None where a score has no parts.
    """
    system = evaluation.first
    names = _part_names(system, kind)
    if len(names) < 2:
        return None
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
    brackets = " [the paper's]" if compared else ""
    caption = f"{block.title}, {system.label} by {kind}: AUC, pAUC{brackets}, per cent"
    return Table(caption, ("machine type", "domain", *names, ENSEMBLE), tuple(lines), words=2)


def _part_names(system: System, kind: PartKind) -> list[str]:
    """Terms alone before sums of them."""
    names = dict.fromkeys(part.name for part in system.parts if part.kind is kind)
    return sorted(names, key=lambda name: name.count(" + "))


def _mean(rows: Sequence[Row] | Sequence[Part]) -> Mean:
    """Harmonic means of rows or parts."""
    return Mean(harmonic_mean(row.auc for row in rows), harmonic_mean(row.pauc for row in rows), _groups(rows))


def _groups(rows: Iterable[Row | Part]) -> int:
    """How many have an AUC."""
    return sum(row.auc is not None for row in rows)


def _all_groups(systems: Iterable[Iterable[Row]]) -> int:
    """How many groups have an AUC of any system."""
    return len({row.place for rows in systems for row in rows if row.auc is not None})


def _printed(figures: Figures | None) -> str:
    """The paper's figures as it prints them."""
    if figures is None:
        return DASH
    return ", ".join(DASH if value is None else f"{value:.2f}" for value in figures)
