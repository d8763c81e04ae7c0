"""Where ``score`` puts its rows: a CSV file, JSON lines or the screen. A file is continued after any interruption."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from models.errors import DataError

Row = Mapping[str, Any]
RowKey = tuple[str, str, str, str]
_KEY = ("path", "machine_type", "section", "domain")
COLUMNS = (
    *_KEY,
    *("decision", "anomaly_score", "decision_score", "threshold", "threshold_rule", "p_value", "calibration_clips"),
    *("deviation", "warnings", "bundle", "target_version", "error"),
)


def key_of(row: Row) -> RowKey:
    """What makes a row the same clip asked the same question."""
    path, machine_type, section, domain = (str(row[name]) for name in _KEY)
    return path, machine_type, section, domain


class Sheet(ABC):
    """Rows already there, by their key, and where the next one goes."""

    def __init__(self, rows: Mapping[RowKey, Row]) -> None:
        self.rows = rows

    @abstractmethod
    def write(self, row: Row) -> None:
        """Add one row; it is in the file when this returns."""


class Screen(Sheet):
    """A line a clip, for reading."""

    def write(self, row: Row) -> None:
        """Print one line above the progress bar."""
        if row.get("error"):
            tqdm.write(f"{row['path']}: not scored: {row['error']['detail']}")
            return
        decision = row["decision"] or "no decision"
        p_value = "" if row["p_value"] is None else f", p {row['p_value']:.3g}"
        threshold = "" if row["threshold"] is None else f" (threshold {row['threshold']:.1f})"
        codes = "".join(f" [{warning['code']}]" for warning in row["warnings"])
        tqdm.write(f"{row['path']}: {decision}{p_value}, score {row['decision_score']:.1f}{threshold}{codes}")


class JsonLines(Sheet):
    """The whole answers, one a line."""

    def __init__(self, file: TextIO, rows: Mapping[RowKey, Row]) -> None:
        super().__init__(rows)
        self._file = file

    @staticmethod
    def read(content: str) -> list[Row]:
        """The rows in a file's content."""
        return [json.loads(line) for line in content.split("\n") if line]  # other line ends are text in a path

    def write(self, row: Row) -> None:
        """Append one line."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()


class Csv(Sheet):
    """The figures of the answers, one row a clip."""

    def __init__(self, file: TextIO, rows: Mapping[RowKey, Row]) -> None:
        super().__init__(rows)
        self._file = file
        self._writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if file.tell() == 0:
            self._writer.writeheader()

    @staticmethod
    def read(content: str) -> list[Row]:
        """The rows in a file's content; raises ValueError for other columns."""
        reader = csv.DictReader(io.StringIO(content))
        if content and tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError("its columns are others")
        return [{**row, "error": row["error"] or None} for row in reader]

    def write(self, row: Row) -> None:
        """Append one row."""
        flat = dict(row)
        flat["warnings"] = " ".join(warning["code"] for warning in row.get("warnings", ()))
        flat["error"] = row["error"]["detail"].replace("\n", " ") if row.get("error") else ""
        self._writer.writerow(flat)
        self._file.flush()


@contextmanager
def open_sheet(csv_file: Path | None, jsonl_file: Path | None, bundle: str) -> Iterator[Sheet]:
    """The sheet that was asked for, with the rows it already has; what an interrupted write left at its end is cut off.

    Raises
    ------
    DataError : for a file that is none of ours, or holds scores of another bundle; it is left as it is.
    """
    path = csv_file or jsonl_file
    if path is None:
        yield Screen({})
        return
    kind: type[Csv] | type[JsonLines] = Csv if csv_file else JsonLines
    try:
        file = path.open("a+", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}). Choose another file.") from error
    with file:
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind("\n") + 1]
        try:
            if content and not whole:
                raise ValueError("it has no whole line")  # noqa: TRY301
            rows = {key_of(row): row for row in kind.read(whole)}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no result of this command ({error}). Choose a new file.") from error
        _refuse_other_bundles(path, rows.values(), bundle)
        file.seek(file.truncate(len(whole.encode(errors="surrogateescape"))))
        yield kind(file, rows)


def _refuse_other_bundles(path: Path, rows: Iterable[Row], bundle: str) -> None:
    others = {row["bundle"] for row in rows if row.get("bundle")} - {bundle}
    if others:
        raise DataError(
            f"{path} holds scores of bundle {min(others)}, those of {bundle} cannot be compared with them. "
            "Choose a new file."
        )
