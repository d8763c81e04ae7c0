"""Where ``score`` puts its rows: a CSV file, JSON lines or the screen.

A file is continued after any interruption. A row that says why a clip could not be scored is kept where the clip itself
is the reason; any other reason (a busy service, a locked file) may be gone, and the clip is asked again.
"""

import csv
import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from models.errors import AudioError, DataError
from service.problems import KINDS, TYPE_PREFIX

Row = Mapping[str, Any]
RowKey = tuple[str, str, str, str]
_KEY = ("path", "machine_type", "section", "domain")
COLUMNS = (
    *_KEY,
    *("decision", "anomaly_score", "decision_score", "threshold", "threshold_rule", "p_value", "calibration_clips"),
    *("deviation", "warnings", "bundle", "target_version", "error_type", "error"),
)
_LASTING = {TYPE_PREFIX + kind.slug for error, kind in KINDS.items() if issubclass(error, AudioError)}


def key_of(row: Row) -> RowKey:
    """What makes a row the same clip asked the same question."""
    path, machine_type, section, domain = (str(row[name]) for name in _KEY)
    return path, machine_type, section, domain


def is_settled(row: Row) -> bool:
    """Whether asking again cannot give another row: the clip was scored, or cannot be because of what it is."""
    return not row.get("error") or row["error"]["type"] in _LASTING


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
        return [
            {
                **row,
                "warnings": [{"code": code} for code in row["warnings"].split()],
                "error": {"type": row["error_type"], "detail": row["error"]} if row["error"] else None,
            }
            for row in reader
        ]

    def write(self, row: Row) -> None:
        """Append one row."""
        flat = dict(row)
        flat["warnings"] = " ".join(warning["code"] for warning in row.get("warnings", ()))
        error = row.get("error") or {"type": "", "detail": ""}
        flat["error_type"], flat["error"] = error["type"], error["detail"].replace("\n", " ")
        self._writer.writerow(flat)
        self._file.flush()


@contextmanager
def open_sheet(
    csv_file: Path | None, jsonl_file: Path | None, bundle: str, asked: Collection[RowKey] = ()
) -> Iterator[Sheet]:
    """The sheet that was asked for, with the rows it already has.

    What an interrupted write left at its end is cut off, and rows of ``asked`` that are not settled are taken out.

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
        with _open(path, "a+") as file:
            file.seek(0)
            content = file.read()
            whole = content[: content.rfind("\n") + 1]
            try:
                if content and not whole:
                    raise ValueError("it has no whole line")  # noqa: TRY301
                rows = {key_of(row): row for row in kind.read(whole)}
                kept = {key: row for key, row in rows.items() if is_settled(row) or key not in asked}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path} is no result of this command ({error}). Choose a new file.") from error
            _refuse_other_bundles(path, rows.values(), bundle)
            file.truncate(len(whole.encode(errors="surrogateescape")))
        if len(kept) < len(rows):
            _rewrite(path.resolve(), kind, kept.values())
        file = _open(path, "a")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}). Choose another file.") from error
    with file:
        yield kind(file, kept)


def _open(path: Path, mode: str) -> TextIO:
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[return-value]


def _rewrite(path: Path, kind: type[Csv] | type[JsonLines], rows: Iterable[Row]) -> None:
    """Put a file of ``rows`` in the place of ``path``; a kill leaves the one or the other."""
    partial = path.with_name(f".{path.name}.partial")
    with _open(partial, "w") as file:
        sheet = kind(file, {})
        for row in rows:
            sheet.write(row)
        os.fsync(file.fileno())
    shutil.copymode(path, partial)
    partial.replace(path)


def _refuse_other_bundles(path: Path, rows: Iterable[Row], bundle: str) -> None:
    others = {row["bundle"] for row in rows if row.get("bundle")} - {bundle}
    if others:
        raise DataError(
            f"{path} holds scores of bundle {min(others)}, those of {bundle} cannot be compared with them. "
            "Choose a new file."
        )
