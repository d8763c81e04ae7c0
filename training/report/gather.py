"""From an evaluation and its bundle to what a report shows: the one place that knows both."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from models.bundle import Bundle
from models.vocabulary import Domain
from training.layout import change
from training.report.contents import ReportData, Table
from training.report.embeddings import EmbeddingRows
from training.report.words import per_cent
from training.tables import Difference, Estimate, Evaluation, Part, Range, Spread, System, means_of

_LIBRARIES = ("earwitness", "onnxruntime", "numpy", "scikit-learn", "matplotlib")


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
    bundle : the one that was evaluated.
    embeddings : has watched the evaluation.
    command : what the evaluation was asked for with.
    made : when, in words; None leaves it out, and equal evaluations give equal reports.
    """
    first = evaluation.first
    return ReportData(
        bundle=bundle.id,
        manifest=bundle.manifest,
        calibrations=bundle.calibrations,
        rows={system.label: system.rows for system in evaluation.systems},
        scored={system.label: system.scored for system in evaluation.systems},
        embeddings=embeddings.of(first.scored),
        official_score=first.totals.official_score.value,
        mean_auc=first.totals.mean_auc.value,
        means=tuple(_means(first)),
        comparisons=(*map(_difference, evaluation.differences), *map(_spread, evaluation.spread)),
        notes=evaluation.notes,
        provenance={
            **({"Made": made} if made is not None else {}),
            "Command": command,
            "Evaluated with": ", ".join(f"{library} {version(library)}" for library in _LIBRARIES),
        },
    )


def _difference(found: Difference) -> Table:
    """Every figure of the first system minus the other's, with the interval of paired draws."""

    def cell(of: Estimate) -> str:
        return change(of.value, of.interval)

    totals = found.totals
    return Table(
        f"{found.minuend} minus {found.subtrahend}, percentage points, 95 % intervals of paired draws",
        ("machine type", "section", "domain", "AUC", "pAUC"),
        (
            *((*group.place, cell(group.auc), cell(group.pauc)) for group in found.groups),
            ("all", "", "official score", cell(totals.official_score), ""),
            ("all", "", "mean AUC", cell(totals.mean_auc), ""),
        ),
        words=3,
    )


def _spread(found: Spread) -> Table:
    """Mean, least and greatest over the seeds."""

    def cell(of: Range | None) -> str:
        return "–" if of is None else f"{per_cent(of.mean)} ({per_cent(of.min)} to {per_cent(of.max)})"

    seeds = ", ".join(map(str, found.seeds))
    return Table(
        f"{found.system} {found.recipe or ''} over seeds {seeds}: mean (least to greatest), per cent",
        ("machine type", "section", "domain", "AUC", "pAUC", "false alarms", "hits"),
        (
            *(
                (*one.place, cell(one.auc), cell(one.pauc), cell(one.false_alarm_rate), cell(one.hit_rate))
                for one in found.groups
            ),
            ("all", "", "official score", cell(found.official_score), "", "", ""),
            ("all", "", "mean AUC", cell(found.mean_auc), "", "", ""),
        ),
        words=3,
    )


def _means(system: System) -> Iterable[Table]:
    """Harmonic means by machine type and domain, and AUC and pAUC of each term and loss; none without an AUC."""
    if not any(row.auc is not None for row in system.rows):
        return
    means = means_of(system.rows)
    every = {**means["domains"], "auc": means["auc"], "pauc": means["pauc"]}
    entries = [*means["machine_types"].items(), ("all machine types", every)]
    yield Table(
        "Harmonic means, per cent",
        ("machine type", "domain", "AUC", "pAUC"),
        tuple(line for name, entry in entries for line in _mean_lines(name, entry)),
        words=2,
    )
    if system.parts:
        yield _parts(system.parts)


def _mean_lines(name: str, entry: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    """A line a domain, and where there are several one of all."""
    domains = [domain.value for domain in Domain if domain.value in entry]
    for domain in domains:
        yield name, domain, per_cent(entry[domain]["auc"]), per_cent(entry[domain]["pauc"])
    if len(domains) > 1:
        yield name, "both", per_cent(entry["auc"]), per_cent(entry["pauc"])


def _parts(parts: Sequence[Part]) -> Table:
    names = sorted(dict.fromkeys((part.kind, part.name) for part in parts), key=lambda each: each[0], reverse=True)
    places = list(dict.fromkeys((part.machine_type, part.section, part.domain) for part in parts))
    found = {(part.machine_type, part.section, part.domain, part.kind, part.name): part for part in parts}

    def cell(part: Part | None) -> str:
        return "–" if part is None else f"{per_cent(part.auc)}, {per_cent(part.pauc)}"

    return Table(
        "AUC, pAUC of each term and of each loss's members alone, per cent",
        ("machine type", "section", "domain", *(f"{name.replace('_', ' ')} {kind}" for kind, name in names)),
        tuple((*place, *(cell(found.get((*place, *name))) for name in names)) for place in places),
        words=3,
    )
