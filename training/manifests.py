"""A plant's own recordings as a CSV manifest: one row a file, read and drafted.

Columns, of which only ``path`` is required: path (relative to the manifest), machine_type, section, domain, split,
condition, attribute, recording (what no fold may split). What is not said is section ``00``, source, train, normal, no
attribute, and the file itself as its own recording.
"""

import csv
import io
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from models.errors import DataError, InvalidName
from models.vocabulary import Condition, Domain, Split, check_name
from training.recordings import Recording, Refusal, Survey, is_clip_name
from training.storage import write_atomically

COLUMNS = ("path", "machine_type", "section", "domain", "split", "condition", "attribute", "recording")
DEFAULT_SECTION = "00"

_Word = TypeVar("_Word", bound=StrEnum)


def read_manifest(path: Path, *, machine_type: str | None = None, section: str | None = None) -> Survey:
    """Read a CSV manifest, sorted by path; rows that cannot be read are refused with their line.

    Parameters
    ----------
    machine_type, section : for rows that do not say it; without them machine_type must be said.

    Raises
    ------
    DataError : for a file that is no manifest, or names nothing.
    """
    base = path.parent.resolve()
    recordings: list[Recording] = []
    lines: dict[Path, int] = {}
    refusals: list[Refusal] = []
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        try:
            recording = _parse(row, base, machine_type, section)
        except (DataError, InvalidName) as error:
            refusals.append(Refusal(where, str(error)))
            continue
        if first := lines.get(recording.path):
            reason = f"{row['path']!r} stands in line {first} already. Remove one of the rows."
            refusals.append(Refusal(where, reason))
            continue
        recordings.append(recording)
        lines[recording.path] = line
    if not recordings and not refusals:
        raise DataError(f"{path} names no recordings. Add a row a file under the header {','.join(COLUMNS)}.")
    return Survey(tuple(sorted(recordings)), tuple(refusals))


def _parse(row: dict[str, str], base: Path, machine_type: str | None, section: str | None) -> Recording:
    if not row["path"]:
        raise DataError("The path is empty. Name a file, relative to the manifest.")
    file = Path(os.path.normpath(base / row["path"]))
    if not file.is_file():
        raise DataError(f"{row['path']!r} is no file beside the manifest. Correct the path or remove the row.")
    named = row["machine_type"] or machine_type
    if not named:
        raise DataError("No machine_type. Fill in the column, or say it for all rows with --machine-type.")
    recording = Recording(
        path=file,
        machine_type=check_name("machine type", named),
        section=check_name("section", row["section"] or section or DEFAULT_SECTION),
        domain=_one_of(Domain, "domain", row, Domain.SOURCE),
        split=_one_of(Split, "split", row, Split.TRAIN),
        condition=_one_of(Condition, "condition", row, Condition.NORMAL),
        attribute=check_name("attribute", row["attribute"]) if row["attribute"] else "",
        recording=row["recording"] or str(file),
        challenge=False,
    )
    if recording.split is Split.TRAIN and recording.condition is Condition.ANOMALY:
        raise DataError("An anomaly cannot be trained on. Say 'test' in the column 'split'.")
    return recording


def _one_of(words: type[_Word], column: str, row: dict[str, str], default: _Word) -> _Word:
    try:
        return words(row[column]) if row[column] else default
    except ValueError as error:
        known = " or ".join(repr(word.value) for word in words)
        raise DataError(f"{row[column]!r} is no {column}. Write {known}.") from error


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines with every column, empty where the manifest does not have it."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            unknown = [name for name in header if name not in COLUMNS]
            if "path" not in header or unknown or len(set(header)) != len(header):
                raise DataError(
                    f"{path}, line 1: the columns are {', '.join(map(repr, header)) or 'missing'}. Separated by "
                    f"commas, 'path' must stand there and each of {', '.join(COLUMNS[1:])} may, once"
                    + (f"; {unknown[0]!r} may not." if unknown else ".")
                )
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(header)} values are expected, as in the header. Quote "
                        "values that hold a comma."
                    )
                yield reader.line_num, {name: (row.get(name) or "").strip() for name in COLUMNS}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error}). Export it again as CSV, UTF-8.") from error


def draft_manifest(folder: Path, out: Path, *, machine_type: str | None = None, section: str | None = None) -> int:
    """Draft a manifest from ``<machine type>/<section>/<domain>/*`` or from one flat folder; returns the rows written.

    Raises
    ------
    DataError : where ``out`` exists, the folder holds no recordings, or they lie otherwise.
    InvalidName : for a folder or an option that cannot be a name.
    """
    if out.exists():
        raise DataError(f"{out} exists and is not overwritten. Name another file, or remove it.")
    files = sorted(f for f in folder.rglob("*") if is_clip_name(f.name) and f.is_file()) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no WAV, FLAC or OGG file. Name the folder with your recordings.")
    rows = [_draft(file, folder, machine_type, section) for file in files]
    base = out.parent.resolve()
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for file, row in zip(files, rows, strict=True):
        writer.writerow(
            {
                **row,
                "path": os.path.relpath(file.parent.resolve() / file.name, base),
                "split": "train",
                "condition": "normal",
            }
        )
    write_atomically(out, lambda target: target.write(text.getvalue().encode()))
    return len(rows)


def _draft(file: Path, folder: Path, machine_type: str | None, section: str | None) -> dict[str, str]:
    parts = file.relative_to(folder).parts[:-1]
    if len(parts) == 3:
        machine_type, section, domain = parts
        if domain not in set(Domain):
            raise DataError(f"{file}: the third folder is a domain, 'source' or 'target', not {domain!r}. Rename it.")
    elif not parts:
        domain = Domain.SOURCE.value
    else:
        raise DataError(
            f"{file} lies neither in <machine type>/<section>/<domain>/ nor directly in {folder}. Move it, or write "
            "the manifest by hand."
        )
    return {
        "machine_type": check_name("machine type", machine_type) if machine_type else "",
        "section": check_name("section", section or DEFAULT_SECTION),
        "domain": domain,
    }
