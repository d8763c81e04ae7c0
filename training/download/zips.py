"""Reading archives that nobody here has made: every entry is judged before the first byte is written.

Refused, with all that is beside it: a path that leaves the folder (absolute, with a drive, ``..``), a backslash or a
control character in one, a link or a device, an encrypted entry, a file that is no clip, and an archive that would
swell beyond what recordings can. No clips, but no harm either, and left out: what the challenge ships beside them
(README, licence, ``attributes_*.csv``, which repeat what the names say) and what desktops leave (``__MACOSX``, names
with a leading dot).
"""

import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from models.errors import ArchiveRefused
from training.recordings import is_clip_name

MOST_SWELLING = 30
"""Bytes unpacked for a byte of the archive. Noise recorded in 16 bit gives 1.2 to 1.5, lists of labels 13."""

_ENCRYPTED = 0x1
_DOCUMENTS = frozenset({".csv", ".txt", ".md", ".pdf", ".html"})
_DOCUMENT_NAME = re.compile(r"(readme|licen[cs]e)([._-].*)?", re.IGNORECASE)
_DESKTOP = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_DRIVE = re.compile(r"[A-Za-z]:")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive, by its path in it, which is relative and stays below where it begins."""

    path: PurePosixPath
    info: ZipInfo

    @property
    def is_clip(self) -> bool:
        """Whether its name is a clip's."""
        return is_clip_name(self.path.name)

    @property
    def is_left_out(self) -> bool:
        """Whether it is known not to be needed."""
        return (
            any(part in _DESKTOP or part.startswith(".") for part in self.path.parts)
            or self.path.suffix.lower() in _DOCUMENTS
            or _DOCUMENT_NAME.fullmatch(self.path.name) is not None
        )


@contextmanager
def open_archive(path: Path) -> Iterator[ZipFile]:
    """Open a ZIP file; whatever is wrong with its bytes, now or while it is read, is said in a sentence.

    Raises
    ------
    ArchiveRefused : for what is no ZIP file, or damaged.
    """
    try:
        with ZipFile(path) as archive:
            yield archive
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise ArchiveRefused(
            f"{path} cannot be unpacked ({error}), though its checksum was right when it came. Remove it and start the "
            "command again; if that ends the same, its record is to blame."
        ) from error


def read_entries(archive: ZipFile, path: Path) -> list[Entry]:
    """All files of an archive; folders need no entries.

    Raises
    ------
    ArchiveRefused : for the first entry that must not be unpacked, naming it, and for a bomb.
    """
    entries = [entry for entry in (_checked(info, path) for info in archive.infolist()) if not entry.info.is_dir()]
    size, swollen = path.stat().st_size, sum(entry.info.file_size for entry in entries)
    if swollen > MOST_SWELLING * size:
        raise ArchiveRefused(
            f"{path} has {size} bytes and would become {swollen}, {swollen / size:.0f} times as many: recordings do "
            "not shrink so far. Nothing of it was unpacked."
        )
    return entries


def clips_among(entries: Sequence[Entry], path: Path) -> list[Entry]:
    """The clips; what is left out knowingly is not among them.

    Raises
    ------
    ArchiveRefused : for any other file.
    """
    for entry in entries:
        if not entry.is_clip and not entry.is_left_out:
            raise _refusal(path, entry.info, "is no clip (.wav, .flac, .ogg)")
    return [entry for entry in entries if entry.is_clip and not entry.is_left_out]


def extract(archive: ZipFile, path: Path, entry: Entry, out: BinaryIO) -> None:
    """Write a file of an archive.

    Raises
    ------
    ArchiveRefused : where it does not have the length that the archive declares.
    """
    written = 0
    with archive.open(entry.info) as content:  # zipfile reads no byte beyond the declared length
        while piece := content.read(_CHUNK):
            written += len(piece)
            out.write(piece)
    if written != entry.info.file_size:
        raise _refusal(path, entry.info, f"ends after {written} of {entry.info.file_size} bytes")


def _checked(info: ZipInfo, path: Path) -> Entry:
    name = info.orig_filename  # as it stands there: ``filename`` has been cut at a NUL already
    kind = stat.S_IFMT(info.external_attr >> 16)
    if "\\" in name or not name.isprintable():
        raise _refusal(path, info, "has a backslash or a control character in its path")
    if name.startswith("/") or _DRIVE.match(name) or ".." in PurePosixPath(name).parts:
        raise _refusal(path, info, "leads out of the folder")
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _refusal(path, info, "is a link or a special file")
    if info.flag_bits & _ENCRYPTED:
        raise _refusal(path, info, "is encrypted")
    if info.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise _refusal(path, info, f"is compressed by method {info.compress_type}, not stored or deflated")
    return Entry(PurePosixPath(name), info)


def _refusal(path: Path, info: ZipInfo, reason: str) -> ArchiveRefused:
    return ArchiveRefused(
        f"{path}: its entry {info.orig_filename!r} {reason}. Nothing of it was unpacked. The archive is what its "
        "record says, so the record is to blame: tell its authors, and unpack by hand what you trust."
    )
