"""From an evaluation and its bundle to what a report shows: the one place that knows both."""

from importlib.metadata import version

from models.bundle import Bundle
from training.mean_tables import mean_tables
from training.printed import comparison_tables, in_words
from training.report.contents import ReportData
from training.report.embeddings import EmbeddingRows
from training.tables import Evaluation

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
        means=tuple(mean_tables(evaluation)),
        comparisons=tuple(comparison_tables(evaluation)),
        notes=(*in_words(evaluation), *evaluation.notes),
        provenance={
            **({"Made": made} if made is not None else {}),
            "Command": command,
            "Evaluated with": ", ".join(f"{library} {version(library)}" for library in _LIBRARIES),
        },
    )
