"""The smaller ensemble: what leaving members out costs and gains, from the clips that calibrate to the test clips.

The curve is the bundle's own, chosen and measured on training clips. What test clips say, and what a clip takes on this
machine, is told of those bundles that are evaluated together: the whole one and others pruned of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from models.bundle import Bundle
from models.detector import Detector
from models.manifest import Manifest
from models.vocabulary import Domain
from training.bundling import made_clip
from training.layout import Table
from training.pruning import Curve, Pruned, Step
from training.pruning_printed import curve_table
from training.report.contents import ReportData, Sibling
from training.report.panels import DASHES
from training.report.theme import LIGHT, Key, Panel, Plate
from training.report.words import count
from training.timing import interleaved_ms


def siblings(bundles: Sequence[Bundle]) -> tuple[Sibling, ...]:
    """The whole bundle and those pruned of it among a report's bundles, measured in turns; none of a bundle as trained.

    ``bundles``: the one that the report is about first.
    """
    pruned = Pruned.of(bundles[0].manifest.training_data)
    if pruned is None:
        return ()
    family = [bundle for bundle in bundles if _whole(bundle) == pruned.bundle]
    found = []
    with ExitStack() as stack:
        detectors = [stack.enter_context(closing(Detector(bundle))) for bundle in family]
        for curve in pruned.curves:
            took_ms = interleaved_ms([_way(detector, curve) for detector in detectors])
            found += [
                Sibling(bundle.id, curve.machine_types, _members(bundle.manifest, curve), own_ms)
                for bundle, own_ms in zip(family, took_ms, strict=True)
            ]
    return tuple(found)


def _whole(bundle: Bundle) -> str:
    pruned = Pruned.of(bundle.manifest.training_data)
    return bundle.id if pruned is None else pruned.bundle


def _way(detector: Detector, curve: Curve) -> Callable[[], object]:
    """A clip of the first section that the curve is of, from its waveform to its assessment."""
    key, clip = min(key for key in detector.sections if key.machine_type in curve.machine_types), made_clip(detector)
    return lambda: detector.score(clip, key.machine_type, key.section, Domain.SOURCE)


def curve_plates(data: ReportData) -> Iterator[Plate]:
    """Agreement, and decisions changed, by members; a plate of machine types that share members."""
    pruned = Pruned.of(data.manifest.training_data)
    for place, curve in enumerate(() if pruned is None else pruned.curves):
        names = ", ".join(curve.machine_types)
        yield Plate(
            f"smaller-{place}",
            f"A smaller ensemble: {names}",
            [
                _panel(data, curve, f"{names}: agreement", "agreement", lambda step: step.agreement),
                _panel(
                    data, curve, f"{names}: decisions changed", "share of clips", lambda step: step.decisions_changed
                ),
            ],
            [Key("members left", "hue-0", "line"), Key("this bundle", "muted", "dashes")],
        )


def _panel(data: ReportData, curve: Curve, title: str, unit: str, value: Callable[[Step], float]) -> Panel:
    own, values = _members(data.manifest, curve), [value(step) for step in curve.steps]

    def draw(ax: Axes) -> None:
        ax.axvline(own, color=LIGHT["muted"], ls=DASHES, lw=0.8)
        ax.plot([step.members for step in curve.steps], values, color=LIGHT["hue-0"], marker=".")
        ax.set(xlabel="members", ylabel=unit)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    at_own = next(found for step, found in zip(curve.steps, values, strict=True) if step.members == own)
    words = f"{values[0]:.3f} with {count(curve.steps[0].members, 'member')}, {at_own:.3f} with {own} as in this bundle"
    return Panel(title, f"{title} by how many members are left: {words}, {values[-1]:.3f} with the last.", draw)


def _members(manifest: Manifest, curve: Curve) -> int:
    """How many members of the curve's a bundle has."""
    return len({member for name in curve.machine_types for member in manifest.members_of(name)})


def curve_tables(data: ReportData) -> Iterator[Table]:
    """Each step, and beside it what the bundles at that step take and find."""
    pruned = Pruned.of(data.manifest.training_data)
    for curve in () if pruned is None else pruned.curves:
        own = [one for one in data.siblings if one.machine_types == curve.machine_types]
        yield curve_table(
            curve,
            _members(data.manifest, curve),
            {one.members: one.clip_ms for one in own},
            {one.members: _mean_auc(data, one) for one in own},
        )


def _mean_auc(data: ReportData, sibling: Sibling) -> float | None:
    """Of a bundle, over the curve's own machine types."""
    rows = [row for own in data.rows.values() for row in own if row.bundle == sibling.bundle]
    areas = [row.auc for row in rows if row.auc is not None and row.machine_type in sibling.machine_types]
    return sum(areas) / len(areas) if areas else None
