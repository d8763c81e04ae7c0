"""Files that are written whole or not at all, and locks on folders; folders have their tests with the bundles."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from models.folders import locked, replace_file


def test_a_replacement_that_may_not_last_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told that it failed finds what was there before, or nothing, and no other file."""
    old, new = tmp_path / "old", tmp_path / "new"
    replace_file(old, b"before", mode=0o600)
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    for file in (old, new):
        with pytest.raises(OSError, match="Input/output error"):
            replace_file(file, b"after")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"old": b"before"}
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


def test_a_lock_is_waited_for_as_long_as_is_said(tmp_path: Path) -> None:
    """And no longer; without a word it is not waited for at all."""
    with locked(tmp_path):
        for patience_s in (0.0, 0.05):
            begun = time.monotonic()
            with pytest.raises(BlockingIOError), locked(tmp_path, patience_s):
                pass
            assert time.monotonic() - begun >= patience_s
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path):
            held.set()
            let_go.wait(60.0)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60.0)
    threading.Timer(0.05, let_go.set).start()
    with locked(tmp_path, 60.0):
        assert let_go.is_set()
    holder.join()
