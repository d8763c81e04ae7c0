"""An evaluation as tables, for a terminal and for a report's page; `training.layout` says what their marks mean.

No other module makes tables of an evaluation, and none makes two of one thing: what is read here and there is the same
table. A table has one line a group or machine type, however wide that becomes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from training.layout import DASH, Table, change, figure, marks
from training.mean_tables import TOTALS, mean_tables
from training.promises import RATES, Promise
from training.recordings import Place
from training.scored import SystemName
from training.tables import Difference, Estimate, Evaluation, Range, Row, Spread, Totals

_PLACE = ("machine type", "section", "domain")


def as_text(evaluation: Evaluation) -> str:
    """All tables of an evaluation, what they say in words, and its notes."""
    tables = [
        row_table({system.label: system.rows for system in evaluation.systems}),
        *_promises(evaluation),
        *mean_tables(evaluation),
        *comparison_tables(evaluation),
    ]
    words = "\n".join([*in_words(evaluation), *(f"note: {note}" for note in evaluation.notes)])
    return "\n\n".join([*(table.as_text() for table in tables), *([words] if words else [])])


def row_table(systems: Mapping[str, Sequence[Row]]) -> Table:
    """Every figure with its interval: a line a group and system; ``systems``: rows by label, of the same groups."""
    several = len(systems) > 1
    lines = []
    for rows in zip(*systems.values(), strict=True):
        areas, partials = marks([row.auc for row in rows]), marks([row.pauc for row in rows])
        for label, row, area, partial in zip(systems, rows, areas, partials, strict=True):
            cells = (
                str(row.normal),
                str(row.anomalous),
                figure(row.auc, row.auc_interval, area),
                figure(row.pauc, row.pauc_interval, partial),
                figure(row.false_alarm_rate, row.false_alarm_interval),
                figure(row.hit_rate, row.hit_interval),
            )
            lines.append((*row.place, *([label] if several else []), *cells))
    return Table(
        "per cent, with 95 % intervals" + ("; * best of its group" if several else ""),
        (*_PLACE, *(["system"] if several else []), "normal", "anom.", "AUC", "pAUC", "false alarms", "hits"),
        tuple(lines),
        words=len(_PLACE) + several,
    )


def comparison_tables(evaluation: Evaluation) -> list[Table]:
    """Differences between the first system and each other, and the spread over seeds."""
    return [*map(_difference, evaluation.differences), *map(_spread, evaluation.spread)]


def _promises(evaluation: Evaluation) -> Iterator[Table]:
    """What thresholds promise and keep: a line a group and system, columns for each rate; none without a promise."""
    several = len(evaluation.systems) > 1
    found: dict[tuple[Place, str], list[Promise]] = {}
    for place in (row.place for row in evaluation.first.rows):
        for system in evaluation.systems:
            if own := [promise for promise in system.promises if promise.place == place]:
                found[place, system.label] = own
    if not found:
        return
    lines = []
    for (place, label), own in found.items():
        cells = [str(own[0].rule), str(own[0].clips)]
        for one in own:
            cells.append(figure(one.cross_validated))
            cells.append(figure(one.false_alarms, one.false_alarm_interval))
            cells.append(figure(one.hits, one.hit_interval))
        lines.append((*place, *([label] if several else []), *cells))
    rates = [name for rate in RATES for name in (f"{100 * rate:g} asked: by folds", "test clips", "hits")]
    yield Table(
        "false alarms on normal clips, per cent: by folds, training clips against the threshold of the other folds' "
        "scores; test clips against the threshold in force",
        (*_PLACE, *(["system"] if several else []), "rule", "clips", *rates),
        tuple(lines),
        words=len(_PLACE) + several + 1,
    )


def _difference(difference: Difference) -> Table:
    """The first system minus another."""
    lines: list[tuple[str, ...]] = [
        (*group.place, change(group.auc.value, group.auc.interval), change(group.pauc.value, group.pauc.interval))
        for group in difference.groups
    ]
    for field in fields(Totals):
        total = getattr(difference.totals, field.name)
        lines.append((TOTALS[field.name], "", "", change(total.value, total.interval), ""))
    return Table(
        f"{difference.minuend} minus {difference.subtrahend}, over {len(difference.groups)} shared groups: points, "
        "with 95 % intervals",
        (*_PLACE, "AUC", "pAUC"),
        tuple(lines),
        words=len(_PLACE),
    )


def _spread(spread: Spread) -> Table:
    """Mean (least-greatest) over seeds."""
    lines = [
        (
            *group.place,
            *map(_range, (group.auc, group.pauc, group.false_alarm_rate, group.hit_rate)),
            str(max((one.seeds for one in (group.auc, group.false_alarm_rate) if one), default=0)),
        )
        for group in spread.groups
    ]
    for name, words in TOTALS.items():
        total: Range | None = getattr(spread, name)
        lines.append((words, "", "", _range(total), "", "", "", str(total.seeds if total else 0)))
    recipe = f" {spread.recipe}" if spread.recipe else ""
    return Table(
        f"{spread.system}{recipe} over seeds {', '.join(map(str, spread.seeds))}: mean (least-greatest), per cent",
        (*_PLACE, "AUC", "pAUC", "false alarms", "hits", "seeds"),
        tuple(lines),
        words=len(_PLACE),
    )


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


def _range(found: Range | None) -> str:
    if found is None:
        return DASH
    return f"{100 * found.mean:.1f} ({100 * found.min:.1f}-{100 * found.max:.1f})"
