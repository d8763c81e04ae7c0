"""Folders and files that are written whole or not at all; folders never change after.

A folder is written under a hidden name beside its place, synced to the disk and renamed. Its writer holds a lock on it,
which the kernel lets go when the writer dies: so the next writer can tell what a killed one left behind from what
another is writing at this moment.
"""

import fcntl
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from models.errors import BundleDigestError, BundleError

_LOOK_S = 0.01
"""How often a lock that another holds is tried."""


def write_folder(folder: Path, files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> None:
    """Write ``files`` as ``folder``, which must not exist yet.

    ``files``: relative path and content, each asked for only when it is written. Whenever the process is killed, or the
    machine goes down, there is either no ``folder`` or the whole one.

    Raises
    ------
    BundleError : where the folder exists, or the disk refuses.
    """
    _refuse_existing(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir()
        try:
            with locked(partial):
                _fill(partial, files.items() if isinstance(files, Mapping) else files)
                _refuse_existing(folder)
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise BundleError(
            folder, f"cannot be written ({error.strerror}). Check the disk's free space and the folder's permissions."
        ) from error


def replace_file(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write ``content`` as ``file``, whole or not at all; once this returns it lasts, should the machine go down.

    Raises
    ------
    OSError : where the disk refuses; ``file`` is what it was then.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial, before = (file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial") for _ in range(2))
    try:
        with suppress(FileNotFoundError):
            _create(before, file.read_bytes(), stat.S_IMODE(file.stat().st_mode))
        _create(partial, content, mode)
        partial.replace(file)
        try:
            sync_folder(file.parent)
        except OSError:  # who is told so must not find the new content all the same
            if before.exists():
                before.replace(file)
            else:
                file.unlink()
            raise
    finally:
        partial.unlink(missing_ok=True)
        before.unlink(missing_ok=True)


def _create(file: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as written:
        written.write(content)
        written.flush()
        os.fsync(descriptor)


def list_folder(folder: Path) -> frozenset[str]:
    """Relative paths of all files under ``folder``, which holds nothing else: no link, no device.

    Raises
    ------
    BundleDigestError : for a link or a special file, naming it.
    """
    files: set[str] = set()
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise BundleDigestError(path, "a bundle holds plain files only, no links. Get the bundle again.")
        files.update(Path(parent, name).relative_to(folder).as_posix() for name in names)
    return frozenset(files)


def _refuse_existing(folder: Path) -> None:
    if os.path.lexists(folder):
        raise BundleError(
            folder, "already exists, and a bundle is never overwritten. Choose another name or remove it."
        )


def _fill(partial: Path, files: Iterable[tuple[str, bytes]]) -> None:
    folders = {partial}
    for name, content in files:
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in path.parents if parent.is_relative_to(partial))
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for folder in folders:
        sync_folder(folder)


def _remove_leftovers(folder: Path) -> None:
    leftover = re.compile(re.escape(f".{folder.name}.") + r"[0-9a-f]{32}\.partial")
    for path in folder.parent.iterdir():
        if leftover.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            try:
                with locked(path):
                    shutil.rmtree(path)
            except (BlockingIOError, FileNotFoundError):
                continue  # another process is writing it, or was faster


@contextmanager
def locked(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock on ``folder``. Raises `BlockingIOError` where another process, or this one, holds it for so long."""
    until = time.monotonic() + patience_s
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Let the disk know the names in ``folder``: a rename lasts only then, should the machine go down."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
