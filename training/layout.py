"""Tables as they are read, in a terminal and on a report's page: per cent, a dash for what is not defined.

``*`` marks the best of a row; ``~`` a mean over fewer groups than the row has, which competes for no mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.metrics import Interval

BEST, FEWER = "*", "~"
DASH = "-"


@dataclass(frozen=True, slots=True)
class Mean:
    """AUC and pAUC over ``groups`` groups."""

    auc: float | None
    pauc: float | None
    groups: int


@dataclass(frozen=True, slots=True)
class Table:
    """The first ``words`` columns of each line say what it is of, the others are figures."""

    caption: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    words: int

    def as_text(self) -> str:
        """The caption, and the table with its columns aligned."""
        return "\n".join([self.caption, *columns(self.header, self.lines)])


def figure(value: float | None, interval: Interval | None = None, mark: str = "") -> str:
    """A fraction as per cent, its mark, and its interval."""
    if value is None:
        return DASH
    return f"{100 * value:.1f}{mark}" + (f" ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})" if interval else "")


def change(value: float | None, interval: Interval | None) -> str:
    """A difference with its sign."""
    if value is None:
        return DASH
    words = f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else ""
    return f"{100 * value:+.1f}{words}"


def marks(values: Sequence[float | None]) -> list[str]:
    """`BEST` for each that no other of at least two surpasses."""
    defined = [value for value in values if value is not None]
    best = max(defined) if len(defined) > 1 else None
    return [BEST if best is not None and value == best else "" for value in values]


def mean_cells(means: Sequence[Mean], groups: int) -> list[str]:
    """AUC and pAUC of each column of a row, each with its mark; ``groups``: how many the row has."""
    whole = [mean.groups == groups for mean in means]
    best = [
        marks([value if complete else None for value, complete in zip(values, whole, strict=True)])
        for values in ([mean.auc for mean in means], [mean.pauc for mean in means])
    ]
    return [
        DASH
        if mean.auc is None
        else f"{figure(mean.auc, mark=area_mark or fewer)}, {figure(mean.pauc, mark=partial_mark or fewer)}"
        for mean, area_mark, partial_mark, fewer in zip(
            means, *best, ["" if complete else FEWER for complete in whole], strict=True
        )
    ]


def columns(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    table = [header, ["-" * width for width in widths], *lines]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
