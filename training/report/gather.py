"""From an evaluation and its bundle to what a report shows: the one place that knows both."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from models.bundle import Bundle
from models.vocabulary import Domain
from training.report.contents import ReportData, Table
from training.report.embeddings import EmbeddingRows
from training.report.words import per_cent
from training.scored import SystemName
from training.tables import Evaluation, Part

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
    label = SystemName.EARWITNESS.value
    return ReportData(
        bundle=bundle.id,
        manifest=bundle.manifest,
        calibrations=bundle.calibrations,
        rows={label: evaluation.rows},
        scored={label: evaluation.scored},
        embeddings=embeddings.of(evaluation.scored),
        official_score=evaluation.official_score(),
        mean_auc=evaluation.mean_auc(),
        means=tuple(_means(evaluation)),
        comparisons=(),
        notes=evaluation.notes,
        provenance={
            **({"Made": made} if made is not None else {}),
            "Command": command,
            "Evaluated with": ", ".join(f"{library} {version(library)}" for library in _LIBRARIES),
        },
    )


def _means(evaluation: Evaluation) -> Iterable[Table]:
    """Harmonic means by machine type and domain, and AUC and pAUC of each term and loss; none without an AUC."""
    if not any(row.auc is not None for row in evaluation.rows):
        return
    means = evaluation.harmonic_means()
    every = {**means["domains"], "auc": means["auc"], "pauc": means["pauc"]}
    entries = [*means["machine_types"].items(), ("all machine types", every)]
    yield Table(
        "Harmonic means, per cent",
        ("machine type", "domain", "AUC", "pAUC"),
        tuple(line for name, entry in entries for line in _mean_lines(name, entry)),
        words=2,
    )
    if evaluation.parts:
        yield _parts(evaluation.parts)


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
