"""What a year of the challenge consists of, as its records on Zenodo tell it: files, sizes, checksums, licence.

``<api>/records/<id>`` answers, among much more, in the form that Zenodo's own serializer gives it (zenodo-rdm,
``legacy/serializers/schemas/zenodojson.py``; MD5 is the only checksum it knows)::

    {"metadata": {"title": "...", "license": {"id": "cc-by-nc-sa-4.0"}},
     "files": [{"key": "dev_data_fan.zip", "size": 1234567, "checksum": "md5:0123...",
                "links": {"self": "https://zenodo.org/api/records/4562016/files/dev_data_fan.zip/content"}}]}
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from models.errors import DataError, DownloadError
from training.download.catalogue import API, Part

_LABELS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(?:zip|csv)")
_ARCHIVE = re.compile(
    r"(?:dev_data|dev|eval_data)_(?:(?:train|test)_)?"
    r"(?P<machine_type>[A-Za-z0-9][A-Za-z0-9._-]*?)"
    r"(?:_(?:train|test))?(?:_r\d+)?\.zip"
)
"""``dev_data_fan.zip``, ``dev_fan.zip``, ``eval_data_train_fan.zip`` (2020), ``eval_data_fan_test.zip`` and, where an
archive was replaced, ``eval_data_3DPrinter_train_r2.zip``."""

_TITLE_LENGTH = 120


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a record. ``size``: bytes. ``md5``: 32 lower-case hex digits."""

    name: str
    size: int
    md5: str
    url: str


@dataclass(frozen=True, slots=True)
class Record:
    """A part of the data with its files. ``licence``: as its record names it, None where it does not."""

    part: Part
    number: int
    title: str
    licence: str | None
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that is wanted. ``machine_type``: as its name says it; None for labels, which are of all.

    Its name is made of letters, digits, dots, underscores and hyphens: it can be a file's name here.
    """

    part: Part
    number: int
    machine_type: str | None
    file: RemoteFile


class _File(BaseModel):
    key: str
    size: Annotated[int, Field(ge=0)]
    checksum: Annotated[str, StringConstraints(pattern=r"^md5:[0-9a-f]{32}$", to_lower=True)]
    links: dict[str, str]


class _Licence(BaseModel):
    id: str


class _Metadata(BaseModel):
    title: str = ""
    license: _Licence | str | None = None


class _Answer(BaseModel):
    metadata: _Metadata = _Metadata()
    files: list[_File]


def parse_record(part: Part, number: int, content: bytes) -> Record:
    """Read the API's answer for a record.

    Raises
    ------
    DownloadError : for an answer of another form, saying what is wrong with it.
    """
    try:
        answer = _Answer.model_validate_json(content)
        files = tuple(_remote_file(file) for file in answer.files)
    except (ValidationError, ValueError) as error:
        raise DownloadError(
            f"Record {number} is not answered in the form that Zenodo's API has ({_first_line(error)}). Name the API "
            f"itself with --api, for example {API}."
        ) from error
    licence = answer.metadata.license
    return Record(
        part=part,
        number=number,
        title=_printable(answer.metadata.title),
        licence=_printable(licence.id if isinstance(licence, _Licence) else licence or "") or None,
        files=files,
    )


def _remote_file(file: _File) -> RemoteFile:
    name = file.key.rsplit("/", 1)[-1]  # snapshots of repositories are called owner/name-version.zip
    url = file.links.get("content") or file.links.get("self")
    if not url:
        raise ValueError(f"{name} has no link")
    return RemoteFile(name, file.size, file.checksum.removeprefix("md5:"), url)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"
    return str(error)


def _printable(text: str) -> str:
    """What depositors write goes to a terminal: no control characters, no end."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= _TITLE_LENGTH else f"{text[:_TITLE_LENGTH]}..."


def select(records: Sequence[Record], machine_types: Sequence[str]) -> list[Archive]:
    """The archives of the machine types (all where none is named), and all labels.

    Raises
    ------
    DataError : for a machine type that none of the records has, naming those that they have.
    DownloadError : for a record without any archive that is named as the challenge names them.
    """
    archives = [archive for record in records for archive in _archives(record)]
    known = sorted({archive.machine_type for archive in archives if archive.machine_type})
    for machine_type in machine_types:
        if machine_type not in known:
            raise DataError(f"No archive is of machine type {machine_type!r}. There are: {', '.join(known) or 'none'}.")
    return [
        archive
        for archive in archives
        if archive.machine_type is None or not machine_types or archive.machine_type in machine_types
    ]


def _archives(record: Record) -> list[Archive]:
    archives = []
    for file in record.files:
        if record.part is Part.LABELS and _LABELS.fullmatch(file.name):
            archives.append(Archive(record.part, record.number, None, file))
        elif record.part is not Part.LABELS and (match := _ARCHIVE.fullmatch(file.name)):
            archives.append(Archive(record.part, record.number, match["machine_type"], file))
    if not archives:
        names = ", ".join(file.name for file in record.files) or "none"
        raise DownloadError(
            f"Record {record.number} ({record.part}) has no archive named as the challenge names them. Its files: "
            f"{names}. Fetch and unpack what you need by hand."
        )
    return archives
