"""The figures in full, and where they come from: rows, counts of clips, and the facts of the bundle."""

from collections import Counter
from collections.abc import Iterator, Mapping

from models.bundle import CalibrationKey
from models.vocabulary import Condition, Domain
from training.layout import Table
from training.report.contents import ReportData, of_condition
from training.report.panels import row_place
from training.report.words import count

_SHOWN = {"curves", "pruned"}
"""What the manifest says of the training and a section of its own shows."""


def counts(data: ReportData) -> Table:
    """Clips that the bundle was trained and tested with, by section and domain."""
    trained = {
        (key, domain): getattr(data.manifest.machine_types[key.machine_type].sections[key.section].clips, domain.value)
        for key in data.manifest.sections
        for domain in Domain
    }
    tested: dict[CalibrationKey, Counter[Condition | None]] = {
        place: Counter(clip.recording.condition for clip in clips) for place, clips in data.places.items()
    }
    known = {*tested, *(place for place, number in trained.items() if number), *map(row_place, data.own_rows)}
    unknown = bool(of_condition(data.clips, None))
    lines = [
        (
            place[0].machine_type,
            place[0].section,
            place[1].value,
            *(f"{number:,}" for number in _counts_of(place, trained.get(place, 0), tested, unknown=unknown)),
        )
        for place in sorted(known)
    ]
    columns = ["trained on", "tested: normal", "tested: faulty", *(["tested: unknown"] if unknown else [])]
    return Table("Clips of ten seconds", ("machine type", "section", "domain", *columns), tuple(lines), words=3)


def _counts_of(
    place: CalibrationKey, trained: int, tested: Mapping[CalibrationKey, Counter[Condition | None]], *, unknown: bool
) -> Iterator[int]:
    found = tested.get(place, Counter())
    yield trained
    yield from (found[Condition.NORMAL], found[Condition.ANOMALY])
    if unknown:
        yield found[None]


def facts(data: ReportData) -> Iterator[tuple[str, str]]:
    """Where the figures come from, by name."""
    manifest = data.manifest
    yield "Bundle", data.bundle
    if manifest.name is not None:
        yield "Name", manifest.name
    yield "Recipe", _listed(manifest.recipe)
    networks = {member.network for member in manifest.members}
    members = f"{count(len(manifest.members), 'member')} of {count(len(networks), 'network')}"
    yield "Networks", f"{members}: {', '.join(member.id for member in manifest.members)}"
    yield (
        "Training data",
        _listed({name: value for name, value in manifest.training_data.items() if name not in _SHOWN}),
    )
    yield "Made with", ", ".join(f"{library} {number}" for library, number in sorted(manifest.versions.items()))
    yield from data.provenance.items()


def _listed(values: Mapping[str, object]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in values.items())


def _plain(value: object) -> str:
    """A JSON value as a person would write it."""
    match value:
        case None:
            return "none"
        case dict() | list() if not value:
            return "none"
        case dict():
            return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
        case list():
            return ", ".join(map(_plain, value))
        case _:
            return str(value)
