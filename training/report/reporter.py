"""A report from beginning to end: made before an evaluation, shown each clip, written after it."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.bundle import Bundle
from training.report.embeddings import EmbeddingRows
from training.report.gather import gather
from training.report.page import PAGE, write_report
from training.report.smaller import siblings
from training.tables import Evaluation


class Reporter:
    """Writes a report into a folder, which is made at once.

    Parameters
    ----------
    folder : for the page and its pictures.
    command : the words that the report is asked for with.
    made : when, in words; None leaves it out, and equal evaluations give equal reports.

    Raises
    ------
    OSError : where the folder cannot be made.
    """

    def __init__(self, folder: Path, command: Sequence[str], *, made: str | None = None) -> None:
        self._folder, self._command, self._made = folder, shlex.join(command), made
        self.embeddings = EmbeddingRows()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, evaluation: Evaluation, bundles: Sequence[Bundle]) -> Path:
        """Write the page and its pictures, and return the page's path.

        ``bundles``: the one that the report is about, and those that were evaluated beside it.
        """
        data = gather(evaluation, bundles[0], self.embeddings, command=self._command, made=self._made)
        write_report(replace(data, siblings=siblings(bundles)), self._folder)
        return self._folder / PAGE
