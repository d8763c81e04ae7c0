"""What the figures share: panels by machine type, a colour a system, axes of shares."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from matplotlib.axes import Axes

from models.bundle import CalibrationKey
from models.vocabulary import SectionKey
from training.report.contents import ReportData
from training.report.theme import Key, Panel, Plate, hue
from training.tables import Row

DASHES = (0, (4, 2))


def plates(name: str, heading: str, panels: Sequence[tuple[str, Panel]], keys: Sequence[Key]) -> Iterator[Plate]:
    """A plate a machine type, from panels in the order of their machine types."""
    for machine_type, own in groupby(panels, key=lambda each: each[0]):
        yield Plate(f"{name}-{machine_type}", f"{heading}: {machine_type}", [panel for _, panel in own], keys)


def row_place(row: Row) -> CalibrationKey:
    """Section and domain of a row."""
    return SectionKey(row.machine_type, row.section), row.domain


def system_hue(data: ReportData, label: str) -> str:
    """The name of a system's colour."""
    return hue(data.labels.index(label))


def quarters(ax: Axes, written: Callable[[float], str]) -> None:
    """Ticks of two shares, the promised tenth among them, as ``written``."""
    for axis, ticks in ((ax.xaxis, (0, 0.1, 0.25, 0.5, 0.75, 1)), (ax.yaxis, (0, 0.25, 0.5, 0.75, 1))):
        axis.set_ticks(ticks, [written(tick) for tick in ticks])
