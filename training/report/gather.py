"""From an evaluation and its bundle to what a report shows: the one place that knows both."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.metadata import version

from models.bundle import Bundle
from models.vocabulary import Domain
from training.layout import BEST, DASH, FEWER, Mean, mean_cells
from training.metrics import harmonic_mean
from training.printed import in_words
from training.report.contents import ReportData, Table
from training.report.embeddings import EmbeddingRows
from training.report.words import per_cent, signed
from training.tables import Difference, Estimate, Evaluation, Part, Range, Row, Spread, System, Totals

_LIBRARIES = ("earwitness", "onnxruntime", "numpy", "scikit-learn", "matplotlib")
_PLACE = ("machine type", "section", "domain")
_TOTALS = {
    "official_score": "official score",
    "harmonic_mean_auc": "harmonic mean AUC",
    "mean_auc": "mean AUC",
}


def gather(
    evaluation: Evaluation,
    bundle: Bundle,
    embeddings: EmbeddingRows,
    *,
    command: str,
    made: str | None = None,
) -> ReportData:
    """What is shown of an evaluation.

    Parameters
    ----------
    bundle : the first system that was evaluated.
    embeddings : has watched its evaluation.
    command : what the evaluation was asked for with.
    made : when, in words; None leaves it out, and equal evaluations give equal reports.
    """
    totals = evaluation.first.totals
    return ReportData(
        bundle=bundle.id,
        manifest=bundle.manifest,
        calibrations=bundle.calibrations,
        rows={system.label: system.rows for system in evaluation.systems},
        scored={system.label: system.scored for system in evaluation.systems},
        embeddings=embeddings.of(evaluation.first.scored),
        official_score=totals.official_score.value,
        mean_auc=totals.mean_auc.value,
        means=tuple(_means(evaluation)),
        comparisons=(*map(_difference, evaluation.differences), *map(_spread, evaluation.spread)),
        notes=(*in_words(evaluation), *evaluation.notes),
        provenance={
            **({"Made": made} if made is not None else {}),
            "Command": command,
            "Evaluated with": ", ".join(f"{library} {version(library)}" for library in _LIBRARIES),
        },
    )


def _means(evaluation: Evaluation) -> Iterator[Table]:
    """Totals, harmonic means by machine type and domain, and the bundle's parts; none without an AUC."""
    if not any(row.auc is not None for row in evaluation.rows):
        return
    systems = evaluation.systems
    totals = [(words, [getattr(system.totals, field) for system in systems]) for field, words in _TOTALS.items()]
    yield Table(
        "Over all sections and domains, per cent with 95 % intervals",
        ("figure", *(system.label for system in systems)),
        tuple((words, *(per_cent(one.value, one.interval) for one in found)) for words, found in totals),
        words=1,
    )
    yield Table(
        f"Harmonic means, per cent: AUC, pAUC; {BEST} best of its line, {FEWER} over fewer groups than there are",
        ("machine type", "domain", *(system.label for system in systems)),
        tuple(_mean_lines(systems)),
        words=2,
    )
    if evaluation.first.parts:
        yield _parts(evaluation.first.parts)


def _mean_lines(systems: Sequence[System]) -> Iterator[tuple[str, ...]]:
    """A line a machine type and domain, and where there are several domains one of both; then of all machine types."""
    there = systems[0].rows
    names = sorted({row.machine_type for row in there})
    for name in (*names, *([None] if len(names) > 1 else [])):
        domains = [domain for domain in Domain if any(_is_of(row, name, domain) for row in there)]
        for domain in (*domains, *([None] if len(domains) > 1 else [])):
            rows = [[row for row in system.rows if _is_of(row, name, domain)] for system in systems]
            groups = {row.place for own in rows for row in own if row.auc is not None}
            cells = mean_cells([_mean(own) for own in rows], len(groups))
            yield name or "all machine types", domain or "both", *(cell.replace(DASH, "–") for cell in cells)


def _is_of(row: Row, machine_type: str | None, domain: Domain | None) -> bool:
    return machine_type in {None, row.machine_type} and domain in {None, row.domain}


def _mean(rows: Sequence[Row]) -> Mean:
    aucs = [row.auc for row in rows if row.auc is not None]
    return Mean(harmonic_mean(aucs), harmonic_mean(row.pauc for row in rows), len(aucs))


def _parts(parts: Sequence[Part]) -> Table:
    """Terms before losses, alone before sums of them."""
    names = sorted(
        dict.fromkeys((part.kind, part.name) for part in parts),
        key=lambda each: (each[0] != "term", each[1].count(" + ")),
    )
    found = {(*part.place, part.kind, part.name): part for part in parts}

    def cell(part: Part | None) -> str:
        return "–" if part is None else f"{per_cent(part.auc)}, {per_cent(part.pauc)}"

    return Table(
        "AUC, pAUC of each term and of each loss's members alone, per cent",
        (*_PLACE, *(f"{name.replace('_', ' ')} {kind}" for kind, name in names)),
        tuple(
            (*place, *(cell(found.get((*place, *name))) for name in names))
            for place in dict.fromkeys(part.place for part in parts)
        ),
        words=3,
    )


def _difference(difference: Difference) -> Table:
    """The bundle minus another system, group by group and in all."""
    groups = [(*group.place, _change(group.auc), _change(group.pauc)) for group in difference.groups]
    totals = [
        (_TOTALS[field.name], "", "", _change(getattr(difference.totals, field.name)), "") for field in fields(Totals)
    ]
    return Table(
        f"{difference.minuend} minus {difference.subtrahend}, points, with 95 % intervals of paired draws",
        (*_PLACE, "AUC", "pAUC"),
        (*groups, *totals),
        words=3,
    )


def _change(estimate: Estimate) -> str:
    """``+1.2 (−0.3 to +2.7)``."""
    if estimate.value is None:
        return "–"
    low_high = "" if estimate.interval is None else f" ({' to '.join(_points(bound) for bound in estimate.interval)})"
    return _points(estimate.value) + low_high


def _points(fraction: float) -> str:
    return ("+" if round(100 * fraction, 1) > 0 else "") + signed(100 * fraction)


def _spread(spread: Spread) -> Table:
    """Mean, least and greatest over the seeds."""
    groups = [
        (*group.place, *map(_range, (group.auc, group.pauc, group.false_alarm_rate, group.hit_rate)))
        for group in spread.groups
    ]
    totals = [(words, "", "", _range(getattr(spread, name)), "", "", "") for name, words in _TOTALS.items()]
    recipe = f" {spread.recipe}" if spread.recipe else ""
    return Table(
        f"{spread.system}{recipe} over seeds {', '.join(map(str, spread.seeds))}: mean (least to greatest), per cent",
        (*_PLACE, "AUC", "pAUC", "false alarms", "hits"),
        (*groups, *totals),
        words=3,
    )


def _range(found: Range | None) -> str:
    return "–" if found is None else f"{per_cent(found.mean)} ({per_cent(found.min)} to {per_cent(found.max)})"
