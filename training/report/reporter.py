"""A report from beginning to end: made before an evaluation, shown each clip, written after it."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.bundle import read_bundle
from training.report.embeddings import EmbeddingRows
from training.report.gather import gather
from training.report.page import PAGE, write_report
from training.report.smaller import ensembles
from training.tables import Evaluation


class Reporter:
    """Writes a report of one bundle into a folder, which is made at once.

    Parameters
    ----------
    bundle : the bundle's folder.
    folder : for the page and its pictures.
    command : the words that the report is asked for with.
    beside : the folders of the bundles that are evaluated beside it.
    made : when, in words; None leaves it out, and equal evaluations give equal reports.

    Raises
    ------
    OSError : where the folder cannot be made.
    """

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        command: Sequence[str],
        *,
        beside: Sequence[Path] = (),
        made: str | None = None,
    ) -> None:
        self._beside = tuple(beside)
        self._bundle, self._folder, self._command, self._made = bundle, folder, shlex.join(command), made
        self.embeddings = EmbeddingRows()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, evaluation: Evaluation) -> Path:
        """Write the page and its pictures, and return the page's path."""
        data = gather(
            evaluation,
            read_bundle(self._bundle),
            self.embeddings,
            command=self._command,
            made=self._made,
        )
        write_report(replace(data, ensembles=ensembles(self._bundle, self._beside)), self._folder)
        return self._folder / PAGE
