"""From verified archives to the tree: each folder appears whole, and what is done is not done again.

An archive is unpacked into a tree of its own, which is synced to the disk; then a marker names its folders; then each
folder is renamed to its place; then the archive goes, and the marker says so. Killed anywhere between, the next run
knows what is left to do.
"""

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

from models.errors import ArchiveRefused, DataError, DownloadError
from models.folders import sync_folder
from training.download.labels import ground_truth_among, split_list_2020
from training.download.places import Place, as_size
from training.download.records import Archive
from training.download.zips import Entry, clips_among, extract, open_archive, read_entries
from training.recordings import survey
from training.storage import write_atomically


class State(Enum):
    """How far an archive has come."""

    WANTED = auto()
    STAGED = auto()
    """Unpacked, but not every folder is in its place."""
    UNPACKED = auto()


@dataclass(frozen=True, slots=True)
class Marker:
    """What became of the archive with this ``md5``: its ``folders``, relative to OUT, and whether all are in place."""

    md5: str
    folders: tuple[str, ...]
    placed: bool

    def write(self, path: Path) -> None:
        """Write it durably."""
        content = json.dumps(asdict(self), indent=2).encode()
        write_atomically(path, lambda file: file.write(content))
        sync_folder(path.parent)

    @staticmethod
    def read(path: Path) -> "Marker | None":
        """The marker, None where there is none; raises `DownloadError` for one that somebody else has written."""
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_bytes())
            return Marker(content["md5"], tuple(content["folders"]), content["placed"])
        except (ValueError, KeyError, TypeError) as error:
            raise DownloadError(
                f"{path} is not what says that an archive is unpacked. Remove it and what the archive became, and "
                "start the command again."
            ) from error


def state_of(place: Place, md5: str) -> State:
    """How far the archive has come.

    Raises
    ------
    DownloadError : where a folder that it became is gone.
    """
    marker = Marker.read(place.marker)
    if marker is None or marker.md5 != md5:
        return State.WANTED
    gone = [folder for folder in marker.folders if not (place.out / folder).is_dir()]
    if not marker.placed:
        return State.STAGED if all((place.staging / folder).is_dir() for folder in gone) else State.WANTED
    if gone:
        others = ", ".join(folder for folder in marker.folders if folder not in gone) or "nothing else"
        raise DownloadError(
            f"{place.out / gone[0]}, which {place.name} became, is gone. To have it again remove {place.marker} and "
            f"what else the archive became ({others}), and start the command again."
        )
    return State.UNPACKED


def unpack(archive: Archive, place: Place, *, keep: bool, stopped: threading.Event) -> None:
    """Unpack a fetched archive into the tree, or go on with it; then remove it unless it is to be kept.

    Raises
    ------
    ArchiveRefused : where it holds what must not be unpacked; the tree is as it was.
    DownloadError : where the disk is too small, or a folder that it becomes is there already.
    """
    if state_of(place, archive.file.md5) is State.WANTED:
        shutil.rmtree(place.staging, ignore_errors=True)
        try:
            _stage(archive, place, stopped)
        except BaseException:
            shutil.rmtree(place.staging, ignore_errors=True)
            raise
        os.sync()  # once an archive: to sync each of thousands of clips by itself takes ten times as long
        folders = {folder.relative_to(place.staging).as_posix() for folder in _folders_of_files(place.staging)}
        Marker(archive.file.md5, tuple(sorted(folders)), placed=False).write(place.marker)
    marker = Marker.read(place.marker)
    assert marker is not None
    for folder in marker.folders:
        _put_in_place(place.staging / folder, place.out / folder, place)
    if not keep:
        place.archive.unlink(missing_ok=True)
    shutil.rmtree(place.staging, ignore_errors=True)  # nothing but empty folders, if an earlier run has not got there
    Marker(marker.md5, marker.folders, placed=True).write(place.marker)


def _put_in_place(staged: Path, final: Path, place: Place) -> None:
    if not staged.is_dir():
        return  # an earlier run has renamed it
    if final.exists():
        raise DownloadError(
            f"{final} is there already, and {place.name} did not become it. Remove it, or download into a folder of "
            "its own."
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(final)
    sync_folder(final.parent)


def _folders_of_files(root: Path) -> set[Path]:
    return {path.parent for path in root.rglob("*") if path.is_file()}


def _stage(archive: Archive, place: Place, stopped: threading.Event) -> None:
    """Write the tree that the archive becomes under ``place.staging``."""
    root = place.staging / archive.part.folder
    if place.archive.suffix == ".csv":
        text = place.archive.read_text("utf-8-sig", errors="replace")
        for name, content in split_list_2020(text, place.name).items():
            with _new_file(root / name) as out:
                out.write(content.encode())
        return
    with open_archive(place.archive) as zipped:
        entries = read_entries(zipped, place.archive)
        if archive.machine_type is None:
            chosen = [(entry.path.name, entry) for entry in ground_truth_among(entries, place.archive)]
        else:
            clips = clips_among(entries, place.archive)
            chosen = [(_path_of_clip(archive.machine_type, entry), entry) for entry in clips]
        _require_distinct(place, [name for name, _ in chosen])
        _require_room(place, sum(entry.info.file_size for _, entry in chosen))
        for name, entry in chosen:
            if stopped.is_set():
                raise DownloadError(f"{place.name}: stopped while it was being unpacked. Start the same command again.")
            with _new_file(root / name) as out:
                extract(zipped, place.archive, entry, out)
    if archive.machine_type is not None:
        _require_recordings(place)


def _path_of_clip(machine_type: str, entry: Entry) -> str:
    """``<machine type>/<train, test, ...>/<name>``, however deep in the archive it lies, or without the first."""
    return "/".join((machine_type, *entry.path.parts)[-3:])


def _new_file(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _require_room(place: Place, needed: int) -> None:
    free = shutil.disk_usage(place.out).free
    if needed > free:
        raise DownloadError(
            f"{place.name} becomes {as_size(needed)}, and {place.out} has {as_size(free)} free. Make room, and start "
            "the same command again."
        )


def _require_distinct(place: Place, names: Sequence[str]) -> None:
    name, count = Counter(name.casefold() for name in names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise ArchiveRefused(f"{place.archive} holds {name} {count} times. Nothing of it was unpacked: look into it.")


def _require_recordings(place: Place) -> None:
    """As `training.recordings.read_recordings` will read it."""
    try:
        recordings = survey([place.staging]).recordings
    except DataError:
        recordings = ()
    if not recordings:
        raise ArchiveRefused(
            f"{place.archive} holds no recordings in a layout that any year of the challenge has (<machine type>/train/"
            "section_00_source_train_normal_0000_<attribute>.wav). Nothing of it was unpacked: look into it by hand."
        )
